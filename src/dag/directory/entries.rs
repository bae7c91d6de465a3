//! The entries of a directory that is to be built, packed one behind the other.
//!
//! A directory may have millions of them, each a few dozen bytes: a record takes 10 bytes beside its name and CID, and
//! the arena at most an eighth more than its records.

use std::fmt;

use crate::block::{Cid, push_varint, varint};

/// Entries of a directory, in any order. Nothing is checked before [`super::build`].
#[derive(Default)]
pub struct Entries {
    /// Each a varint and the name, the eight bytes of the size, a byte and the CID.
    records: Vec<u8>,
    length: usize,
}

/// One entry, as it lies in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dag) struct Record<'a> {
    pub(in crate::dag) name: &'a [u8],
    /// In binary form.
    pub(in crate::dag) cid: &'a [u8],
    pub(in crate::dag) tsize: u64,
}

const SOUND: &str = "records are read where they were written";

impl Entries {
    /// Appends an entry: any name, what it stands for, and the bytes of all blocks at and below that.
    pub fn push(&mut self, name: &[u8], cid: &Cid, tsize: u64) {
        let cid_bytes = cid.encoded_len();
        let bytes = name.len() + cid_bytes + 24;
        if self.records.capacity() - self.records.len() < bytes {
            // Doubling would leave up to half of a large arena empty; large ones are moved without copying anyway.
            self.records.reserve_exact(bytes.max(self.records.len() / 8).max(512));
        }
        push_varint(&mut self.records, name.len() as u64);
        self.records.extend_from_slice(name);
        self.records.extend_from_slice(&tsize.to_le_bytes());
        self.records.push(u8::try_from(cid_bytes).expect("a CID is at most 128 bytes and four varints"));
        cid.write_bytes(&mut self.records).expect("writing to memory does not fail");
        self.length += 1;
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All of them, each with the offset that [`Self::at`] knows it by.
    pub(in crate::dag) fn records(&self) -> impl Iterator<Item = (usize, Record<'_>)> {
        let mut rest = &self.records[..];
        std::iter::from_fn(move || {
            let offset = self.records.len() - rest.len();
            (!rest.is_empty()).then(|| (offset, take(&mut rest)))
        })
    }

    /// The entry at an offset that [`Self::records`] gave.
    pub(in crate::dag) fn at(&self, offset: usize) -> Record<'_> {
        take(&mut &self.records[offset..])
    }
}

fn take<'a>(records: &mut &'a [u8]) -> Record<'a> {
    let name_bytes = usize::try_from(varint(records).expect(SOUND)).expect(SOUND);
    let name = records.split_off(..name_bytes).expect(SOUND);
    let tsize = u64::from_le_bytes(*records.split_off(..8).and_then(<[u8]>::as_array).expect(SOUND));
    let cid_bytes = usize::from(*records.split_off_first().expect(SOUND));
    Record { name, cid: records.split_off(..cid_bytes).expect(SOUND), tsize }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entries({}, {} bytes)", self.length, self.records.len())
    }
}

#[cfg(test)]
impl Entries {
    /// Bytes of memory taken.
    pub(super) const fn allocated(&self) -> usize {
        self.records.capacity()
    }
}
