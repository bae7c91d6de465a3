//! The private network's cipher: XSalsa20 with the widest vectors that this CPU has.
//!
//! Owns the position in one keystream, so that a stream may come in pieces of any length. The key's derivation and the
//! path for other CPUs are those of the crate `salsa20`, which computes a block at a time and is also what the tests
//! compare with; the vector paths compute 4 (SSE2), 8 (AVX2) or 16 blocks (AVX-512) at once, each lane of a vector being
//! a block. Written by hand because no compiler makes vectors of the scalar code. It knows nothing of nonces on the wire.
//!
//! Invariant: no byte of the keystream is used twice, and none is skipped.

#![allow(unsafe_code, reason = "vector instructions that the CPU may lack, and their loads and stores, are unsafe")]

use std::fmt;

use salsa20::cipher::consts::U10;
use salsa20::cipher::{Block, StreamCipherCore};
use salsa20::{SalsaCore, hsalsa};

/// Length of a key, in bytes.
pub(crate) const KEY_BYTES: usize = 32;

/// Length of a nonce, in bytes.
pub(crate) const NONCE_BYTES: usize = 24;

/// Length of a block of keystream, in bytes.
const BLOCK_BYTES: usize = 64;

/// The most that one step computes, in bytes: 16 blocks.
const GROUP_BYTES_MAX: usize = 16 * BLOCK_BYTES;

/// A piece that is copied and then encrypted where it lies, in bytes: it stays in a core's first cache.
const COPY_BYTES: usize = 4096;

/// Salsa20's block as the specification numbers it: constants at 0, 5, 10 and 15, the key at 1–4 and 11–14, the nonce at
/// 6 and 7, the block's number at 8 and 9.
type Words = [u32; 16];

/// One direction of a connection: encrypting and decrypting are the same.
pub(super) struct XSalsa20 {
    kernel: Kernel,
    /// The next block that no keystream was made of.
    next: Words,
    /// Keystream of the last, incomplete step.
    ahead: [u8; GROUP_BYTES_MAX],
    /// Where the unused keystream begins; it ends with the kernel's step.
    ahead_used: usize,
}

impl XSalsa20 {
    /// The keystream from its begin, by the fastest instructions that there are.
    pub(super) fn new(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES]) -> Self {
        Self::with_kernel(Kernel::best(), key, nonce)
    }

    fn with_kernel(kernel: Kernel, key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES]) -> Self {
        // Bernstein, "Extending the Salsa20 nonce": the first 16 bytes make a key of their own, the rest is its nonce.
        let [head @ .., _, _, _, _, _, _, _, _] = nonce;
        let [.., a, b, c, d, e, f, g, h] = *nonce;
        let subkey = hsalsa::<U10>(key.into(), head.into());
        let (key, _) = subkey.as_chunks::<4>();
        let mut next = [0; 16];
        for (at, word) in [0, 5, 10, 15].into_iter().zip([b"expa", b"nd 3", b"2-by", b"te k"]) {
            next[at] = u32::from_le_bytes(*word);
        }
        for (at, word) in [1, 2, 3, 4, 11, 12, 13, 14].into_iter().zip(key) {
            next[at] = u32::from_le_bytes(*word);
        }
        next[6] = u32::from_le_bytes([a, b, c, d]);
        next[7] = u32::from_le_bytes([e, f, g, h]);
        Self { kernel, next, ahead: [0; GROUP_BYTES_MAX], ahead_used: kernel.group_bytes() }
    }

    /// Encrypts or decrypts what comes next in the stream, where it lies.
    pub(super) fn apply(&mut self, data: &mut [u8]) {
        let group = self.kernel.group_bytes();
        let (head, rest) = data.split_at_mut(data.len().min(group - self.ahead_used));
        self.apply_ahead(head);
        let (whole, tail) = rest.split_at_mut(rest.len() - rest.len() % group);
        self.kernel.apply(&mut self.next, whole);
        if !tail.is_empty() {
            self.ahead[..group].fill(0);
            self.kernel.apply(&mut self.next, &mut self.ahead[..group]);
            self.ahead_used = 0;
            self.apply_ahead(tail);
        }
    }

    /// The same from one place to another of the same length.
    pub(super) fn apply_to(&mut self, from: &[u8], to: &mut [u8]) {
        assert_eq!(from.len(), to.len());
        for (from, to) in from.chunks(COPY_BYTES).zip(to.chunks_mut(COPY_BYTES)) {
            to.copy_from_slice(from);
            self.apply(to);
        }
    }

    /// With keystream that is there already.
    fn apply_ahead(&mut self, data: &mut [u8]) {
        let ahead = &self.ahead[self.ahead_used..][..data.len()];
        data.iter_mut().zip(ahead).for_each(|(byte, key)| *byte ^= key);
        self.ahead_used += data.len();
    }
}

