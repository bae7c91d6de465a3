//! Bitswap messages as bytes: frames of a varint length and a protobuf message (protocols.md §1.2).
//!
//! Pure and without copies of block data: a decoded block is a slice of its frame's buffer, an encoded one is the
//! store's own buffer between two small ones. It hashes nothing and decides nothing: [`Decoded`] carries blocks under
//! their prefixes, and whoever holds a thread for it makes [`crate::block::Block`]s of them.
//!
//! Everything here comes from strangers, so a length is compared with its bound before anything is reserved for it, and
//! what a decoded message holds in memory is bounded by [`limits`] as well as by the frame. The protobuf code is
//! hand-written for that and for speed; types generated from `proto/bitswap.proto` check it in the tests.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

use bytes::{BufMut, Bytes, BytesMut};

use super::limits;
use super::message::{Outgoing, Presence, Version, WantEntry, WantKind};
use crate::block::{self, BlockError, Cid, Prefix};

/// Bytes that a frame's length may take: five hold 35 bits, more than any length that is not refused anyway.
const LENGTH_BYTES_MAX: usize = 5;

/// Blocks of one message. We never ask a peer for more than [`limits::WANTS_PER_PEER`], so an honest message stays far
/// below; without a bound 4 MiB of empty blocks would be 2 million values in memory.
const BLOCKS_PER_MESSAGE_MAX: usize = limits::WANTLIST_ENTRIES_HEEDED;

/// Blocks below this many bytes are copied into the header part next to them: a part of its own costs a write, which
/// is dearer than so short a copy.
const INLINE_BYTES: usize = 4096;

/// The wire types of protobuf that are still in use.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

/// Why bytes are not a message. Each is a reason to reset the stream they came on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The frame announces more bytes than [`limits::MESSAGE_BYTES_MAX`].
    #[error("message of {0} bytes is larger than the limit of {max}", max = limits::MESSAGE_BYTES_MAX)]
    TooLong(u64),
    /// The bytes are not protobuf, or not of a Bitswap message.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// A CID, or the prefix of a block, is not acceptable; or a block is too large.
    #[error("unacceptable message: {0}")]
    Block(#[from] BlockError),
    /// More blocks than anybody asked for.
    #[error("more than {BLOCKS_PER_MESSAGE_MAX} blocks in one message")]
    TooManyBlocks,
}

/// What the first bytes of a frame say about its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameLength {
    /// The length goes on in bytes that have not arrived yet.
    Incomplete,
    /// The length is known and within the limit.
    Ready {
        /// Length of the message, in bytes.
        length: usize,
        /// Length of the length itself, in bytes.
        header_bytes: usize,
    },
}

/// Reads the length at the front of `bytes`, which may hold more or less than that.
///
/// # Errors
/// [`WireError::TooLong`] when its value exceeds [`limits::MESSAGE_BYTES_MAX`], [`WireError::Malformed`] when it is
/// not a minimal varint or takes more than five bytes.
pub fn frame_length(bytes: &[u8]) -> Result<FrameLength, WireError> {
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().take(LENGTH_BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 != 0 {
            continue;
        }
        if byte == 0 && i > 0 {
            return Err(WireError::Malformed("frame length is not minimal"));
        }
        return match usize::try_from(value) {
            Ok(length) if length <= limits::MESSAGE_BYTES_MAX => Ok(FrameLength::Ready { length, header_bytes: i + 1 }),
            _ => Err(WireError::TooLong(value)),
        };
    }
    if bytes.len() < LENGTH_BYTES_MAX {
        Ok(FrameLength::Incomplete)
    } else {
        Err(WireError::Malformed("frame length takes too many bytes"))
    }
}

/// A message as it arrived, its blocks not yet hashed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// True when `wants` replaces everything that the peer wanted before.
    pub full: bool,
    /// Wants and cancels, as sent; the first [`limits::WANTLIST_ENTRIES_HEEDED`].
    pub wants: Vec<WantEntry>,
    /// Blocks with the prefixes under which they are to be hashed; slices of the frame.
    pub blocks: Vec<(Prefix, Bytes)>,
    /// Presences, as sent; the first [`limits::WANTLIST_ENTRIES_HEEDED`].
    pub presences: Vec<(Cid, Presence)>,
    /// Bytes that the peer has queued for us behind this message.
    pub pending_bytes: u32,
}

