//! Every bound of the exchange, in one place, each with its reason.
//!
//! What a peer can grow has its bound here and a test at the bound and one past it. Nothing here is configuration.

use std::time::Duration;

/// The largest message, in bytes, both ways. boxo's reader resets the stream beyond it (protocols.md §1.2).
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a want is counted for at most, in bytes, whatever its session expects: the largest block.
pub const WANT_BYTES_MAX: u32 = 2 * 1024 * 1024;

/// The longest CID that is heeded, in bytes; boxo ignores longer ones (protocols.md §1.5).
pub const CID_BYTES_MAX: usize = 168;

/// Wants that one peer keeps for another. boxo drops the rest in silence, so we never ask for more either.
pub const WANTS_PER_PEER: usize = 1024;

/// The share of [`WANTS_PER_PEER`] that is for blocks: 16 MiB of blocks of 64 KiB.
pub const WANT_BLOCKS_PER_PEER: usize = 256;

/// The share of [`WANTS_PER_PEER`] that is for presences: what one peer is asked ahead of time.
pub const WANT_HAVES_PER_PEER: usize = WANTS_PER_PEER - WANT_BLOCKS_PER_PEER;

/// WANT-HAVEs in one go. A batch takes one round trip, and most of its answers should still be of use then.
pub const WANT_HAVES_PER_BATCH: usize = 128;

/// Cancels of WANT-HAVEs wait for company until there are so many.
pub const CANCELS_WAITING_MAX: usize = 64;

/// Wantlist entries in one message that are sent. A CID of 36 bytes makes an entry of some 50: 512 of them are 25 KiB,
/// small enough to be read at once and far below the 2 MiB that boxo allows for wantlists.
pub const WANTLIST_ENTRIES_PER_MESSAGE: usize = 512;

/// Wantlist entries of one received message that are heeded. A full ledger plus as many cancels fits; the rest of a
/// hostile list costs nothing.
pub const WANTLIST_ENTRIES_HEEDED: usize = 4 * WANTS_PER_PEER;

/// Blocks up to this many bytes are sent in place of a HAVE: asking again would cost more (boxo).
pub const HAVE_REPLACED_BYTES_MAX: u32 = 1024;

/// Presences in one message. At some 42 bytes each this is 43 KiB.
pub const PRESENCES_PER_MESSAGE: usize = 1024;

/// Block bytes from the read request until the message has left, for one peer. Bounds memory per peer, and is enough
/// for a link of 4 MiB of bandwidth × delay (1 Gbit/s at 33 ms).
pub const SERVE_BYTES_PER_PEER: usize = 4 * 1024 * 1024;

/// The same for all peers together: the server's whole memory for blocks.
pub const SERVE_BYTES_TOTAL: usize = 32 * 1024 * 1024;

/// Blocks of at least this many bytes go alone in their message: packing them gains nothing and delays the first.
pub const BLOCK_ALONE_BYTES_MIN: usize = 64 * 1024;

/// Smaller blocks are packed until a message has this many block bytes.
pub const PACKED_BYTES_MAX: usize = 256 * 1024;

/// Items of one read request: 256 small blocks fill a packed message.
pub const READS_PER_TICKET: usize = 256;

/// Streams that one connection may have open towards us at a time. boxo opens one for each response message; it has
/// at most 8 workers, and a few are closing while new ones open.
pub const STREAMS_PER_CONNECTION: usize = 64;

/// Bytes of messages that one connection may have between the length of a frame and its delivery, all streams
/// together; a stream whose next message does not fit waits. As much as we ever ask of a peer at a time, so that only
/// one that sends what nobody asked for is held up; without it 64 streams could hold 1 GiB.
pub const RECEIVE_BYTES_PER_CONNECTION: usize = 16 * 1024 * 1024;

/// What a pipeline to a peer starts with, in bytes asked for and not yet received.
pub const PIPELINE_BYTES_START: u32 = 4 * 1024 * 1024;

/// The widest pipeline, in bytes: 16 blocks of 1 MiB, or 1 Gbit/s at 130 ms.
pub const PIPELINE_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// The narrowest pipeline holds this many blocks, so that the peer works on one while another is under way.
pub const PIPELINE_BLOCKS_MIN: usize = 2;

/// Blocks that a peer may be asked for before it has them, as it said it soon would: enough to be sent the moment they
/// are there, few enough that they can come from somebody else meanwhile.
pub const COMING_PER_PEER: usize = 2;

/// A want is overdue after this long at least, however fast its peer is.
pub const OVERDUE_MIN: Duration = Duration::from_secs(2);

/// A want is overdue after this long at most, however slow its peer has been: one that stalls keeps its old pace on
/// paper, and that may be a block in an hour.
pub const OVERDUE_MAX: Duration = Duration::from_secs(60);

/// A want is overdue when it has taken this many times as long as its peer's rate promised.
pub const OVERDUE_FACTOR: u32 = 4;

/// A WANT-HAVE that is not answered after this long counts as answered DONT_HAVE.
pub const PRESENCE_AFTER: Duration = Duration::from_secs(10);

/// A peer that failed to send a block is not asked for that block again for this long while others may have it.
pub const SHUNNED_FOR: Duration = Duration::from_secs(30);

/// The same when nobody else has it: the peer may just have lost the want.
pub const SHUNNED_ALONE_FOR: Duration = Duration::from_secs(5);

/// A want that nobody else can answer is sent again to its peer after this long (boxo).
pub const RESEND_AFTER: Duration = Duration::from_secs(30);

/// The longest message about who has what, in bytes: the bitmap of a file of [`LEAVES_TOLD_MAX`] leaves fits.
pub const HAVE_MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024 + 64 * 1024;

/// Notices in one message about who has what.
pub const NOTICES_PER_MESSAGE: usize = 64;

/// Files with more leaves than this are pulled without telling who has what: 16 TiB at 1 MiB a leaf. A bitmap of one has
/// 2 MiB.
pub const LEAVES_TOLD_MAX: u32 = 1 << 24;

/// Files of which one peer may tell us, and have us tell.
pub const FILES_TOLD_PER_PEER: usize = 256;

/// Bytes of bitmaps that one peer's words may take.
pub const TOLD_BYTES_PER_PEER: usize = 4 * 1024 * 1024;
