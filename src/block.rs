//! Content addresses and the blocks they name.
//!
//! Owns the one CID type of the crate, the CID [`Prefix`] of the wire, and [`Block`], which can only be made by
//! hashing: holding one is proof that its bytes belong to its CID. It knows no codec's inside, no wire and no disk.

use bytes::Bytes;
use cid::Version;

pub mod hash;

/// A CID whose digest may be up to 128 bytes long, which identity CIDs need (protocols.md §4).
pub type Cid = cid::CidGeneric<DIGEST_BYTES_MAX>;

/// A multihash of the same capacity as [`Cid`]. The index and the exchange are keyed by it: two CIDs that differ
/// only in version or codec name the same bytes.
pub type Multihash = cid::multihash::Multihash<DIGEST_BYTES_MAX>;

/// The longest digest that any accepted hash has: identity CIDs hold up to 128 bytes (verifcid in boxo).
pub const DIGEST_BYTES_MAX: usize = 128;

/// The largest block, in bytes. Every implementation must take 2 MiB and all refuse more (Bitswap spec; boxo).
pub const BLOCK_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Multicodec of plain bytes.
pub const RAW: u64 = 0x55;
/// Multicodec of MerkleDAG protobuf nodes.
pub const DAG_PB: u64 = 0x70;
/// Multihash code of SHA-256.
pub const SHA2_256: u64 = 0x12;
/// Multihash code of the identity hash, whose digest is the content.
pub const IDENTITY: u64 = 0x00;

/// Why bytes are not a block, or a text not a CID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The multihash code is not one that we can compute.
    #[error("hash function 0x{0:x} is not supported")]
    UnknownHash(u64),
    /// The prefix asks for a digest longer than the hash has or shorter than is safe.
    #[error("a digest of {length} bytes is not acceptable for hash function 0x{code:x}")]
    DigestLength {
        /// Multihash code.
        code: u64,
        /// Length asked for, in bytes.
        length: u64,
    },
    /// More than [`BLOCK_BYTES_MAX`].
    #[error("block of {0} bytes is larger than the limit of {BLOCK_BYTES_MAX}")]
    TooLarge(usize),
    /// The bytes hash to something else.
    #[error("the bytes do not hash to {0}")]
    Mismatch(Box<Cid>),
    /// The bytes of a prefix or a CID are not well formed.
    #[error("malformed CID: {0}")]
    Malformed(String),
}

/// A CID without its digest: version, codec, hash function and digest length, as Bitswap 1.1+ sends it in front of
/// each block's data (protocols.md §1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    version: Version,
    codec: u64,
    hash: u64,
    length: u8,
}

impl Prefix {
    /// CIDv1, raw codec, SHA-256: what leaves of our own files have.
    pub const RAW_V1: Self = Self { version: Version::V1, codec: RAW, hash: SHA2_256, length: 32 };
    /// CIDv1, dag-pb, SHA-256.
    pub const DAG_PB_V1: Self = Self { version: Version::V1, codec: DAG_PB, hash: SHA2_256, length: 32 };
    /// CIDv0: dag-pb, SHA-256.
    pub const DAG_PB_V0: Self = Self { version: Version::V0, codec: DAG_PB, hash: SHA2_256, length: 32 };

    /// The prefix of `cid`.
    #[must_use]
    pub fn of(cid: &Cid) -> Self {
        Self { version: cid.version(), codec: cid.codec(), hash: cid.hash().code(), length: cid.hash().size() }
    }

    /// Reads the four varints of a prefix; the slice must hold nothing else.
    ///
    /// # Errors
    /// [`BlockError::Malformed`] for bad varints, trailing bytes or an unknown version;
    /// [`BlockError::DigestLength`] for a length that no accepted digest has.
    pub fn decode(bytes: &[u8]) -> Result<Self, BlockError> {
        let mut rest = bytes;
        let version = varint(&mut rest)?;
        let codec = varint(&mut rest)?;
        let code = varint(&mut rest)?;
        let length = varint(&mut rest)?;
        if !rest.is_empty() {
            return Err(BlockError::Malformed("bytes after the prefix".into()));
        }
        let version = match version {
            0 if codec == DAG_PB && code == SHA2_256 && length == 32 => Version::V0,
            0 => return Err(BlockError::Malformed("version 0 is only for dag-pb with SHA-256".into())),
            1 => Version::V1,
            other => return Err(BlockError::Malformed(format!("CID version {other}"))),
        };
        let short_enough = length <= DIGEST_BYTES_MAX as u64;
        let long_enough = code == IDENTITY || length >= u64::from(hash::DIGEST_BYTES_MIN);
        match u8::try_from(length) {
            Ok(length) if short_enough && long_enough => Ok(Self { version, codec, hash: code, length }),
            _ => Err(BlockError::DigestLength { code, length }),
        }
    }