impl fmt::Debug for XSalsa20 {
    /// Without the key and the keystream.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XSalsa20").field("kernel", &self.kernel).finish_non_exhaustive()
    }
}

/// Which instructions compute the keystream. A value other than `Scalar` is proof that the CPU has them: only
/// [`Kernel::all`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Sse2,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Kernel {
    /// All that this CPU can, the fastest last.
    fn all() -> impl Iterator<Item = Self> {
        let kernels = [
            (Self::Scalar, true),
            // Part of x86-64.
            #[cfg(target_arch = "x86_64")]
            (Self::Sse2, true),
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, is_x86_feature_detected!("avx2")),
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, is_x86_feature_detected!("avx512f")),
        ];
        kernels.into_iter().filter_map(|(kernel, there)| there.then_some(kernel))
    }

    fn best() -> Self {
        Self::all().last().unwrap_or(Self::Scalar)
    }

    /// What one step computes, in bytes.
    const fn group_bytes(self) -> usize {
        match self {
            Self::Scalar => BLOCK_BYTES,
            #[cfg(target_arch = "x86_64")]
            Self::Sse2 => sse2::GROUP_BYTES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::GROUP_BYTES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::GROUP_BYTES,
        }
    }

    /// XORs keystream into whole steps, and counts their blocks.
    fn apply(self, next: &mut Words, data: &mut [u8]) {
        debug_assert_eq!(data.len() % self.group_bytes(), 0);
        match self {
            Self::Scalar => scalar(next, data),
            #[cfg(target_arch = "x86_64")]
            Self::Sse2 => {
                // SAFETY: the CPU has the instructions, or this value would not be ([`Kernel::all`]).
                unsafe { sse2::apply(next, data) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                // SAFETY: the CPU has the instructions, or this value would not be ([`Kernel::all`]).
                unsafe { avx2::apply(next, data) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                // SAFETY: the CPU has the instructions, or this value would not be ([`Kernel::all`]).
                unsafe { avx512::apply(next, data) }
            }
        }
    }
}

/// The number of the next block.
fn number(next: &Words) -> u64 {
    u64::from(next[8]) | u64::from(next[9]) << 32
}

fn set_number(next: &mut Words, number: u64) {
    [next[8], next[9]] = halves(number);
}

/// The low and the high word of a block's number.
#[allow(clippy::cast_possible_truncation, reason = "the two halves of a number are what is asked for")]
const fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// The crate's own blocks, one after the other.
fn scalar(next: &mut Words, data: &mut [u8]) {
    let mut core = SalsaCore::<U10>::from_raw_state(*next);
    let (blocks, _) = data.as_chunks_mut::<BLOCK_BYTES>();
    for block in &mut *blocks {
        let mut keystream = Block::<SalsaCore<U10>>::default();
        core.write_keystream_block(&mut keystream);
        block.iter_mut().zip(keystream).for_each(|(byte, key)| *byte ^= key);
    }
    set_number(next, number(next).wrapping_add(blocks.len() as u64));
}

/// A module's `apply`, over its own `Vector` of `LANES` blocks.
#[cfg(target_arch = "x86_64")]
macro_rules! vector_apply {
    ($feature:literal) => {
        /// What one step computes, in bytes.
        pub(super) const GROUP_BYTES: usize = LANES * BLOCK_BYTES;

        /// XORs keystream into whole steps, and counts their blocks.
        #[target_feature(enable = $feature)]
        pub(super) fn apply(next: &mut Words, data: &mut [u8]) {
            let mut start = [splat(0); 16];
            for (vector, word) in start.iter_mut().zip(*next) {
                *vector = splat(word);
            }
            let mut first = number(next);
            let (groups, _) = data.as_chunks_mut::<GROUP_BYTES>();
            for group in groups {
                let (mut low, mut high) = ([0; LANES], [0; LANES]);
                for (lane, (low, high)) in low.iter_mut().zip(&mut high).enumerate() {
                    [*low, *high] = halves(first.wrapping_add(lane as u64));
                }
                (start[8], start[9]) = (load(&low), load(&high));
                first = first.wrapping_add(LANES as u64);

                let mut words = start;
                for _ in 0..10 {
                    quarter!(words, 0, 4, 8, 12);
                    quarter!(words, 5, 9, 13, 1);
                    quarter!(words, 10, 14, 2, 6);
                    quarter!(words, 15, 3, 7, 11);
                    quarter!(words, 0, 1, 2, 3);
                    quarter!(words, 5, 6, 7, 4);
                    quarter!(words, 10, 11, 8, 9);
                    quarter!(words, 15, 12, 13, 14);
                }
                for (word, start) in words.iter_mut().zip(start) {
                    *word = add(*word, start);
                }
                for [a, b, c, d] in words.as_chunks_mut::<4>().0 {
                    transpose(a, b, c, d);
                }
                let (blocks, _) = group.as_chunks_mut::<BLOCK_BYTES>();
                xor_into(&words, blocks);
            }
            set_number(next, first);
        }

        /// Four words of all blocks become, in each part of 128 bits, the four words of one block: with `p` the part's
        /// number, `a` has those of block 4p, `b` of block 4p + 1, and so on.
        #[inline]
        #[target_feature(enable = $feature)]
        fn transpose(a: &mut Vector, b: &mut Vector, c: &mut Vector, d: &mut Vector) {
            let (ab_low, ab_high) = (zip_low_32(*a, *b), zip_high_32(*a, *b));
            let (cd_low, cd_high) = (zip_low_32(*c, *d), zip_high_32(*c, *d));
            (*a, *b) = (zip_low_64(ab_low, cd_low), zip_high_64(ab_low, cd_low));
            (*c, *d) = (zip_low_64(ab_high, cd_high), zip_high_64(ab_high, cd_high));
        }
    };
}

/// Salsa20's quarter-round. No function: its words are places of one array.
#[cfg(target_arch = "x86_64")]
macro_rules! quarter {
    ($words:ident, $a:literal, $b:literal, $c:literal, $d:literal) => {
        $words[$b] = xor($words[$b], rotate::<7, 25>(add($words[$a], $words[$d])));
        $words[$c] = xor($words[$c], rotate::<9, 23>(add($words[$b], $words[$a])));
        $words[$d] = xor($words[$d], rotate::<13, 19>(add($words[$c], $words[$b])));
        $words[$a] = xor($words[$a], rotate::<18, 14>(add($words[$d], $words[$c])));
    };
}

/// Four blocks at once.
#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::{
        __m128i as Vector, _mm_add_epi32 as add, _mm_loadu_si128, _mm_or_si128, _mm_set1_epi32, _mm_slli_epi32,
        _mm_srli_epi32, _mm_storeu_si128, _mm_unpackhi_epi32 as zip_high_32, _mm_unpackhi_epi64 as zip_high_64,
        _mm_unpacklo_epi32 as zip_low_32, _mm_unpacklo_epi64 as zip_low_64, _mm_xor_si128 as xor,
    };

    use super::{BLOCK_BYTES, Words, halves, number, set_number};

    const LANES: usize = 4;

    vector_apply!("sse2");

    #[inline]
    #[target_feature(enable = "sse2")]
    fn splat(word: u32) -> Vector {
        _mm_set1_epi32(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(words: &[u32; LANES]) -> Vector {
        // SAFETY: the array has the vector's length, and the load wants no alignment.
        unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn rotate<const LEFT: i32, const RIGHT: i32>(words: Vector) -> Vector {
        _mm_or_si128(_mm_slli_epi32::<LEFT>(words), _mm_srli_epi32::<RIGHT>(words))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn xor_into(words: &[Vector; 16], blocks: &mut [[u8; BLOCK_BYTES]]) {
        for (index, block) in blocks.iter_mut().enumerate() {
            for (quarter, part) in block.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let part = part.as_mut_ptr().cast();
                // SAFETY: the part has the vector's length, and neither load nor store want alignment.
                unsafe { _mm_storeu_si128(part, xor(_mm_loadu_si128(part), words[4 * quarter + index])) }
            }
        }
    }
}

/// Eight blocks at once.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i as Vector, _mm256_add_epi32 as add, _mm256_loadu_si256, _mm256_or_si256, _mm256_permute2x128_si256,
        _mm256_set1_epi32, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_si256,
        _mm256_unpackhi_epi32 as zip_high_32, _mm256_unpackhi_epi64 as zip_high_64,
        _mm256_unpacklo_epi32 as zip_low_32, _mm256_unpacklo_epi64 as zip_low_64, _mm256_xor_si256 as xor,
    };

    use super::{BLOCK_BYTES, Words, halves, number, set_number};

    const LANES: usize = 8;

    vector_apply!("avx2");

    #[inline]
    #[target_feature(enable = "avx2")]
    fn splat(word: u32) -> Vector {
        _mm256_set1_epi32(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(words: &[u32; LANES]) -> Vector {
        // SAFETY: the array has the vector's length, and the load wants no alignment.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn rotate<const LEFT: i32, const RIGHT: i32>(words: Vector) -> Vector {
        _mm256_or_si256(_mm256_slli_epi32::<LEFT>(words), _mm256_srli_epi32::<RIGHT>(words))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn xor_into(words: &[Vector; 16], blocks: &mut [[u8; BLOCK_BYTES]]) {
        for index in 0..4 {
            for half in 0..2 {
                let (a, b) = (words[8 * half + index], words[8 * half + 4 + index]);
                xor_half(_mm256_permute2x128_si256::<0x20>(a, b), &mut blocks[index], half);
                xor_half(_mm256_permute2x128_si256::<0x31>(a, b), &mut blocks[4 + index], half);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn xor_half(keystream: Vector, block: &mut [u8; BLOCK_BYTES], half: usize) {
        let part = block.as_chunks_mut::<32>().0[half].as_mut_ptr().cast();
        // SAFETY: the part has the vector's length, and neither load nor store want alignment.
        unsafe { _mm256_storeu_si256(part, xor(_mm256_loadu_si256(part), keystream)) }
    }
}

/// Sixteen blocks at once.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i as Vector, _mm512_add_epi32 as add, _mm512_loadu_si512, _mm512_rol_epi32, _mm512_set1_epi32,
        _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32 as zip_high_32,
        _mm512_unpackhi_epi64 as zip_high_64, _mm512_unpacklo_epi32 as zip_low_32, _mm512_unpacklo_epi64 as zip_low_64,
        _mm512_xor_si512 as xor,
    };

    use super::{BLOCK_BYTES, Words, halves, number, set_number};

    const LANES: usize = 16;

    vector_apply!("avx512f");

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn splat(word: u32) -> Vector {
        _mm512_set1_epi32(word.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(words: &[u32; LANES]) -> Vector {
        // SAFETY: the array has the vector's length, and the load wants no alignment.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn rotate<const LEFT: i32, const RIGHT: i32>(words: Vector) -> Vector {
        _mm512_rol_epi32::<LEFT>(words)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn xor_into(words: &[Vector; 16], blocks: &mut [[u8; BLOCK_BYTES]]) {
        for index in 0..4 {
            let (a, b, c, d) = (words[index], words[4 + index], words[8 + index], words[12 + index]);
            let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
            xor_block(_mm512_shuffle_i32x4::<0x88>(ab, cd), &mut blocks[index]);
            xor_block(_mm512_shuffle_i32x4::<0xdd>(ab, cd), &mut blocks[4 + index]);
            let (ab, cd) = (_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d));
            xor_block(_mm512_shuffle_i32x4::<0x88>(ab, cd), &mut blocks[8 + index]);
            xor_block(_mm512_shuffle_i32x4::<0xdd>(ab, cd), &mut blocks[12 + index]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn xor_block(keystream: Vector, block: &mut [u8; BLOCK_BYTES]) {
        let block = block.as_mut_ptr().cast();
        // SAFETY: the block has the vector's length, and neither load nor store want alignment.
        unsafe { _mm512_storeu_si512(block, xor(_mm512_loadu_si512(block), keystream)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use salsa20::cipher::{KeyIvInit, StreamCipher, StreamCipherCoreWrapper};

    use super::*;

    /// The crate's cipher from a block on.
    fn oracle(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES], block: u64, data: &mut [u8]) {
        let ours = XSalsa20::with_kernel(Kernel::Scalar, key, nonce);
        let mut core = SalsaCore::<U10>::from_raw_state(ours.next);
        salsa20::cipher::StreamCipherSeekCore::set_block_pos(&mut core, block);
        StreamCipherCoreWrapper::from_core(core).apply_keystream(data);
    }

    #[test]
    fn the_stream_is_the_crates_from_its_begin() {
        for kernel in Kernel::all() {
            let (key, nonce) = (rand::random(), rand::random());
            let mut ours = vec![7; 5000];
            let mut theirs = ours.clone();
            XSalsa20::with_kernel(kernel, &key, &nonce).apply(&mut ours);
            salsa20::XSalsa20::new(&key.into(), &nonce.into()).apply_keystream(&mut theirs);
            assert!(ours == theirs, "{kernel:?}");
        }
    }

    /// Block numbers around which something may overflow, and any others.
    fn blocks() -> impl Strategy<Value = u64> {
        prop_oneof![
            Just(0),
            Just(u64::from(u32::MAX) - 20),
            (u64::from(u32::MAX) - 40)..=(1 << 32),
            any::<u64>().prop_map(|n| n >> 8)
        ]
    }

    proptest! {
        #[test]
        fn any_split_anywhere_in_the_stream_is_the_crates(
            key: [u8; KEY_BYTES],
            nonce: [u8; NONCE_BYTES],
            block in blocks(),
            pieces in prop::collection::vec((0_usize..3000, any::<bool>()), 1..12),
            fill: u8,
        ) {
            let length = pieces.iter().map(|(length, _)| length).sum();
            let plain = vec![fill; length];
            let mut expected = plain.clone();
            oracle(&key, &nonce, block, &mut expected);
            for kernel in Kernel::all() {
                let mut cipher = XSalsa20::with_kernel(kernel, &key, &nonce);
                set_number(&mut cipher.next, block);
                let mut ours = plain.clone();
                let mut at = 0;
                for (length, in_place) in &pieces {
                    let piece = at..at + length;
                    if *in_place {
                        cipher.apply(&mut ours[piece.clone()]);
                    } else {
                        cipher.apply_to(&plain[piece.clone()], &mut ours[piece.clone()]);
                    }
                    at = piece.end;
                }
                prop_assert!(ours == expected, "{:?}", kernel);
            }
        }
    }

    #[test]
    fn pieces_longer_than_what_is_copied_at_once_are_whole() {
        let (key, nonce) = (rand::random(), rand::random());
        let plain: Vec<u8> = (0..251).cycle().take(3 * COPY_BYTES + 5).collect();
        let mut cipher = XSalsa20::new(&key, &nonce);
        let mut encrypted = vec![0; plain.len()];
        cipher.apply_to(&plain[..7], &mut encrypted[..7]);
        cipher.apply_to(&plain[7..], &mut encrypted[7..]);
        let mut expected = plain;
        oracle(&key, &nonce, 0, &mut expected);
        assert!(encrypted == expected);
    }
}
