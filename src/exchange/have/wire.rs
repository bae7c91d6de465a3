//! The messages of `/bitshoal/have/1.0.0` (proto/have.proto) and what they are in memory.
//!
//! Bytes are parsed here, once, into notices that cannot be wrong: leaf numbers below the number of leaves, roots that are
//! CIDs. What they mean is `super`'s business.

use prost::Message as _;
use roaring::RoaringBitmap;

use crate::block::Cid;
use crate::exchange::limits;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/bitshoal.have.rs"));
}

pub use proto::Role;

/// The protocol's name.
pub const PROTOCOL: &str = "/bitshoal/have/1.0.0";

/// Up to so many leaves are sent as numbers; more are shorter as a bitmap.
const NUMBERS_MAX: u64 = 64;

/// What one side says about one file.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// The file's root.
    pub root: Cid,
    /// How many leaves it has.
    pub leaves: u32,
    /// What the sender is to it.
    pub role: Role,
    /// It takes the place of all that was said before.
    pub anew: bool,
    /// Leaves that the sender has.
    pub there: RoaringBitmap,
    /// Leaves that it will have soon.
    pub coming: RoaringBitmap,
    /// Leaves that the receiver should ask the sender for.
    pub yours: RoaringBitmap,
}

/// Why a message is not heeded.
#[derive(Debug, thiserror::Error)]
pub enum HaveError {
    /// It has more bytes or notices than any of ours.
    #[error("a message of {0}, more than is ever sent")]
    TooLong(String),
    /// It is no message of this protocol.
    #[error("not a message: {0}")]
    Format(#[from] prost::DecodeError),
    /// A root that is no CID.
    #[error("a root is no CID")]
    Root,
    /// A file has more leaves than are told of, or a leaf is none of its file.
    #[error("leaf {leaf} of {leaves}")]
    Leaf {
        /// The leaf.
        leaf: u32,
        /// How many there are.
        leaves: u32,
    },
    /// A bitmap that is none.
    #[error("not a bitmap: {0}")]
    Bitmap(std::io::Error),
}

impl Notice {
    /// A notice that names no leaves.
    #[must_use]
    pub fn new(root: Cid, leaves: u32, role: Role) -> Self {
        let none = RoaringBitmap::new;
        Self { root, leaves, role, anew: false, there: none(), coming: none(), yours: none() }
    }
}

/// The bytes of a message, without its length.
#[must_use]
pub fn encode(notices: &[Notice]) -> Vec<u8> {
    let notices = notices.iter().map(|notice| {
        let few = notice.there.len() <= NUMBERS_MAX;
        let mut there_bitmap = Vec::new();
        if !few {
            let mut runs = notice.there.clone();
            runs.optimize();
            runs.serialize_into(&mut there_bitmap).expect("memory takes all that is written");
        }
        proto::Notice {
            root: notice.root.to_bytes(),
            leaves: notice.leaves,
            role: notice.role.into(),
            anew: notice.anew,
            there: if few { notice.there.iter().collect() } else { Vec::new() },
            there_bitmap,
            coming: notice.coming.iter().collect(),
            yours: notice.yours.iter().collect(),
        }
    });
    proto::Haves { notices: notices.collect() }.encode_to_vec()
}

/// The notices of a message.
///
/// # Errors
/// [`HaveError`]: nothing of the message counts.
pub fn decode(bytes: &[u8]) -> Result<Vec<Notice>, HaveError> {
    if bytes.len() > limits::HAVE_MESSAGE_BYTES_MAX {
        return Err(HaveError::TooLong(format!("{} bytes", bytes.len())));
    }
    let message = proto::Haves::decode(bytes)?;
    if message.notices.len() > limits::NOTICES_PER_MESSAGE {
        return Err(HaveError::TooLong(format!("{} notices", message.notices.len())));
    }
    message.notices.into_iter().map(notice).collect()
}

fn notice(notice: proto::Notice) -> Result<Notice, HaveError> {
    let role = notice.role();
    let proto::Notice { root, leaves, anew, there, there_bitmap, coming, yours, .. } = notice;
    if root.len() > limits::CID_BYTES_MAX {
        return Err(HaveError::Root);
    }
    let root = Cid::try_from(root).map_err(|_| HaveError::Root)?;
    let mut set = RoaringBitmap::new();
    if !there_bitmap.is_empty() {
        set = RoaringBitmap::deserialize_from(&*there_bitmap).map_err(HaveError::Bitmap)?;
    }
    set.extend(there);
    let (coming, yours): (RoaringBitmap, RoaringBitmap) = (coming.into_iter().collect(), yours.into_iter().collect());
    let highest = [&set, &coming, &yours].into_iter().filter_map(RoaringBitmap::max).max();
    if leaves > limits::LEAVES_TOLD_MAX {
        return Err(HaveError::Leaf { leaf: leaves, leaves: limits::LEAVES_TOLD_MAX });
    }
    match highest {
        Some(leaf) if leaf >= leaves => Err(HaveError::Leaf { leaf, leaves }),
        _ => Ok(Notice { root, leaves, role, anew, there: set, coming, yours }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use proptest::prelude::*;

    use super::*;
    use crate::block::{Block, Prefix};

    fn root() -> Cid {
        *Block::seal(Prefix::RAW_V1, vec![1, 2, 3].into()).unwrap().cid()
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard(
            there in proptest::collection::btree_set(0_u32..100_000, 0..200),
            coming in proptest::collection::btree_set(0_u32..100_000, 0..9),
            role in 0..4,
            anew: bool,
        ) {
            let mut said = Notice::new(root(), 100_000, Role::try_from(role).unwrap());
            said.anew = anew;
            said.there = there.into_iter().collect();
            said.coming = coming.into_iter().collect();
            said.yours = (7..9).collect();
            let bytes = encode(&[said.clone(), said.clone()]);
            prop_assert_eq!(decode(&bytes).unwrap(), [said.clone(), said]);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_full_file_is_short() {
        let mut all = Notice::new(root(), 1 << 20, Role::Pulls);
        all.there.insert_range(0..1 << 20);
        assert!(encode(&[all]).len() < 1000);
    }

    #[test]
    fn leaves_outside_the_file_are_refused() {
        let mut notice = Notice::new(root(), 10, Role::Pulls);
        notice.there.insert(9);
        decode(&encode(std::slice::from_ref(&notice))).unwrap();
        notice.coming.insert(10);
        assert!(matches!(decode(&encode(&[notice])), Err(HaveError::Leaf { leaf: 10, leaves: 10 })));
        let long = Notice::new(root(), limits::LEAVES_TOLD_MAX + 1, Role::Holds);
        assert!(matches!(decode(&encode(&[long])), Err(HaveError::Leaf { .. })));
        let many = vec![Notice::new(root(), 1, Role::Holds); limits::NOTICES_PER_MESSAGE + 1];
        assert!(matches!(decode(&encode(&many)), Err(HaveError::TooLong(_))));
        decode(&encode(&many[1..])).unwrap();
        assert!(matches!(decode(&vec![0; limits::HAVE_MESSAGE_BYTES_MAX + 1]), Err(HaveError::TooLong(_))));
    }
}
