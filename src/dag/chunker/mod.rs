//! Where a file is cut into leaves: at every N bytes, or where its content says so.
//!
//! A content-defined cut depends on nothing before the chunk's own first byte, so a file is cut by asking for the next
//! chunk again and again ([`Chunker::cut`]). Nothing is read here.

mod buzhash;
mod rabin;

use std::{fmt, str::FromStr};

use super::DagError;

/// The largest chunk, in bytes: 2 MiB less room for what wraps it (Kubo's limit, protocols.md §3.5).
pub const CHUNK_BYTES_MAX: u32 = 2 * 1024 * 1024 - 256;

/// Kubo's default for `size` and for the average of `rabin`, in bytes.
const BYTES_DEFAULT: u32 = 262_144;

/// A way to cut a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunker {
    /// Every chunk but the last has so many bytes, from 1 to [`CHUNK_BYTES_MAX`].
    Size(u32),
    /// By Rabin's fingerprint. 16 ≤ min < average < max ≤ [`CHUNK_BYTES_MAX`], in bytes.
    Rabin {
        /// The shortest chunk but the last.
        min: u32,
        /// About how long chunks are beyond the shortest: a power of two, else the next lower one counts.
        average: u32,
        /// The longest chunk.
        max: u32,
    },
    /// By a cyclic polynomial: 128 to 512 KiB.
    Buzhash,
}

impl Chunker {
    /// Reads Kubo's notation: `size-N`, `rabin`, `rabin-AVERAGE`, `rabin-MIN-AVERAGE-MAX`, `buzhash`, `default`.
    ///
    /// # Errors
    /// [`DagError::Chunker`] with what would be right.
    pub fn parse(text: &str) -> Result<Self, DagError> {
        let error = |reason| Err(DagError::Chunker { text: text.to_owned(), reason });
        let mut parts = text.split('-');
        let name = parts.next().unwrap_or_default();
        let numbers: Option<Vec<u32>> = parts.map(number).collect();
        match (name, numbers.as_deref()) {
            ("default", Some([])) => Ok(Self::Size(BYTES_DEFAULT)),
            ("buzhash", Some([])) => Ok(Self::Buzhash),
            ("size", Some(&[bytes])) if (1..=CHUNK_BYTES_MAX).contains(&bytes) => Ok(Self::Size(bytes)),
            ("size", _) => error("N of size-N is a number of bytes from 1 to 2096896"),
            ("rabin", Some([])) => {
                Self::rabin(text, BYTES_DEFAULT / 3, BYTES_DEFAULT, BYTES_DEFAULT + BYTES_DEFAULT / 2)
            }
            ("rabin", Some(&[average])) => Self::rabin(text, average / 3, average, average.saturating_add(average / 2)),
            ("rabin", Some(&[min, average, max])) => Self::rabin(text, min, average, max),
            ("rabin", _) => error("write rabin, rabin-AVERAGE or rabin-MIN-AVERAGE-MAX, in bytes"),
            _ => error("unknown; use size-N, such as size-1048576, rabin or buzhash"),
        }
    }

    fn rabin(text: &str, min: u32, average: u32, max: u32) -> Result<Self, DagError> {
        let error = |reason| Err(DagError::Chunker { text: text.to_owned(), reason });
        if (min as usize) < rabin::WINDOW {
            return error("chunks of rabin have at least 16 bytes");
        }
        if min >= average || average >= max {
            return error("the shortest chunk must be shorter than the average, and that than the longest");
        }
        if max > CHUNK_BYTES_MAX {
            return error("the longest chunk has at most 2096896 bytes");
        }
        Ok(Self::Rabin { min, average, max })
    }

    /// The length of every chunk but the last, where they all have one.
    #[must_use]
    pub const fn fixed(self) -> Option<u32> {
        match self {
            Self::Size(bytes) => Some(bytes),
            Self::Rabin { .. } | Self::Buzhash => None,
        }
    }

    /// The longest chunk, in bytes.
    #[must_use]
    pub const fn bytes_max(self) -> u32 {
        match self {
            Self::Size(bytes) => bytes,
            Self::Rabin { max, .. } => max,
            Self::Buzhash => buzhash::BYTES_MAX,
        }
    }

    /// The length of the next chunk. `window` holds what follows in the file: at least [`Self::bytes_max`] bytes, or all
    /// that is left. 0 only of nothing.
    #[must_use]
    pub fn cut(self, window: &[u8]) -> usize {
        match self {
            Self::Size(bytes) => window.len().min(bytes as usize),
            Self::Rabin { min, average, max } => rabin::cut(window, min as usize, average, max as usize),
            Self::Buzhash => buzhash::cut(window),
        }
    }
}

/// A number of bytes, perhaps with the label that Kubo allows in front (`min:`, `avg:`, `max:`).
fn number(text: &str) -> Option<u32> {
    let digits = text.split_once(':').map_or(text, |(_, digits)| digits);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

impl FromStr for Chunker {
    type Err = DagError;

    fn from_str(text: &str) -> Result<Self, DagError> {
        Self::parse(text)
    }
}

impl fmt::Display for Chunker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(bytes) => write!(f, "size-{bytes}"),
            Self::Rabin { min, average, max } => write!(f, "rabin-{min}-{average}-{max}"),
            Self::Buzhash => f.write_str("buzhash"),
        }
    }
}