    /// The four varints of the prefix.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8);
        for number in [u64::from(self.version == Version::V1), self.codec, self.hash, u64::from(self.length)] {
            push_varint(&mut out, number);
        }
        out
    }

    /// The CID of `bytes` under this prefix. A prefix with a shorter digest than the hash's own truncates it.
    ///
    /// # Errors
    /// [`BlockError::UnknownHash`], [`BlockError::DigestLength`].
    pub fn hash(&self, bytes: &[u8]) -> Result<Cid, BlockError> {
        let multihash = if self.hash == IDENTITY {
            let wrong_length = BlockError::DigestLength { code: IDENTITY, length: u64::from(self.length) };
            if bytes.len() != usize::from(self.length) {
                return Err(wrong_length);
            }
            Multihash::wrap(IDENTITY, bytes).map_err(|_| wrong_length)?
        } else {
            hash::digest(self.hash, self.length, &[bytes])?
        };
        match self.version {
            Version::V0 => Cid::new_v0(multihash).map_err(|e| BlockError::Malformed(e.to_string())),
            Version::V1 => Ok(Cid::new_v1(self.codec, multihash)),
        }
    }
}

/// Bytes that are known to hash to their CID.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    bytes: Bytes,
}

impl Block {
    /// Hashes `bytes` and names them by `prefix`.
    ///
    /// # Errors
    /// [`BlockError::TooLarge`] and those of [`Prefix::hash`].
    pub fn seal(prefix: Prefix, bytes: Bytes) -> Result<Self, BlockError> {
        if bytes.len() > BLOCK_BYTES_MAX {
            return Err(BlockError::TooLarge(bytes.len()));
        }
        Ok(Self { cid: prefix.hash(&bytes)?, bytes })
    }

    /// Hashes `bytes` and compares with `cid`.
    ///
    /// # Errors
    /// [`BlockError::Mismatch`] and those of [`Block::seal`].
    pub fn verify(cid: &Cid, bytes: Bytes) -> Result<Self, BlockError> {
        let block = Self::seal(Prefix::of(cid), bytes)?;
        if block.cid == *cid { Ok(block) } else { Err(BlockError::Mismatch(Box::new(*cid))) }
    }

    /// The same bytes under another CID of the same multihash: what somebody wanted as raw may come as dag-pb.
    /// `None` when the multihash differs.
    #[must_use]
    pub fn renamed(&self, cid: &Cid) -> Option<Self> {
        (cid.hash() == self.cid.hash()).then(|| Self { cid: *cid, bytes: self.bytes.clone() })
    }

    /// The same in memory of its own: what arrived is a slice of all that arrived with it, and keeps that in memory.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { cid: self.cid, bytes: Bytes::copy_from_slice(&self.bytes) }
    }

    /// The block's name.
    #[must_use]
    pub const fn cid(&self) -> &Cid {
        &self.cid
    }

    /// The block's bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Gives up the proof and keeps the bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({}, {} bytes)", self.cid, self.bytes.len())
    }
}

/// The content of an identity CID, which never touches a store or the network.
#[must_use]
pub fn identity_content(cid: &Cid) -> Option<&[u8]> {
    (cid.hash().code() == IDENTITY).then(|| cid.hash().digest())
}

/// The content of a CID that needs neither a store nor a peer: of an identity CID, and of the empty block, which boxo
/// never sends (protocols.md §1.4).
#[must_use]
pub fn known_content(cid: &Cid) -> Option<Bytes> {
    if let Some(content) = identity_content(cid) {
        return Some(Bytes::copy_from_slice(content));
    }
    Prefix::of(cid).hash(&[]).is_ok_and(|empty| empty == *cid).then(Bytes::new)
}

/// Reads a CID in text form: CIDv0 (`Qm…`) or any multibase CIDv1.
///
/// # Errors
/// [`BlockError::Malformed`] with the reason.
pub fn parse_cid(text: &str) -> Result<Cid, BlockError> {
    let text = text.strip_prefix("/ipfs/").or_else(|| text.strip_prefix("ipfs://")).unwrap_or(text);
    Cid::try_from(text).map_err(|e| BlockError::Malformed(format!("{text:?} is not a CID: {e}")))
}

