//! The UnixFS message inside a dag-pb node: bytes ↔ [`Data`] (protocols.md §3.1).
//!
//! Reads leniently what Go's protobuf would read (any order, unknown fields, packed sizes), writes by field number and
//! unpacked, as Kubo does. It checks no sum and no link count: a message knows nothing of its node ([`super::walk`]).

#![deny(clippy::indexing_slicing)]

use std::fmt;

use bytes::Bytes;

use super::{
    DagError,
    proto::{Reader, Value, push_bytes, push_number},
};
use crate::block::push_varint;

/// What a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Bytes of a file, in a leaf (trickle trees, old importers).
    Raw,
    /// A directory in one node.
    Directory,
    /// A file or a part of one.
    File,
    /// Unused.
    Metadata,
    /// A symbolic link.
    Symlink,
    /// A directory spread over many nodes, or a part of one.
    HamtShard,
}

/// A modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds into the second, below 10⁹; 0 is not written.
    pub nanos: u32,
}

/// What a file system knows of an entry beside its bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permissions in the low 12 bits; the others are reserved.
    pub mode: Option<u32>,
    /// When it was last changed.
    pub mtime: Option<Mtime>,
}

impl Metadata {
    /// Replaces what `data` has of it.
    pub const fn set_in(self, data: &mut Data) {
        data.mode = self.mode;
        data.mtime = self.mtime;
    }
}

/// One UnixFS message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// What the node is.
    pub kind: Kind,
    /// File bytes, a symlink's target or a HAMT's bit field.
    pub data: Option<Bytes>,
    /// Bytes of the file at and below this node.
    pub filesize: Option<u64>,
    /// File bytes below each link, in the links' order.
    pub blocksizes: Vec<u64>,
    /// HAMT: multihash code of the names' hash.
    pub hash_type: Option<u64>,
    /// HAMT: children per node.
    pub fanout: Option<u64>,
    /// Permissions in the low 12 bits, the others reserved and kept.
    pub mode: Option<u32>,
    /// Modification time.
    pub mtime: Option<Mtime>,
}

const NANOS_PER_SECOND: u32 = 1_000_000_000;

impl Data {
    /// A message of `kind` with nothing else.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            data: None,
            filesize: None,
            blocksizes: Vec::new(),
            hash_type: None,
            fanout: None,
            mode: None,
            mtime: None,
        }
    }

    /// Its mode and modification time.
    #[must_use]
    pub const fn metadata(&self) -> Metadata {
        Metadata { mode: self.mode, mtime: self.mtime }
    }

    /// Reads a message; file bytes stay a slice of it.
    ///
    /// # Errors
    /// [`DagError::Unixfs`].
    pub fn decode(bytes: &Bytes) -> Result<Self, DagError> {
        let mut out = Self::new(Kind::Raw);
        let mut kind = None;
        let mut reader = Reader::new(bytes);
        while let Some((field, value)) = reader.next().map_err(DagError::Unixfs)? {
            match (field, value) {
                (1, Value::Varint(number)) => kind = Some(Kind::from_number(number)?),
                (2, Value::Bytes(bytes)) => out.data = Some(bytes),
                (3, Value::Varint(number)) => out.filesize = Some(number),
                (4, Value::Varint(number)) => out.blocksizes.push(number),
                (4, Value::Bytes(packed)) => {
                    let mut packed = Reader::new(&packed);
                    while let Some(number) = packed.next_varint().map_err(DagError::Unixfs)? {
                        out.blocksizes.push(number);
                    }
                }
                (5, Value::Varint(number)) => out.hash_type = Some(number),
                (6, Value::Varint(number)) => out.fanout = Some(number),
                (7, Value::Varint(number)) => {
                    let mode = u32::try_from(number).map_err(|_| DagError::Unixfs("the mode does not fit 32 bits"))?;
                    out.mode = Some(mode);
                }
                (8, Value::Bytes(bytes)) => out.mtime = Some(Mtime::decode(&bytes)?),
                (1..=8, _) => return Err(DagError::Unixfs("a field has the wrong wire type")),
                _ => {}
            }
        }
        out.kind = kind.ok_or(DagError::Unixfs("it has no type"))?;
        Ok(out)
    }

    /// Writes the message as Kubo does: fields by number, sizes unpacked.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let data_bytes = self.data.as_ref().map_or(0, Bytes::len);
        let mut out = Vec::with_capacity(data_bytes + self.blocksizes.len() * 5 + 48);
        push_number(&mut out, 1, self.kind.number());
        if let Some(data) = &self.data {
            push_bytes(&mut out, 2, data);
        }
        if let Some(size) = self.filesize {
            push_number(&mut out, 3, size);
        }
        for &size in &self.blocksizes {
            push_number(&mut out, 4, size);
        }
        for (field, value) in [(5, self.hash_type), (6, self.fanout), (7, self.mode.map(u64::from))] {
            if let Some(value) = value {
                push_number(&mut out, field, value);
            }
        }
        if let Some(mtime) = &self.mtime {
            push_bytes(&mut out, 8, &mtime.encode());
        }
        out
    }
}

