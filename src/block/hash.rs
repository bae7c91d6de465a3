//! The hash functions that blocks may be named by: those that Kubo accepts (`verifcid` in boxo, protocols.md §2).
//!
//! Knows codes, names and digests. The identity hash is not among them: its digest is as long as the block.

use sha2::Digest;
use shake::digest::{ExtendableOutput, Update, XofReader};

use super::{BlockError, DIGEST_BYTES_MAX, Multihash};

/// The shortest digest that is accepted, in bytes (`verifcid` in boxo).
pub(super) const DIGEST_BYTES_MIN: u8 = 20;

const SHA1: u64 = 0x11;
const SHA2_256: u64 = 0x12;
const SHA2_512: u64 = 0x13;
const SHA3_512: u64 = 0x14;
const SHA3_384: u64 = 0x15;
const SHA3_256: u64 = 0x16;
const SHA3_224: u64 = 0x17;
const SHAKE_256: u64 = 0x19;
const KECCAK_224: u64 = 0x1a;
const KECCAK_256: u64 = 0x1b;
const KECCAK_384: u64 = 0x1c;
const KECCAK_512: u64 = 0x1d;
const BLAKE3: u64 = 0x1e;
const DBL_SHA2_256: u64 = 0x56;
/// BLAKE2b has a code for each digest length of whole bytes: `0xb200` and the length.
const BLAKE2B: u64 = 0xb200;
const BLAKE2B_MIN: u64 = BLAKE2B + DIGEST_BYTES_MIN as u64;
const BLAKE2B_MAX: u64 = BLAKE2B + 64;
/// BLAKE2s likewise: `0xb240` and the length.
const BLAKE2S: u64 = 0xb240;
const BLAKE2S_MIN: u64 = BLAKE2S + DIGEST_BYTES_MIN as u64;
const BLAKE2S_MAX: u64 = BLAKE2S + 32;

/// Bytes of the digest where nobody asks for another length; `None` for functions that are not accepted.
#[must_use]
pub fn digest_bytes(code: u64) -> Option<u8> {
    Some(match code {
        SHA1 => 20,
        SHA3_224 | KECCAK_224 => 28,
        SHA2_256 | DBL_SHA2_256 | SHA3_256 | KECCAK_256 | BLAKE3 => 32,
        SHA3_384 | KECCAK_384 => 48,
        SHA2_512 | SHA3_512 | KECCAK_512 | SHAKE_256 => 64,
        BLAKE2B_MIN..=BLAKE2B_MAX => u8::try_from(code - BLAKE2B).ok()?,
        BLAKE2S_MIN..=BLAKE2S_MAX => u8::try_from(code - BLAKE2S).ok()?,
        _ => return None,
    })
}

/// The function's name in the multicodec table; `None` as for [`digest_bytes`].
#[must_use]
pub fn name(code: u64) -> Option<String> {
    let bits = u64::from(digest_bytes(code)?) * 8;
    Some(match code {
        SHA1 => "sha1".into(),
        DBL_SHA2_256 => "dbl-sha2-256".into(),
        SHAKE_256 => "shake-256".into(),
        BLAKE3 => "blake3".into(),
        SHA2_256 | SHA2_512 => format!("sha2-{bits}"),
        SHA3_512..=SHA3_224 => format!("sha3-{bits}"),
        KECCAK_224..=KECCAK_512 => format!("keccak-{bits}"),
        BLAKE2B_MIN..=BLAKE2B_MAX => format!("blake2b-{bits}"),
        _ => format!("blake2s-{bits}"),
    })
}

/// The code of the function with that name in any letter case; `sha3` is `sha3-512`, as Kubo's `--hash` has it.
#[must_use]
pub fn code_of(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let text = if text == "sha3" { "sha3-512" } else { &text };
    let codes = (SHA1..=DBL_SHA2_256).chain(BLAKE2B_MIN..=BLAKE2S_MAX);
    codes.into_iter().find(|&code| name(code).is_some_and(|name| name == text))
}

/// The digest of the parts' concatenation, cut to `length` bytes. Only BLAKE3 has longer digests than
/// [`digest_bytes`], up to [`DIGEST_BYTES_MAX`].
///
/// # Errors
/// [`BlockError::UnknownHash`]; [`BlockError::DigestLength`] for fewer than 20 bytes or more than the function has.
pub fn digest(code: u64, length: u8, parts: &[&[u8]]) -> Result<Multihash, BlockError> {
    let whole = digest_bytes(code).ok_or(BlockError::UnknownHash(code))?;
    let longest = if code == BLAKE3 { DIGEST_BYTES_MAX } else { usize::from(whole) };
    let wrong_length = || BlockError::DigestLength { code, length: u64::from(length) };
    if length < DIGEST_BYTES_MIN || usize::from(length) > longest {
        return Err(wrong_length());
    }
    let mut out = [0; DIGEST_BYTES_MAX];
    compute(code, parts, &mut out);
    Multihash::wrap(code, &out[..usize::from(length)]).map_err(|_| wrong_length())
}

