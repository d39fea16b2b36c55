use std::{fmt, sync::Arc};

/// The longest [`FileName`], in bytes.
const LEN_MAX: usize = 64;

/// A file in a [`Disk`](crate::Disk)'s flat directory: `[a-z0-9.-]{1,64}`, not starting with a dot. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(Arc<str>);

/// A name that no file of ours has.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("file name {name:?} is not of the form [a-z0-9.-]{{1,64}} without a leading dot")]
pub struct FileNameError {
    pub name: String,
}

impl FileName {
    /// # Errors
    /// When `name` is empty, longer than 64 bytes, starts with a dot, or has a character outside `[a-z0-9.-]`.
    pub fn new(name: &str) -> Result<FileName, FileNameError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
        if name.is_empty() || name.len() > LEN_MAX || name.starts_with('.') || !name.bytes().all(allowed) {
            // A hostile name is cut before it is copied into an error.
            let cut = name.chars().take(LEN_MAX).collect();
            return Err(FileNameError { name: cut });
        }
        Ok(FileName(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_never_leave_the_directory_or_hide_in_it() {
        for bad in ["", ".", "..", ".hidden", "a/b", "A", "a b", "a\0", &"x".repeat(65)] {
            assert!(FileName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "wal-0000000000000001.log", &"x".repeat(64)] {
            assert_eq!(FileName::new(good).expect("a good name").as_str(), good);
        }
    }
}
