//! The hash that decides where a name is in a sharded directory: murmur3 x64-128, seed 0, of which the first 64 bits.
//!
//! Written here because it is forty lines that will never change, and the crates that have them make 128 bits with a
//! reader and a seed. It is no defence: anybody can make names that collide, so that depth must be bounded elsewhere.

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// The first half of the hash, whose most significant bits are used first.
pub(super) fn hash(name: &[u8]) -> u64 {
    let (mut h1, mut h2) = (0_u64, 0_u64);
    let (blocks, tail) = name.as_chunks::<16>();
    for block in blocks {
        let (k1, k2) = words(block);
        h1 = (h1 ^ mix1(k1)).rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mix2(k2)).rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    // Zeros mix to zero, so that padding is the same as leaving out.
    let mut last = [0; 16];
    last[..tail.len()].copy_from_slice(tail);
    let (k1, k2) = words(&last);
    h1 ^= mix1(k1) ^ name.len() as u64;
    h2 ^= mix2(k2) ^ name.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    finish(h1).wrapping_add(finish(h2))
}

fn words(block: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*block);
    #[expect(clippy::cast_possible_truncation, reason = "the low and the high half are what is asked for")]
    (both as u64, (both >> 64) as u64)
}

const fn mix1(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

const fn mix2(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

const fn finish(mut h: u64) -> u64 {
    h = (h ^ h >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ h >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ h >> 33
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A name of 16 bytes that has that hash: one for each `salt`, which is the half of the hash that nobody uses.
    pub(in crate::dag::hamt) fn name_of(hashed: u64, salt: u64) -> Vec<u8> {
        let (b, a) = (salt, hashed.wrapping_sub(salt));
        let (h1, h2) = (unfinish(a), unfinish(b));
        let h2 = h2.wrapping_sub(h1);
        let h1 = h1.wrapping_sub(h2) ^ 16;
        let h2 = h2 ^ 16;
        let fifth = |h: u64| h.wrapping_mul(inverse(5));
        let k1 = fifth(h1.wrapping_sub(0x52dc_e729)).rotate_right(27);
        let k2 = fifth(h2.wrapping_sub(0x3849_5ab5)).wrapping_sub(h1).rotate_right(31);
        let k1 = k1.wrapping_mul(inverse(C2)).rotate_right(31).wrapping_mul(inverse(C1));
        let k2 = k2.wrapping_mul(inverse(C1)).rotate_right(33).wrapping_mul(inverse(C2));
        [k1.to_le_bytes(), k2.to_le_bytes()].concat()
    }

    fn unfinish(h: u64) -> u64 {
        let h = (h ^ h >> 33).wrapping_mul(inverse(0xc4ce_b9fe_1a85_ec53));
        let h = (h ^ h >> 33).wrapping_mul(inverse(0xff51_afd7_ed55_8ccd));
        h ^ h >> 33
    }

    /// Of an odd number modulo 2⁶⁴, by Newton's iteration.
    fn inverse(odd: u64) -> u64 {
        (0..6).fold(odd, |x, _| x.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(x))))
    }

    #[test]
    fn names_can_be_made_for_any_hash() {
        for hashed in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!([hash(&name_of(hashed, 1)), hash(&name_of(hashed, 2))], [hashed; 2]);
            assert_ne!(name_of(hashed, 1), name_of(hashed, 2));
        }
    }

    /// protocols.md §3.7, and the vectors of the implementation that Kubo uses (spaolacci/murmur3).
    #[test]
    fn names_hash_as_everywhere() {
        for (name, hashed) in [
            ("", 0),
            ("hello", 0xcbd8_a7b3_41bd_9b02),
            ("hello, world", 0x342f_ac62_3a5e_bc8e),
            ("19 Jan 2038 at 3:14:07 AM", 0xb89e_5988_b737_affc),
            ("The quick brown fox jumps over the lazy dog.", 0xcd99_481f_9ee9_02c9),
            ("exampleA", 0x9dff_91f1_f0e6_364e),
            ("470.txt", 0x006e_88df_5847_e67c),
        ] {
            assert_eq!(hash(name.as_bytes()), hashed, "{name}");
        }
        assert_eq!(hash(b"exampleB") >> 32, 0x5b06_09f2);
    }
}