/// Puts the digest of an accepted function at the start of `out`.
fn compute(code: u64, parts: &[&[u8]], out: &mut [u8; DIGEST_BYTES_MAX]) {
    match code {
        SHA1 => fixed::<sha1::Sha1>(parts, out),
        SHA2_256 => fixed::<sha2::Sha256>(parts, out),
        SHA2_512 => fixed::<sha2::Sha512>(parts, out),
        DBL_SHA2_256 => {
            fixed::<sha2::Sha256>(parts, out);
            let first: [u8; 32] = std::array::from_fn(|at| out[at]);
            fixed::<sha2::Sha256>(&[&first], out);
        }
        SHA3_224 => fixed::<sha3::Sha3_224>(parts, out),
        SHA3_256 => fixed::<sha3::Sha3_256>(parts, out),
        SHA3_384 => fixed::<sha3::Sha3_384>(parts, out),
        SHA3_512 => fixed::<sha3::Sha3_512>(parts, out),
        KECCAK_224 => fixed::<sha3::Keccak224>(parts, out),
        KECCAK_256 => fixed::<sha3::Keccak256>(parts, out),
        KECCAK_384 => fixed::<sha3::Keccak384>(parts, out),
        KECCAK_512 => fixed::<sha3::Keccak512>(parts, out),
        SHAKE_256 => {
            let mut hasher = shake::Shake256::default();
            parts.iter().for_each(|part| hasher.update(part));
            hasher.finalize_xof().read(out);
        }
        BLAKE3 => {
            let mut hasher = blake3::Hasher::new();
            parts.iter().for_each(|part| {
                hasher.update(part);
            });
            hasher.finalize_xof().fill(out);
        }
        // The length is a parameter of BLAKE2: a shorter digest is not the start of a longer one.
        _ => blake2(code, parts, out),
    }
}

fn fixed<H: Digest>(parts: &[&[u8]], out: &mut [u8]) {
    let mut hasher = H::new();
    parts.iter().for_each(|part| hasher.update(part));
    let digest = hasher.finalize();
    out[..digest.len()].copy_from_slice(&digest);
}

