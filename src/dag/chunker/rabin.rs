//! Cuts by Rabin's fingerprint of the last 16 bytes, as boxo's `rabin` (protocols.md §3.5): the bytes as a polynomial
//! over GF(2), modulo an irreducible one of degree 53.
//!
//! boxo starts each chunk with a byte 1 in an empty window and skips what cannot be a boundary; its first test comes
//! when exactly that byte has left, so that a boundary depends on the 16 bytes before it and on nothing else. That lets
//! several places be searched side by side, where one alone would wait for a table at every byte: twice as fast.

/// The irreducible polynomial over GF(2) that defines the fingerprint, of degree 53.
const POLYNOMIAL: u64 = 17_437_180_132_763_653;
const DEGREE: u32 = POLYNOMIAL.ilog2();
/// Bytes that the fingerprint looks back.
pub(super) const WINDOW: usize = 16;

/// Places that are searched side by side.
const LANES: usize = 4;
/// Bytes that each of them searches in a round: what is searched in vain beyond a boundary is little beside a chunk.
const LANE_BYTES: usize = 2048;

/// The length of the chunk at the front of `window`: at least `min` unless the window ends before, at most `max`, and
/// where the fingerprint's low bits, as many as `average` has below its highest, are all zero.
pub(super) fn cut(window: &[u8], min: usize, average: u32, max: usize) -> usize {
    let window = &window[..window.len().min(max)];
    if window.len() <= min {
        return window.len();
    }
    let mask = (1_u64 << average.ilog2()) - 1;
    let mut from = min;
    while window.len() - from >= LANES * LANE_BYTES {
        if let Some(length) = search_side_by_side(window, from, mask) {
            return length;
        }
        from += LANES * LANE_BYTES;
    }
    search(window, from, fingerprint(&window[from - WINDOW..from]), window.len(), mask).unwrap_or(window.len())
}

/// The first boundary among the lengths `from..to`, the first of which has the fingerprint `hash`.
fn search(window: &[u8], from: usize, mut hash: u64, to: usize, mask: u64) -> Option<usize> {
    for (i, (&left, &entered)) in window[from - WINDOW..to - WINDOW].iter().zip(&window[from..to]).enumerate() {
        if hash & mask == 0 {
            return Some(from + i);
        }
        hash = roll(hash, left, entered);
    }
    None
}

/// The first boundary among the next [`LANES`] × [`LANE_BYTES`] lengths, all of which are in the window.
fn search_side_by_side(window: &[u8], from: usize, mask: u64) -> Option<usize> {
    let starts: [usize; LANES] = std::array::from_fn(|lane| from + lane * LANE_BYTES);
    let leaving = starts.map(|start| &window[start - WINDOW..][..LANE_BYTES]);
    let entering = starts.map(|start| &window[start..][..LANE_BYTES]);
    let mut hashes = starts.map(|start| fingerprint(&window[start - WINDOW..start]));
    for i in 0..LANE_BYTES {
        if hashes.iter().any(|hash| hash & mask == 0) {
            // A lane in front of the one that found something may find something later on.
            let rest = |lane| search(window, starts[lane] + i, hashes[lane], starts[lane] + LANE_BYTES, mask);
            return (0..LANES).find_map(rest);
        }
        for lane in 0..LANES {
            hashes[lane] = roll(hashes[lane], leaving[lane][i], entering[lane][i]);
        }
    }
    None
}

/// The fingerprint of [`WINDOW`] bytes.
fn fingerprint(bytes: &[u8]) -> u64 {
    // A byte 0 contributes nothing, so that it can leave a window in which it never was.
    bytes.iter().fold(0, |hash, &byte| roll(hash, 0, byte))
}

/// The fingerprint when the window moves on by one byte.
#[inline]
fn roll(hash: u64, left: u8, entered: u8) -> u64 {
    // Only the last step waits for `hash`: what leaves is taken out in the place where it will be by then.
    let shifted = hash << 8 ^ u64::from(entered) ^ LEAVING[usize::from(left)];
    shifted ^ REDUCTION[(hash >> (DEGREE - 8)) as usize & 0xff]
}

/// What eight bits above the degree are, modulo the polynomial, and those bits themselves, so that one XOR removes them.
static REDUCTION: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let above = (byte as u64) << DEGREE;
        table[byte] = modulo(above) | above;
        byte += 1;
    }
    table
};

/// What a byte has become when the whole window has come after it.
static LEAVING: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut hash = byte as u64;
        let mut i = 0;
        while i < WINDOW {
            hash = modulo(hash << 8);
            i += 1;
        }
        table[byte] = hash;
        byte += 1;
    }
    table
};

/// The remainder of a division by the polynomial, over GF(2).
const fn modulo(mut dividend: u64) -> u64 {
    while dividend >> DEGREE != 0 {
        dividend ^= POLYNOMIAL << (dividend.ilog2() - DEGREE);
    }
    dividend
}