impl Kind {
    const fn number(self) -> u64 {
        match self {
            Self::Raw => 0,
            Self::Directory => 1,
            Self::File => 2,
            Self::Metadata => 3,
            Self::Symlink => 4,
            Self::HamtShard => 5,
        }
    }

    const fn from_number(number: u64) -> Result<Self, DagError> {
        Ok(match number {
            0 => Self::Raw,
            1 => Self::Directory,
            2 => Self::File,
            3 => Self::Metadata,
            4 => Self::Symlink,
            5 => Self::HamtShard,
            _ => return Err(DagError::Unixfs("its type is unknown")),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw node",
            Self::Directory => "directory",
            Self::File => "file",
            Self::Metadata => "metadata node",
            Self::Symlink => "symbolic link",
            Self::HamtShard => "sharded directory",
        })
    }
}

impl Mtime {
    fn decode(bytes: &Bytes) -> Result<Self, DagError> {
        let mut seconds = None;
        let mut nanos = 0;
        let mut reader = Reader::new(bytes);
        while let Some((field, value)) = reader.next().map_err(DagError::Unixfs)? {
            match (field, value) {
                (1, Value::Varint(number)) => seconds = Some(number.cast_signed()),
                (2, Value::Fixed32(number)) if number < NANOS_PER_SECOND => nanos = number,
                (1 | 2, _) => return Err(DagError::Unixfs("its modification time is malformed")),
                _ => {}
            }
        }
        let seconds = seconds.ok_or(DagError::Unixfs("its modification time has no seconds"))?;
        Ok(Self { seconds, nanos })
    }

    fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        push_number(&mut out, 1, self.seconds.cast_unsigned());
        if self.nanos != 0 {
            push_varint(&mut out, 2 << 3 | 5);
            out.extend_from_slice(&self.nanos.to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Bytes {
        HEXLOWER.decode(text.replace(' ', "").as_bytes()).unwrap().into()
    }

    #[test]
    fn kubos_bytes_are_written() {
        let empty = Data { filesize: Some(0), ..Data::new(Kind::File) };
        assert_eq!(empty.encode(), *hex("0802 1800"));
        assert_eq!(Data::new(Kind::Directory).encode(), *hex("0801"));
        let inner = Data { filesize: Some(300), blocksizes: vec![256, 44], ..Data::new(Kind::File) };
        assert_eq!(inner.encode(), *hex("0802 18ac02 208002 202c"));
        let link = Data { data: Some(Bytes::from_static(b"foo")), ..Data::new(Kind::Symlink) };
        assert_eq!(link.encode(), *hex("0804 1203666f6f"));
        let shard =
            Data { data: Some(hex("01")), hash_type: Some(0x22), fanout: Some(256), ..Data::new(Kind::HamtShard) };
        assert_eq!(shard.encode(), *hex("0805 120101 2822 308002"));
        let dated = Data { mode: Some(0o640), mtime: Some(Mtime { seconds: -1, nanos: 5 }), ..Data::new(Kind::File) };
        assert_eq!(dated.encode(), *hex("0802 38a003 4210 08ffffffffffffffffff01 1505000000"));
    }

    #[test]
    fn packed_unordered_and_unknown_fields_are_read() {
        let read = Data::decode(&hex("2203 8002 2c 18ac02 7a0101 0802")).unwrap();
        assert_eq!(read.blocksizes, [256, 44]);
        assert_eq!((read.kind, read.filesize), (Kind::File, Some(300)));
    }

    #[test]
    fn malformed_messages_are_refused() {
        for bad in [
            "",
            "1800",
            "0806",
            "0802 1000",
            "0802 1a00",
            "0802 3880808080 10",
            "0802 4200",
            "0802 4207 0801 15 00ca9a3b",
            "0802 12ff",
            "0802 2201 80",
        ] {
            assert!(matches!(Data::decode(&hex(bad)), Err(DagError::Unixfs(_))), "{bad}");
        }
        assert!(Data::decode(&hex("0802 4207 0801 15 ffc99a3b")).is_ok(), "999 999 999 ns");
    }

    fn any_data() -> impl Strategy<Value = Data> {
        let kind = prop::sample::select(vec![
            Kind::Raw,
            Kind::Directory,
            Kind::File,
            Kind::Metadata,
            Kind::Symlink,
            Kind::HamtShard,
        ]);
        let mtime = (any::<i64>(), 0..NANOS_PER_SECOND).prop_map(|(seconds, nanos)| Mtime { seconds, nanos });
        (
            (kind, prop::option::of(prop::collection::vec(any::<u8>(), 0..50)), any::<Option<u64>>()),
            prop::collection::vec(any::<u64>(), 0..20),
            (any::<Option<u64>>(), any::<Option<u64>>(), any::<Option<u32>>(), prop::option::of(mtime)),
        )
            .prop_map(|((kind, data, filesize), blocksizes, (hash_type, fanout, mode, mtime))| Data {
                kind,
                data: data.map(Bytes::from),
                filesize,
                blocksizes,
                hash_type,
                fanout,
                mode,
                mtime,
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(data in any_data()) {
            prop_assert_eq!(Data::decode(&Bytes::from(data.encode())), Ok(data));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Data::decode(&Bytes::from(bytes));
        }
    }
}
