use std::fmt;

/// A stable code for an error that a user can meet: an area of two to four capitals and four digits, e.g. `TX0007`.
///
/// Each code has a page `docs/errors/<code>.md`; `cargo xtask tidy` checks that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode {
    area: &'static str,
    number: u16,
}

impl ErrorCode {
    /// # Panics
    /// At compile time in a constant: when `area` is not two to four capitals or `number` has more than four digits.
    pub const fn new(area: &'static str, number: u16) -> ErrorCode {
        let bytes = area.as_bytes();
        assert!(bytes.len() >= 2 && bytes.len() <= 4, "an area has two to four letters");
        let mut i = 0;
        while i < bytes.len() {
            assert!(bytes[i].is_ascii_uppercase(), "an area is written in capitals");
            i += 1;
        }
        assert!(number <= 9999, "a code has four digits");
        ErrorCode { area, number }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:04}", self.area, self.number)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether doing the same again can help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retryable {
    /// Nothing happened and it may work later.
    Yes,
    /// The same request will fail again.
    No,
    /// The outcome is uncertain: it may have happened.
    Unknown,
}

impl fmt::Display for Retryable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Retryable::Yes => "yes",
            Retryable::No => "no",
            Retryable::Unknown => "unknown",
        })
    }
}
