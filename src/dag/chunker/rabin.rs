//! Cuts by Rabin's fingerprint of the last 16 bytes, as boxo's `rabin` (protocols.md §3.5).

/// The irreducible polynomial over GF(2) that defines the fingerprint, of degree 53.
const POLYNOMIAL: u64 = 17_437_180_132_763_653;
const DEGREE: u32 = 63 - POLYNOMIAL.leading_zeros();
/// Bytes that the fingerprint looks back.
pub(super) const WINDOW: usize = 16;

/// The length of the chunk at the front of `window`: at least `min` unless the window ends before, at most `max`, and
/// where the fingerprint's low bits, as many as `average` has below its highest, are all zero.
pub(super) fn cut(window: &[u8], min: usize, average: u32, max: usize) -> usize {
    let window = &window[..window.len().min(max)];
    if window.len() <= min {
        return window.len();
    }
    let mask = (1_u64 << average.ilog2()) - 1;
    // The fingerprint starts afresh with each chunk, as if a one had come before the first byte that it looks at.
    let start = min - WINDOW;
    let mut hash = push(0, 1);
    for (i, &byte) in window[start..].iter().enumerate() {
        let left = match i.checked_sub(WINDOW) {
            Some(left) => window[start + left],
            None => u8::from(i == WINDOW - 1),
        };
        hash = push(hash ^ LEAVING[usize::from(left)], byte);
        let length = start + i + 1;
        if length >= min && hash & mask == 0 {
            return length;
        }
    }
    window.len()
}

/// The fingerprint with one more byte.
const fn push(hash: u64, byte: u8) -> u64 {
    (hash << 8 | byte as u64) ^ REDUCTION[(hash >> (DEGREE - 8)) as usize]
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

/// What a byte has become when it leaves the window.
static LEAVING: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut hash = modulo(byte as u64);
        let mut i = 1;
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
    while dividend != 0 && 63 - dividend.leading_zeros() >= DEGREE {
        dividend ^= POLYNOMIAL << (63 - dividend.leading_zeros() - DEGREE);
    }
    dividend
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, from the window's content.
    fn fingerprint(window: &[u8]) -> u64 {
        window.iter().fold(0, |hash, &byte| modulo(hash << 8 | u64::from(byte)))
    }

    #[test]
    fn the_tables_say_what_division_says() {
        let bytes: Vec<u8> = (0..5000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
        let mut hash = 0;
        for (i, &byte) in bytes.iter().enumerate() {
            let left = i.checked_sub(WINDOW).map_or(0, |left| bytes[left]);
            hash = push(hash ^ LEAVING[usize::from(left)], byte);
            let from = (i + 1).saturating_sub(WINDOW);
            assert_eq!(hash, fingerprint(&bytes[from..=i]), "at {i}");
        }
    }
}
