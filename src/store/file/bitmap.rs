//! Which leaves of a file are there: one bit a leaf, set and read by many threads at once.
//!
//! Pure. Cut into segments of [`SEGMENT_LEAVES`], which is what the index stores under one key. The number of set bits
//! is kept beside them: it is exact whenever nobody is in the middle of a change.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Leaves of a segment: its 4096 bytes fit an overflow page of the index, so an epoch's commit touches few pages.
pub(crate) const SEGMENT_LEAVES: u64 = SEGMENT_WORDS as u64 * 64;
const SEGMENT_WORDS: usize = 512;
/// Bytes of a stored segment. A last segment that is shorter is stored at full length, with zeros.
pub(crate) const SEGMENT_BYTES: usize = SEGMENT_WORDS * 8;

#[derive(Debug)]
pub(crate) struct Bitmap {
    words: Box<[AtomicU64]>,
    len: u64,
    count: AtomicU64,
}

impl Bitmap {
    /// All bits clear.
    pub(crate) fn new(len: u64) -> Self {
        let words = usize::try_from(len.div_ceil(64)).expect("a bitmap fits the address space");
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), len, count: AtomicU64::new(0) }
    }

    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// How many bits are set.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) const fn segments(&self) -> u64 {
        self.len.div_ceil(SEGMENT_LEAVES)
    }

    /// False for what is out of range.
    pub(crate) fn get(&self, bit: u64) -> bool {
        bit < self.len && self.word(bit).load(Ordering::Acquire) & mask(bit) != 0
    }

    /// Sets a bit; true if it was clear.
    pub(crate) fn set(&self, bit: u64) -> bool {
        assert!(bit < self.len, "bit {bit} of {}", self.len);
        let fresh = self.word(bit).fetch_or(mask(bit), Ordering::AcqRel) & mask(bit) == 0;
        if fresh {
            self.count.fetch_add(1, Ordering::AcqRel);
        }
        fresh
    }

    /// Clears a bit; true if it was set.
    pub(crate) fn clear(&self, bit: u64) -> bool {
        assert!(bit < self.len, "bit {bit} of {}", self.len);
        let had = self.word(bit).fetch_and(!mask(bit), Ordering::AcqRel) & mask(bit) != 0;
        if had {
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
        had
    }

    /// The clear bits of a range, in order.
    pub(crate) fn missing(&self, range: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        let end = range.end.min(self.len);
        let mut at = range.start;
        std::iter::from_fn(move || {
            while at < end {
                // Clear bits at or after `at` in its word.
                let clear = !self.word(at).load(Ordering::Acquire) & (u64::MAX << (at % 64));
                let word_start = at - at % 64;
                if clear == 0 {
                    at = word_start + 64;
                    continue;
                }
                let found = word_start + u64::from(clear.trailing_zeros());
                at = found + 1;
                return (found < end).then_some(found);
            }
            None
        })
    }

    /// How many bits of a range are clear.
    pub(crate) fn missing_count(&self, range: Range<u64>) -> u64 {
        let end = range.end.min(self.len);
        let mut at = range.start;
        let mut missing = 0;
        while at < end {
            let upto = end.min(at - at % 64 + 64);
            let width = upto - at;
            let within = if width == 64 { u64::MAX } else { ((1 << width) - 1) << (at % 64) };
            missing += u64::from((!self.word(at).load(Ordering::Acquire) & within).count_ones());
            at = upto;
        }
        missing
    }

    /// A segment as it is stored: bit `i` of the segment is bit `i % 8` of byte `i / 8`.
    pub(crate) fn segment(&self, segment: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_BYTES);
        for word in self.segment_words(segment) {
            bytes.extend_from_slice(&word.load(Ordering::Acquire).to_le_bytes());
        }
        bytes.resize(SEGMENT_BYTES, 0);
        bytes
    }

    /// Sets what a stored segment has set. `None` if it has another length or bits beyond the end.
    pub(crate) fn merge_segment(&self, segment: u64, bytes: &[u8]) -> Option<()> {
        if bytes.len() != SEGMENT_BYTES || segment >= self.segments() {
            return None;
        }
        let (words, []) = bytes.as_chunks::<8>() else { return None };
        for (i, word) in (0_u64..).zip(words) {
            let mut rest = u64::from_le_bytes(*word);
            while rest != 0 {
                let bit = segment * SEGMENT_LEAVES + i * 64 + u64::from(rest.trailing_zeros());
                if bit >= self.len {
                    return None;
                }
                self.set(bit);
                rest &= rest - 1;
            }
        }
        Some(())
    }

    fn segment_words(&self, segment: u64) -> &[AtomicU64] {
        let start = usize::try_from(segment).map_or(usize::MAX, |s| s.saturating_mul(SEGMENT_WORDS));
        let end = start.saturating_add(SEGMENT_WORDS).min(self.words.len());
        self.words.get(start..end).unwrap_or_default()
    }

    fn word(&self, bit: u64) -> &AtomicU64 {
        &self.words[(bit / 64) as usize]
    }
}

const fn mask(bit: u64) -> u64 {
    1 << (bit % 64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn behaves_like_a_set_of_numbers(
            len in 1_u64..70_000,
            steps in proptest::collection::vec((any::<bool>(), any::<u64>()), 0..400),
            from in any::<u64>(), to in any::<u64>(),
        ) {
            let bitmap = Bitmap::new(len);
            let mut oracle = BTreeSet::new();
            for (set, number) in steps {
                // Half of the bits are near each other, so that words and segments fill.
                let bit = if number % 2 == 0 { number % len } else { (number >> 32) % len.min(200) };
                if set {
                    prop_assert_eq!(bitmap.set(bit), oracle.insert(bit));
                } else {
                    prop_assert_eq!(bitmap.clear(bit), oracle.remove(&bit));
                }
            }
            prop_assert_eq!(bitmap.count(), oracle.len() as u64);
            let range = from % len..to % (len + 100);
            let missing: Vec<u64> = (range.start..range.end.min(len)).filter(|b| !oracle.contains(b)).collect();
            prop_assert_eq!(bitmap.missing_count(range.clone()), missing.len() as u64);
            prop_assert_eq!(bitmap.missing(range).collect::<Vec<_>>(), missing);
            // Stored and read again it is the same.
            let copy = Bitmap::new(len);
            for segment in 0..bitmap.segments() {
                prop_assert!(copy.merge_segment(segment, &bitmap.segment(segment)).is_some());
            }
            prop_assert_eq!(copy.count(), bitmap.count());
            prop_assert!((0..len).all(|b| copy.get(b) == oracle.contains(&b)));
        }
    }

    #[test]
    fn a_stored_segment_with_bits_beyond_the_end_is_refused() {
        let bitmap = Bitmap::new(10);
        let mut bytes = vec![0; SEGMENT_BYTES];
        bytes[1] = 0b10;
        assert!(bitmap.merge_segment(0, &bytes).is_some());
        bytes[1] = 0b100;
        assert!(bitmap.merge_segment(0, &bytes).is_none());
        assert!(bitmap.merge_segment(0, &bytes[1..]).is_none());
        assert!(bitmap.merge_segment(1, &vec![0; SEGMENT_BYTES]).is_none());
        assert!(!bitmap.get(10));
    }
}