fn blake2(code: u64, parts: &[&[u8]], out: &mut [u8]) {
    let length = usize::from(digest_bytes(code).unwrap_or_default());
    let out = &mut out[..length];
    if code <= BLAKE2B_MAX {
        let mut hasher = blake2b_simd::Params::new().hash_length(length).to_state();
        parts.iter().for_each(|part| {
            hasher.update(part);
        });
        out.copy_from_slice(hasher.finalize().as_bytes());
    } else {
        let mut hasher = blake2s_simd::Params::new().hash_length(length).to_state();
        parts.iter().for_each(|part| {
            hasher.update(part);
        });
        out.copy_from_slice(hasher.finalize().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn hex(name: &str, length: u8, input: &[u8]) -> String {
        let code = code_of(name).unwrap_or_else(|| panic!("{name} is unknown"));
        HEXLOWER.encode(digest(code, length, &[input]).unwrap().digest())
    }

    /// From the multihash repository's `test_cases.csv`.
    #[test]
    fn digests_of_the_multihash_tests_are_ours() {
        let input = b"431fb5d4c9b735ba1a34d0df045118806ae2336f2c";
        for (name, length, expected) in [
            ("sha1", 20, "e861e452cfd84dca9a176258c3d06e020a0c93d8"),
            ("sha2-256", 20, "ffb31f07aa15348368c90c73a834dbf9f8710365"),
            ("sha2-256", 32, "ffb31f07aa15348368c90c73a834dbf9f8710365860fa0fd4ddce9ac2782cc17"),
            ("sha2-512", 20, "abffa1926b038a2f1833092d93859ba2ee56e07a"),
            ("sha2-512", 32, "abffa1926b038a2f1833092d93859ba2ee56e07a86b158200fc7d4d5d1eaf350"),
            (
                "sha2-512",
                64,
                "abffa1926b038a2f1833092d93859ba2ee56e07a86b158200fc7d4d5d1eaf350b0f0e511ea6f5043a9f4a7c7886f93355652114709d75b2db4c33741124fd4fe",
            ),
            ("sha3", 20, "9a7a8207a57d03e9c524ae7fd39563bfe1a466a3"),
            ("sha3", 32, "9a7a8207a57d03e9c524ae7fd39563bfe1a466a3a0323875eba8b034a1d59c3b"),
            (
                "sha3",
                64,
                "9a7a8207a57d03e9c524ae7fd39563bfe1a466a3a0323875eba8b034a1d59c3b7218103543f7777f17ef03dcaf44d12c74dfb83726e7425cf61225e9a54b3b3a",
            ),
        ] {
            assert_eq!(hex(name, length, input), expected, "{name}");
        }
    }

    #[test]
    fn the_other_functions_have_the_digests_of_other_programs() {
        for (name, length, expected) in [
            ("dbl-sha2-256", 32, "bc62d4b80d9e36da29c16c5d4d9f11731f36052c72401a76c23c0fb5a9b74423"),
            ("sha3-224", 28, "dfb7f18c77e928bb56faeb2da27291bd790bc1045cde45f3210bb6c5"),
            ("sha3-256", 32, "644bcc7e564373040999aac89e7622f3ca71fba1d972fd94a31c3bfbf24e3938"),
            (
                "sha3-384",
                48,
                "83bff28dde1b1bf5810071c6643c08e5b05bdb836effd70b403ea8ea0a634dc4997eb1053aa3593f590f9c63630dd90b",
            ),
            (
                "shake-256",
                64,
                "369771bb2cb9d2b04c1d54cca487e372d9f187f73f7ba3f65b95c8ee7798c527f4f3c2d55c2d46a29f2e945d469c3df27853a8735271f5cc2d9e889544357116",
            ),
            ("shake-256", 20, "369771bb2cb9d2b04c1d54cca487e372d9f187f7"),
            ("keccak-224", 28, "25f3ecfebabe99686282f57f5c9e1f18244cfee2813d33f955aae568"),
            ("keccak-256", 32, "47173285a8d7341e5e972fc677286384f802f8ef42a5ec5f03bbfa254cb01fad"),
            (
                "keccak-384",
                48,
                "65fc99339a2a40e99d3c40d695b22f278853ca0f925cde4254bcae5e22ece47e6441f91b6568425adc9d95b0072eb49f",
            ),
            (
                "keccak-512",
                64,
                "3ee2b40047b8060f68c67242175660f4174d0af5c01d47168ec20ed619b0b7c42181f40aa1046f39e2ef9efc6910782a998e0013d172458957957fac9405b67d",
            ),
            ("blake2b-160", 20, "70e8ece5e293e1bda064deef6b080edde357010f"),
            ("blake2b-256", 32, "256c83b297114d201b30179f3f0ef0cace9783622da5974326b436178aeef610"),
            ("blake2b-264", 33, "7b1ce76f432f5433f7060fa03c9c51200ad8041888277118b4b46413082a9c5fef"),
            (
                "blake2b-512",
                64,
                "021ced8799296ceca557832ab941a50b4a11f83478cf141f51f933f653ab9fbcc05a037cddbed06e309bf334942c4e58cdf1a46e237911ccd7fcf9787cbc7fd0",
            ),
            ("blake2s-160", 20, "5b61362bd56823fd6ed1d3bea2f3ff0d2a0214d7"),
            ("blake2s-248", 31, "476588c6c1efa65d6d81087e4682dfd9c840fae4c9f7ebfd4445390b409121"),
            ("blake2s-256", 32, "9aec6806794561107e594b1f6a8a6b0c92a0cba9acf5e5e93cca06f781813b0b"),
        ] {
            assert_eq!(hex(name, length, b"hello world"), expected, "{name}");
        }
        let blake3 = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262\
                      e00f03e7b69af26b7faaf09fcd333050338ddfe085b8cc869ca98b206c08243a";
        assert_eq!(hex("blake3", 64, b""), blake3);
        assert_eq!(hex("blake3", 20, b""), blake3[..40]);
        assert!(hex("blake3", 128, b"").starts_with(blake3));
    }

    #[test]
    fn names_codes_and_lengths_are_those_of_the_allow_list() {
        let accepted: Vec<u64> = (0..0x1_0000).filter(|&code| digest_bytes(code).is_some()).collect();
        let expected: Vec<u64> =
            [0x11..=0x17, 0x19..=0x1e, 0x56..=0x56, 0xb214..=0xb240, 0xb254..=0xb260].into_iter().flatten().collect();
        assert_eq!(accepted, expected);
        for code in accepted {
            let named = name(code).unwrap();
            assert_eq!(code_of(&named.to_uppercase()), Some(code), "{named}");
            let whole = digest_bytes(code).unwrap();
            let longest = if code == BLAKE3 { 128 } else { whole };
            assert_eq!(digest(code, whole, &[b"x"]).unwrap().size(), whole);
            assert_eq!(digest(code, longest, &[b"x"]).unwrap().size(), longest);
            for length in [0, 19, longest + 1] {
                assert!(matches!(digest(code, length, &[b"x"]), Err(BlockError::DigestLength { .. })), "{named}");
            }
        }
        for (text, code) in [("sha3", SHA3_512), ("blake2b-160", 0xb214), ("blake2s-256", 0xb260)] {
            assert_eq!(code_of(text), Some(code));
        }
        for text in ["", "md5", "identity", "sha2", "blake2b-152", "blake2s-128", "blake2b-0256", "shake-128"] {
            assert_eq!(code_of(text), None, "{text}");
        }
    }

    #[test]
    fn parts_hash_as_one() {
        for code in (0..0x1_0000).filter(|&code| digest_bytes(code).is_some()) {
            let whole = digest_bytes(code).unwrap();
            assert_eq!(digest(code, whole, &[b"hello ", b"", b"world"]), digest(code, whole, &[b"hello world"]));
        }
    }
}