/// Takes a minimal unsigned varint of at most nine bytes (63 bits) off the front of `bytes` (protocols.md §4).
///
/// # Errors
/// [`BlockError::Malformed`] when it is cut short, longer than nine bytes or not minimal.
pub fn varint(bytes: &mut &[u8]) -> Result<u64, BlockError> {
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            if byte == 0 && i > 0 {
                return Err(BlockError::Malformed("varint is not minimal".into()));
            }
            *bytes = bytes.get(i + 1..).unwrap_or_default();
            return Ok(value);
        }
    }
    Err(BlockError::Malformed("varint is cut short or too long".into()))
}

/// Appends an unsigned varint.
pub fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

#[expect(clippy::cast_possible_truncation, reason = "the low byte is what is asked for")]
const fn low_byte(value: u64) -> u8 {
    value as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_proof_of_its_cid() {
        let block = Block::seal(Prefix::RAW_V1, Bytes::from_static(b"hello world")).unwrap();
        assert_eq!(block.cid().to_string(), "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e");
        let wrong = Block::verify(block.cid(), Bytes::from_static(b"hello worlt"));
        assert!(matches!(wrong, Err(BlockError::Mismatch(_))));
    }

    #[test]
    fn blocks_of_exactly_the_limit_pass_and_one_more_byte_does_not() {
        let at = Bytes::from(vec![0; BLOCK_BYTES_MAX]);
        assert!(Block::seal(Prefix::RAW_V1, at).is_ok());
        let over = Bytes::from(vec![0; BLOCK_BYTES_MAX + 1]);
        assert_eq!(Block::seal(Prefix::RAW_V1, over), Err(BlockError::TooLarge(BLOCK_BYTES_MAX + 1)));
    }

    #[test]
    fn prefixes_have_the_deployed_bytes() {
        assert_eq!(Prefix::DAG_PB_V0.encode(), [0x00, 0x70, 0x12, 0x20]);
        assert_eq!(Prefix::RAW_V1.encode(), [0x01, 0x55, 0x12, 0x20]);
        for prefix in [Prefix::DAG_PB_V0, Prefix::DAG_PB_V1, Prefix::RAW_V1] {
            assert_eq!(Prefix::decode(&prefix.encode()), Ok(prefix));
        }
        for bad in
            [&[0x00_u8, 0x55, 0x12, 0x20][..], &[2, 0x55, 0x12, 0x20], &[1, 0x55, 0x12], &[1, 0x55, 0x12, 0x20, 0]]
        {
            assert!(Prefix::decode(bad).is_err(), "{bad:?}");
        }
        assert!(Prefix::decode(&[1, 0x55, 0x12, 19]).is_err());
    }

    #[test]
    fn identity_digests_end_at_128_bytes() {
        let prefix = |n: u64| {
            let mut bytes = vec![1, 0x55, 0];
            push_varint(&mut bytes, n);
            Prefix::decode(&bytes)
        };
        let at = prefix(128).unwrap().hash(&[7; 128]).unwrap();
        assert_eq!(identity_content(&at), Some(&[7; 128][..]));
        assert!(prefix(129).is_err());
        assert!(prefix(127).unwrap().hash(&[7; 128]).is_err());
    }

    #[test]
    fn the_empty_block_and_identity_blocks_are_known() {
        for (cid, content) in [
            ("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", Some(&b""[..])),
            ("bafkqaaa", Some(b"")),
            ("bafyaabakaieac", Some(b"\x0a\x02\x08\x01")),
            ("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", None),
        ] {
            assert_eq!(known_content(&parse_cid(cid).unwrap()).as_deref(), content, "{cid}");
        }
    }

    #[test]
    fn varints_are_minimal_and_at_most_63_bits() {
        for value in [0, 1, 127, 128, 300, (1 << 63) - 1] {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, value);
            let mut rest = &bytes[..];
            assert_eq!(varint(&mut rest), Ok(value));
            assert!(rest.is_empty());
        }
        assert!(varint(&mut &[0x80, 0x00][..]).is_err());
        assert!(varint(&mut &[0xff; 10][..]).is_err());
        assert!(varint(&mut &[0x80][..]).is_err());
    }
}