/// Decodes one message, `frame` being all of it without its length.
///
/// Unknown fields and unknown kinds of wants and presences are skipped, and so are CIDs longer than
/// [`limits::CID_BYTES_MAX`] or with a longer digest than any hash that is accepted, and blocks whose hash cannot be
/// computed here: nobody wants those, and the rest of the message may be of use. Protobuf's deprecated groups are
/// refused: Bitswap never had one.
///
/// # Errors
/// Any [`WireError`] but `TooLong`. One malformed CID or prefix condemns the whole message, as it does in boxo.
pub fn decode(frame: &Bytes) -> Result<Decoded, WireError> {
    let mut message = Decoded::default();
    let mut fields = Fields(frame);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => wantlist(value.bytes()?, &mut message)?,
            2 => push_block(&mut message, frame, Prefix::DAG_PB_V0, value.bytes()?)?,
            3 => {
                if let Some((prefix, data)) = payload(value.bytes()?)? {
                    push_block(&mut message, frame, prefix, data)?;
                }
            }
            4 => {
                let bytes = value.bytes()?;
                if message.presences.len() < limits::WANTLIST_ENTRIES_HEEDED {
                    message.presences.extend(presence(bytes)?);
                }
            }
            5 => message.pending_bytes = u32::try_from(value.int32()?).unwrap_or(0),
            _ => {}
        }
    }
    Ok(message)
}

fn wantlist(bytes: &[u8], message: &mut Decoded) -> Result<(), WireError> {
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => {
                let bytes = value.bytes()?;
                if message.wants.len() < limits::WANTLIST_ENTRIES_HEEDED {
                    message.wants.extend(want_entry(bytes)?);
                }
            }
            2 => message.full = value.bool()?,
            _ => {}
        }
    }
    Ok(())
}

fn want_entry(bytes: &[u8]) -> Result<Option<WantEntry>, WireError> {
    let (mut name, mut priority, mut cancel, mut kind, mut send_dont_have) = (&[][..], 0, false, 0, false);
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => name = value.bytes()?,
            2 => priority = value.int32()?,
            3 => cancel = value.bool()?,
            4 => kind = value.int32()?,
            5 => send_dont_have = value.bool()?,
            _ => {}
        }
    }
    let Some(cid) = cid(name)? else { return Ok(None) };
    let kind = match kind {
        0 => WantKind::Block,
        1 => WantKind::Have,
        _ => return Ok(None),
    };
    Ok(Some(WantEntry { cid, priority, kind, cancel, send_dont_have }))
}