#[cfg(test)]
mod tests {
    use orion::hazardous::stream::chacha20::{ChaCha20, Nonce, SecretKey};
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    fn keystream(seed: &str, bytes: usize) -> Vec<u8> {
        let key: [u8; 32] = Sha256::digest(seed).into();
        let mut out = vec![0; bytes];
        ChaCha20::new(&SecretKey::from(key), &Nonce::from([0; 12])).xor_keystream_into(&mut out).unwrap();
        out
    }

    fn cuts(chunker: Chunker, mut file: &[u8]) -> Vec<usize> {
        let mut cuts = Vec::new();
        while !file.is_empty() {
            let length = chunker.cut(&file[..file.len().min(chunker.bytes_max() as usize)]);
            cuts.push(length);
            file = &file[length..];
        }
        cuts
    }

    /// vectors/boxo/cdc_derived.json, confirmed by Kubo.
    #[test]
    fn cuts_are_those_of_kubo() {
        let file = keystream("buzhash-vec", 700_001);
        assert_eq!(cuts(Chunker::Buzhash, &file), [156_835, 157_449, 152_366, 151_190, 82_161]);
        let file = keystream("rabin-vec", 4_194_304);
        let found = cuts("rabin".parse().unwrap(), &file);
        let known = [
            229_386, 255_324, 393_216, 103_642, 393_216, 362_187, 280_661, 393_216, 393_216, 393_216, 393_216, 143_966,
        ];
        assert_eq!(found[..12], known);
        let found = cuts("rabin-16384-65536-131072".parse().unwrap(), &file[..1_048_576]);
        let known = [
            17_336, 40_606, 17_942, 18_087, 131_072, 45_129, 131_072, 32_446, 46_019, 131_072, 131_072, 36_226,
            131_072, 72_417, 67_008,
        ];
        assert_eq!(found, known);
    }

    /// Rabin's fingerprint of the last 16 bytes, bit by bit.
    fn naive_fingerprint(bytes: &[u8]) -> u64 {
        let bits = bytes[bytes.len() - 16..].iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
        bits.fold(0, |hash, bit| {
            let hash = hash << 1 | u64::from(bit);
            if hash >> 53 == 1 { hash ^ 17_437_180_132_763_653 } else { hash }
        })
    }

    proptest! {
        /// Up to three rounds side by side and a rest, with boundaries from frequent to none.
        #[test]
        fn rabin_cuts_by_its_definition(
            seed in "[a-z]{4}", bytes in 1_usize..30_000, min in 16_u32..9000, bits in 5_u32..17,
        ) {
            let file = keystream(&seed, bytes);
            let (average, max) = ((1 << bits) + (1 << bits) / 3, 28_000);
            let end = bytes.min(max as usize);
            let is_boundary = |length: &usize| naive_fingerprint(&file[..*length]) & ((1 << bits) - 1) == 0;
            let first = (min as usize..end).find(is_boundary).unwrap_or(end);
            prop_assert_eq!(Chunker::Rabin { min, average, max }.cut(&file), first);
        }

        #[test]
        fn every_byte_is_in_one_chunk_and_chunks_keep_their_bounds(
            seed in "[a-z]{4}", bytes in 0_usize..700_000, kind in 0_usize..3,
        ) {
            let chunker: Chunker = ["size-1000", "rabin-100-1000-3000", "buzhash"][kind].parse().unwrap();
            let found = cuts(chunker, &keystream(&seed, bytes));
            prop_assert_eq!(found.iter().sum::<usize>(), bytes);
            let min = [1000, 100, 128 << 10][kind];
            let short = found.iter().filter(|length| **length < min).count();
            prop_assert!(short <= 1 && found.iter().all(|length| *length <= chunker.bytes_max() as usize));
        }
    }

    #[test]
    fn kubos_notation_is_read() {
        for (text, chunker, shown) in [
            ("size-1", Chunker::Size(1), "size-1"),
            ("size-2096896", Chunker::Size(CHUNK_BYTES_MAX), "size-2096896"),
            ("default", Chunker::Size(262_144), "size-262144"),
            ("rabin", Chunker::Rabin { min: 87_381, average: 262_144, max: 393_216 }, "rabin-87381-262144-393216"),
            ("rabin-900", Chunker::Rabin { min: 300, average: 900, max: 1350 }, "rabin-300-900-1350"),
            ("rabin-min:16-avg:20-max:30", Chunker::Rabin { min: 16, average: 20, max: 30 }, "rabin-16-20-30"),
            ("buzhash", Chunker::Buzhash, "buzhash"),
        ] {
            assert_eq!(Chunker::parse(text), Ok(chunker), "{text}");
            assert_eq!(chunker.to_string(), shown);
        }
    }

    #[test]
    fn everything_else_says_what_would_be_right() {
        for (text, advice) in [
            ("size-0", "size-N"),
            ("size-2096897", "size-N"),
            ("size--1", "size-N"),
            ("size-+1", "size-N"),
            ("size-", "size-N"),
            ("size-1k", "size-N"),
            ("size-99999999999", "size-N"),
            ("", "size-N"),
            ("262144", "size-N"),
            ("rabin-1-2", "rabin-MIN-AVERAGE-MAX"),
            ("rabin-15-20-30", "16"),
            ("rabin-16-16-30", "average"),
            ("rabin-16-30-30", "average"),
            ("rabin-16-40-30", "average"),
            ("rabin-2096897", "2096896"),
            ("buzhash-1", "buzhash"),
        ] {
            assert!(Chunker::parse(text).unwrap_err().to_string().contains(advice), "{text}");
        }
    }
}
