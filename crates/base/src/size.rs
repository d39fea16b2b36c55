use std::{fmt, str::FromStr};

/// A number of bytes, written in configuration as `512B`, `64KiB`, `8MiB` or `2GiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    pub const fn kib(n: u64) -> ByteSize {
        ByteSize(n << 10)
    }

    pub const fn mib(n: u64) -> ByteSize {
        ByteSize(n << 20)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }
}

const UNITS: [(&str, u32); 4] = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = UNITS
            .into_iter()
            .find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift))
            .unwrap_or(("B", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

/// A text that is not a byte size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a size: write a whole number and a unit, e.g. 512B, 64KiB, 8MiB or 2GiB")]
pub struct ParseByteSizeError {
    text: String,
}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    fn from_str(text: &str) -> Result<ByteSize, ParseByteSizeError> {
        let error = || ParseByteSizeError { text: text.to_owned() };
        let trimmed = text.trim();
        let (unit, shift) = UNITS
            .into_iter()
            .find(|(unit, _)| trimmed.ends_with(unit))
            .ok_or_else(error)?;
        let digits = trimmed[..trimmed.len() - unit.len()].trim_end();
        let number: u64 = digits.parse().map_err(|_| error())?;
        number.checked_mul(1 << shift).map(ByteSize).ok_or_else(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_survives_being_written_and_read() {
        for size in [
            ByteSize(0),
            ByteSize(1),
            ByteSize(1536),
            ByteSize::kib(64),
            ByteSize::mib(8),
            ByteSize(3 << 30),
        ] {
            assert_eq!(size.to_string().parse(), Ok(size), "{size}");
        }
        assert_eq!(ByteSize(1536).to_string(), "1536B");
        assert_eq!(ByteSize::mib(512).to_string(), "512MiB");
    }

    #[test]
    fn nonsense_and_overflow_are_refused() {
        for text in ["", "8", "8 mb", "-1KiB", "1.5GiB", "99999999999GiB", "KiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
