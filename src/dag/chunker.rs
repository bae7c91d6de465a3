//! Where a file is cut into leaves: today at every N bytes.
//!
//! Content-defined chunkers (`rabin`, `buzhash`) are named so that asking for them says what is missing.

use std::{fmt, str::FromStr};

use super::DagError;

/// The largest chunk, in bytes: 2 MiB less room for what wraps it (Kubo's limit, protocols.md §3.5).
pub const CHUNK_BYTES_MAX: u32 = 2 * 1024 * 1024 - 256;

/// A way to cut a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunker {
    bytes: u32,
}

impl Chunker {
    /// Reads Kubo's notation: `size-N` with 1 ≤ N ≤ [`CHUNK_BYTES_MAX`].
    ///
    /// # Errors
    /// [`DagError::Chunker`] with what would be right.
    pub fn parse(text: &str) -> Result<Self, DagError> {
        let error = |reason| DagError::Chunker { text: text.to_owned(), reason };
        if text.starts_with("rabin") || text.starts_with("buzhash") {
            return Err(error("content-defined chunkers are not supported; use size-N, such as size-1048576"));
        }
        let digits = text.strip_prefix("size-").ok_or_else(|| error("unknown; use size-N, such as size-1048576"))?;
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        match digits.parse() {
            Ok(bytes) if is_number && (1..=CHUNK_BYTES_MAX).contains(&bytes) => Ok(Self { bytes }),
            _ => Err(error("N of size-N is a number of bytes from 1 to 2096896")),
        }
    }

    /// Bytes in every chunk but the last.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.bytes
    }
}

impl FromStr for Chunker {
    type Err = DagError;

    fn from_str(text: &str) -> Result<Self, DagError> {
        Self::parse(text)
    }
}

impl fmt::Display for Chunker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "size-{}", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_up_to_the_limit_are_read() {
        for (text, bytes) in [("size-1", 1), ("size-262144", 262_144), ("size-2096896", CHUNK_BYTES_MAX)] {
            let chunker = Chunker::parse(text).unwrap();
            assert_eq!((chunker.bytes(), chunker.to_string().as_str()), (bytes, text));
        }
    }

    #[test]
    fn everything_else_says_what_would_be_right() {
        for text in
            ["size-0", "size-2096897", "size--1", "size-+1", "size-", "size-1k", "", "262144", "size-99999999999"]
        {
            assert!(Chunker::parse(text).unwrap_err().to_string().contains("size-N"), "{text}");
        }
        for text in ["rabin", "rabin-1-2-3", "buzhash"] {
            assert!(Chunker::parse(text).unwrap_err().to_string().contains("not supported"), "{text}");
        }
    }
}