/// A block under its prefix; `None` when it cannot be hashed.
fn payload(bytes: &[u8]) -> Result<Option<(Prefix, &[u8])>, WireError> {
    let (mut prefix, mut data) = (&[][..], &[][..]);
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => prefix = value.bytes()?,
            2 => data = value.bytes()?,
            _ => {}
        }
    }
    // A prefix that can hash nothing can hash nothing else either. That of identity, whose length is its content's,
    // mostly cannot; but such blocks are never asked for.
    match Prefix::decode(prefix).and_then(|prefix| prefix.hash(&[]).map(|_| prefix)) {
        Ok(prefix) => Ok(Some((prefix, data))),
        Err(BlockError::UnknownHash(_) | BlockError::DigestLength { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn push_block(message: &mut Decoded, frame: &Bytes, prefix: Prefix, data: &[u8]) -> Result<(), WireError> {
    if data.len() > block::BLOCK_BYTES_MAX {
        return Err(BlockError::TooLarge(data.len()).into());
    }
    if message.blocks.len() == BLOCKS_PER_MESSAGE_MAX {
        return Err(WireError::TooManyBlocks);
    }
    message.blocks.push((prefix, frame.slice_ref(data)));
    Ok(())
}

fn presence(bytes: &[u8]) -> Result<Option<(Cid, Presence)>, WireError> {
    let (mut name, mut kind) = (&[][..], 0);
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => name = value.bytes()?,
            2 => kind = value.int32()?,
            _ => {}
        }
    }
    let Some(cid) = cid(name)? else { return Ok(None) };
    Ok(match kind {
        0 => Some((cid, Presence::Have)),
        1 => Some((cid, Presence::DontHave)),
        _ => None,
    })
}

/// A binary CID that fills `bytes`; `None` when it is longer than anybody heeds, or its digest is.
fn cid(bytes: &[u8]) -> Result<Option<Cid>, WireError> {
    if bytes.len() > limits::CID_BYTES_MAX || digest_is_too_long(bytes) {
        return Ok(None);
    }
    let mut rest = bytes;
    let cid = Cid::read_bytes(&mut rest).map_err(|e| BlockError::Malformed(e.to_string()))?;
    if rest.is_empty() { Ok(Some(cid)) } else { Err(WireError::Malformed("bytes after a CID")) }
}

/// Whether `bytes` are a well-formed CID with a digest longer than [`Cid`] can hold.
fn digest_is_too_long(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let numbers = [(); 4].map(|()| block::varint(&mut rest));
    match numbers {
        [Ok(1), Ok(_codec), Ok(_hash), Ok(length)] => {
            length > block::DIGEST_BYTES_MAX as u64 && length == rest.len() as u64
        }
        _ => false,
    }
}

/// The fields of a protobuf message, in order.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Varint(u64),
    Delimited(&'a [u8]),
    /// Four or eight bytes: no field of ours has them.
    Fixed,
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = match u32::try_from(key) {
            Ok(key) if key >> 3 != 0 => key >> 3,
            _ => return Err(WireError::Malformed("field number out of range")),
        };
        let value = match key & 7 {
            VARINT => Value::Varint(self.varint()?),
            DELIMITED => {
                let length = self.varint()?;
                Value::Delimited(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            FIXED64 => self.take(8).map(|_| Value::Fixed)?,
            FIXED32 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(WireError::Malformed("wire type is not in use")),
        };
        Ok(Some((number, value)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(WireError::Malformed("field is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// A varint by protobuf's rules: up to ten bytes and 64 bits, minimal or not.
    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for (i, &byte) in self.0.iter().take(10).enumerate() {
            if i == 9 && byte > 1 {
                return Err(WireError::Malformed("varint exceeds 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = self.0.get(i + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(WireError::Malformed("varint is cut short"))
    }
}

impl<'a> Value<'a> {
    const fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Self::Delimited(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed => Err(WireError::Malformed("field is not of its type")),
        }
    }

    const fn varint(self) -> Result<u64, WireError> {
        match self {
            Self::Varint(value) => Ok(value),
            Self::Delimited(_) | Self::Fixed => Err(WireError::Malformed("field is not of its type")),
        }
    }

    fn bool(self) -> Result<bool, WireError> {
        Ok(self.varint()? != 0)
    }

    /// The lower 32 bits, as protobuf wants it for both int32 and enums.
    fn int32(self) -> Result<i32, WireError> {
        let [a, b, c, d, ..] = self.varint()?.to_le_bytes();
        Ok(i32::from_le_bytes([a, b, c, d]))
    }
}

/// One complete frame, length included, as buffers to be written in this order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Small headers and, between them, the blocks' own buffers.
    pub parts: Vec<Bytes>,
    /// Sum of the lengths of its blocks, in bytes.
    pub block_bytes: usize,
}

/// Encodes `message` for a peer that speaks `version`, in as few frames as [`limits::MESSAGE_BYTES_MAX`] allows; none
/// when nothing is left to say in that version.
///
/// Before 1.2 there are no presences, and wants for them are left out; in 1.0 blocks go without prefixes. `full` is on
/// the first frame only, and pending bytes count the blocks of the frames that follow. A message's block may have at
/// most [`block::BLOCK_BYTES_MAX`] bytes, which holds for whatever was a [`block::Block`] once.
#[must_use]
pub fn encode(message: &Outgoing, version: Version) -> Vec<Frame> {
    let mut drafts = Drafts::default();
    let mut scratch = Vec::with_capacity(64);
    for want in &message.wants {
        if version >= Version::V120 || want.cancel || want.kind == WantKind::Block {
            scratch.clear();
            push_want(&mut scratch, want, version);
            let draft = drafts.room_for(3 + scratch.len());
            draft.wants.push(0x0a);
            push_delimited(&mut draft.wants, &scratch);
        }
    }
    for (cid, bytes) in &message.blocks {
        let head = block_head(cid, bytes.len(), version);
        let draft = drafts.room_for(head.len() + bytes.len());
        draft.blocks_wire += head.len() + bytes.len();
        draft.block_bytes += bytes.len();
        draft.blocks.push((head, bytes));
    }
    if version >= Version::V120 {
        for (cid, presence) in &message.presences {
            scratch.clear();
            scratch.push(0x0a);
            push_delimited(&mut scratch, &cid.to_bytes());
            if *presence == Presence::DontHave {
                scratch.extend([0x10, 1]);
            }
            let draft = drafts.room_for(3 + scratch.len());
            draft.presences.push(0x22);
            push_delimited(&mut draft.presences, &scratch);
        }
    }
    if message.full && drafts.0.is_empty() {
        drafts.0.push(Draft::default());
    }

    let mut pending = usize::try_from(message.pending_bytes).unwrap_or(usize::MAX);
    let mut frames = Vec::with_capacity(drafts.0.len());
    for (i, draft) in drafts.0.into_iter().enumerate().rev() {
        let block_bytes = draft.block_bytes;
        let announced = if version >= Version::V120 { i32::try_from(pending).unwrap_or(i32::MAX) } else { 0 };
        frames.push(draft.finish(message.full && i == 0, announced));
        pending = pending.saturating_add(block_bytes);
    }
    frames.reverse();
    frames
}

fn push_want(out: &mut Vec<u8>, want: &WantEntry, version: Version) {
    out.push(0x0a);
    push_delimited(out, &want.cid.to_bytes());
    if want.priority != 0 {
        out.push(0x10);
        block::push_varint(out, i64::from(want.priority).cast_unsigned());
    }
    if want.cancel {
        out.extend([0x18, 1]);
    }
    if version >= Version::V120 {
        if want.kind == WantKind::Have {
            out.extend([0x20, 1]);
        }
        if want.send_dont_have {
            out.extend([0x28, 1]);
        }
    }
}

/// Everything of a block's field but its data, which comes last.
fn block_head(cid: &Cid, length: usize, version: Version) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    if version == Version::V100 {
        out.push(0x12);
        block::push_varint(&mut out, length as u64);
        return out;
    }
    let mut inner = Vec::with_capacity(16);
    inner.push(0x0a);
    push_delimited(&mut inner, &Prefix::of(cid).encode());
    inner.push(0x12);
    block::push_varint(&mut inner, length as u64);
    out.push(0x1a);
    block::push_varint(&mut out, (inner.len() + length) as u64);
    out.extend(inner);
    out
}

fn push_delimited(out: &mut Vec<u8>, bytes: &[u8]) {
    block::push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[derive(Default)]
struct Drafts<'a>(Vec<Draft<'a>>);

/// The content of one frame while it is collected.
#[derive(Default)]
struct Draft<'a> {
    wants: Vec<u8>,
    blocks: Vec<(Vec<u8>, &'a Bytes)>,
    blocks_wire: usize,
    block_bytes: usize,
    presences: Vec<u8>,
}

impl<'a> Drafts<'a> {
    /// The draft that takes `bytes` more: the last one, or a new one when that is full.
    fn room_for(&mut self, bytes: usize) -> &mut Draft<'a> {
        if self.0.last().is_none_or(|draft| draft.length_at_most() + bytes > limits::MESSAGE_BYTES_MAX) {
            self.0.push(Draft::default());
        }
        let last = self.0.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "one was pushed if there was none; nothing foreign is involved")]
        &mut self.0[last]
    }
}

impl Draft<'_> {
    /// Upper bound of the message's length: the wantlist's key and length (4 bytes up to 256 MiB), `full`, and the
    /// pending bytes take 13 bytes at most.
    const fn length_at_most(&self) -> usize {
        13 + self.wants.len() + self.blocks_wire + self.presences.len()
    }

    fn finish(self, full: bool, pending: i32) -> Frame {
        let mut start = vec![0x0a];
        block::push_varint(&mut start, self.wants.len() as u64 + 2);
        let mut end = Vec::with_capacity(6);
        if pending > 0 {
            end.push(0x28);
            block::push_varint(&mut end, i64::from(pending).cast_unsigned());
        }
        let length = start.len() + self.wants.len() + 2 + self.blocks_wire + self.presences.len() + end.len();
        let mut head = Vec::with_capacity(LENGTH_BYTES_MAX);
        block::push_varint(&mut head, length as u64);

        let mut parts = Vec::new();
        // One allocation serves all small parts; a block's own buffer goes between two of them.
        let own: usize = self.blocks.iter().map(|(_, b)| if b.len() >= INLINE_BYTES { b.len() } else { 0 }).sum();
        let mut small = BytesMut::with_capacity((head.len() + length).saturating_sub(own));
        small.put_slice(&head);
        small.put_slice(&start);
        small.put_slice(&self.wants);
        // Go writes the wantlist even when it is empty, `full` included; readers exist that count on neither.
        small.put_slice(&[0x10, u8::from(full)]);
        for (head, bytes) in self.blocks {
            small.put_slice(&head);
            if bytes.len() < INLINE_BYTES {
                small.put_slice(bytes);
            } else {
                parts.push(small.split().freeze());
                parts.push(bytes.clone());
            }
        }
        small.put_slice(&self.presences);
        small.put_slice(&end);
        if !small.is_empty() {
            parts.push(small.freeze());
        }
        Frame { parts, block_bytes: self.block_bytes }
    }
}

#[cfg(test)]
mod tests;
