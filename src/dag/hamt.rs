//! Sharded directories: a trie of nodes over the hash of each name, both ways (protocols.md §3.7).
//!
//! Each level takes some bits of the hash, the most significant first. A name that is alone at its bits is an entry
//! there, names that share them are in a sub-shard. [`super::directory::build`] makes the one trie that a set of
//! entries has, whatever order they came in. A foreign shard is a [`ShardNode`] and says nothing of where it stands: a
//! [`ShardPlace`] goes along with the walk, so that every entry is known to stand where anybody would look for it. That
//! also makes every name of a whole trie different, and lets no two places share a shard that has entries.
//!
//! Only shards without entries can be shared, and the deepest cannot have sub-shards: a walk that takes the shard found
//! last first meets a refusal when it comes to a deepest one for the second time. It should count all the same
//! ([`shards_max`]).

mod murmur3;

use bytes::Bytes;

use super::{
    dagpb::{Link, push_link},
    directory::{BuildError, DirError, Entries, Entry, LinkTo, Nodes, Step, readable},
    proto::push_bytes,
    unixfs::{Data, Kind, Metadata},
};
use crate::block::Cid;

/// Multihash code of the names' hash.
const MURMUR3: u64 = 0x22;
/// As everybody reads them (boxo's maximum, and a bit field of whole bytes).
const FANOUT_MIN: u64 = 8;
const FANOUT_MAX: u64 = 1024;
const BIT_FIELD_BYTES_MAX: usize = 128;
const _: () = assert!(BIT_FIELD_BYTES_MAX as u64 * 8 == FANOUT_MAX);
/// Bits of a name's hash.
const HASH_BITS: u32 = u64::BITS;

/// How many shards a walk may meet until it has met so many entries, before the directory is taken for a bomb. Real
/// ones have fewer shards than entries, but for a few where two names agree in many bits; the rest is for walks that
/// are in a hundred shards at once. A walk breadth first meets no entry for a long time and cannot use this.
#[must_use]
pub const fn shards_max(entries: u64) -> u64 {
    entries.saturating_mul(8).saturating_add(4096)
}

/// Whether shards may have so many children.
pub(in crate::dag) const fn is_fanout(fanout: u64) -> bool {
    fanout.is_power_of_two() && FANOUT_MIN <= fanout && fanout <= FANOUT_MAX
}

/// Makes the shards of a directory, children before parents.
pub(in crate::dag) fn build(
    fanout: u64,
    entries: &Entries,
    metadata: Metadata,
    nodes: &mut Nodes<'_>,
) -> Result<LinkTo, BuildError> {
    let mut hashed = Vec::with_capacity(entries.len());
    hashed.extend(entries.records().map(|(offset, record)| Hashed { hash: murmur3::hash(record.name), offset }));
    // Sorted by hash, what belongs into one shard is one slice, on every level.
    hashed.sort_unstable_by_key(|name| name.hash);
    Shards { level: Level::new(fanout), entries, nodes }.build(&hashed, 0, metadata)
}

/// An entry of the arena.
struct Hashed {
    hash: u64,
    offset: usize,
}

struct Shards<'a, 'b> {
    level: Level,
    entries: &'a Entries,
    nodes: &'a mut Nodes<'b>,
}

impl Shards<'_, '_> {
    /// Makes the shard of all these names, which agree in their hashes' first `used` bits. Recurses at most
    /// [`HASH_BITS`] / 3 times.
    fn build(&mut self, names: &[Hashed], used: u32, metadata: Metadata) -> Result<LinkTo, BuildError> {
        let level = self.level;
        if used + level.bits > HASH_BITS {
            return Err(self.inseparable(names));
        }
        let mut field = BitField::default();
        let mut below = 0_u64;
        let mut bytes = Vec::with_capacity(64 * names.len().min(1 << level.bits));
        for group in names.chunk_by(|a, b| level.slot(a.hash, used) == level.slot(b.hash, used)) {
            let slot = level.slot(group[0].hash, used);
            field.set(slot);
            let prefix = level.prefix(slot);
            let tsize = if let [only] = group {
                let record = self.entries.at(only.offset);
                push_link(&mut bytes, record.cid, [prefix.as_bytes(), record.name], Some(record.tsize));
                record.tsize
            } else {
                let shard = self.build(group, used + level.bits, Metadata::default())?;
                push_link(&mut bytes, &shard.cid.to_bytes(), [prefix.as_bytes(), &[]], Some(shard.tsize));
                shard.tsize
            };
            below = below.saturating_add(tsize);
        }
        let mut message = Data {
            data: Some(field.trimmed()),
            hash_type: Some(MURMUR3),
            fanout: Some(1 << level.bits),
            ..Data::new(Kind::HamtShard)
        };
        metadata.set_in(&mut message);
        push_bytes(&mut bytes, 1, &message.encode());
        self.nodes.put(bytes, below)
    }

    fn inseparable(&self, names: &[Hashed]) -> BuildError {
        let mut names: Vec<&[u8]> = names.iter().map(|name| self.entries.at(name.offset).name).collect();
        names.sort_unstable();
        match names.array_windows().find(|[a, b]| a == b) {
            Some([twice, _]) => BuildError::Duplicate(readable(twice)),
            None => BuildError::Collision(readable(names[0]), readable(names[1])),
        }
    }
}

/// What all shards of a directory have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level {
    /// How many of the hash each level uses: 3 to 10.
    bits: u32,
}

impl Level {
    const fn new(fanout: u64) -> Self {
        Self { bits: fanout.trailing_zeros() }
    }

    /// The number of a name's child in a shard below `used` bits of hash.
    #[expect(clippy::cast_possible_truncation, reason = "at most ten bits are left")]
    const fn slot(self, hash: u64, used: u32) -> u16 {
        ((hash << used) >> (HASH_BITS - self.bits)) as u16
    }

    /// What a child's link begins with: its number, all as long as the highest.
    fn prefix(self, slot: u16) -> String {
        format!("{slot:0width$X}", width = self.prefix_bytes())
    }

    const fn prefix_bytes(self) -> usize {
        self.bits.div_ceil(4) as usize
    }
}

/// Which children a shard has: a number as wide as the fan-out, big-endian, whose bit `i` stands for child `i`.
#[derive(Debug, Clone, Copy)]
struct BitField([u8; BIT_FIELD_BYTES_MAX]);

impl Default for BitField {
    fn default() -> Self {
        Self([0; BIT_FIELD_BYTES_MAX])
    }
}

impl BitField {
    fn set(&mut self, slot: u16) {
        let slot = usize::from(slot);
        self.0[BIT_FIELD_BYTES_MAX - 1 - slot / 8] |= 1 << (slot % 8);
    }

    /// Without its leading zero bytes, as it is written.
    fn trimmed(&self) -> Bytes {
        let zeros = self.0.iter().take_while(|&&byte| byte == 0).count();
        Bytes::copy_from_slice(&self.0[zeros..])
    }
}

/// The numbers of the children that a foreign bit field says are there, in order.
fn slots(field: &[u8]) -> impl Iterator<Item = u16> {
    (0_u16..)
        .step_by(8)
        .zip(field.iter().rev())
        .flat_map(|(first, &byte)| (0..8).filter(move |bit| byte & 1 << bit != 0).map(move |bit| first + bit))
}

/// Where a shard stands: what the hashes of all names in it begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShardPlace {
    /// Bits of hash that all levels above have used.
    used: u32,
    /// Those bits.
    hash: u64,
    /// Of the levels above; `None` for the root, which may have any.
    fanout: Option<u64>,
}

impl ShardPlace {
    /// That of a directory's first node.
    pub const ROOT: Self = Self { used: 0, hash: 0, fanout: None };

    fn holds(&self, hash: u64) -> bool {
        // A shift by all 64 bits, at the root, leaves nothing to compare.
        hash.checked_shr(HASH_BITS - self.used).unwrap_or_default() == self.hash
    }

    const fn child(&self, level: Level, slot: u16) -> Result<Self, DirError> {
        let used = self.used + level.bits;
        if used + level.bits > HASH_BITS {
            return Err(DirError::TooDeep);
        }
        Ok(Self { used, hash: self.hash << level.bits | slot as u64, fanout: Some(1 << level.bits) })
    }
}

/// One foreign node of a sharded directory: its links are as many as its bit field says, and called accordingly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardNode {
    level: Level,
    /// The number of each link, ascending.
    slots: Vec<u16>,
    links: Vec<Link>,
    metadata: Metadata,
}

/// What a shard holds at one of its bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardItem {
    /// An entry of the directory.
    Entry(Entry),
    /// A part of the directory.
    Shard {
        /// Its block.
        cid: Cid,
        /// Where it stands, to be given to its [`ShardNode::expand`].
        place: ShardPlace,
    },
}

impl ShardNode {
    /// Reads a node that says that it is a shard.
    pub(in crate::dag) fn new(links: Vec<Link>, message: &Data) -> Result<Self, DirError> {
        if message.hash_type != Some(MURMUR3) {
            return Err(DirError::NameHash(message.hash_type));
        }
        let fanout = message.fanout.filter(|&fanout| is_fanout(fanout)).ok_or(DirError::Fanout(message.fanout))?;
        let level = Level::new(fanout);
        let field = message.data.as_deref().unwrap_or_default();
        if field.len() as u64 > fanout / 8 {
            return Err(DirError::BitField("is longer than the fan-out allows"));
        }
        let slots: Vec<u16> = slots(field).collect();
        if slots.len() != links.len() {
            return Err(DirError::BitField("has another number of bits than there are links"));
        }
        for (link, &slot) in links.iter().zip(&slots) {
            let prefix = level.prefix(slot);
            if !link.name.starts_with(prefix.as_bytes()) {
                return Err(DirError::LinkName { name: readable(&link.name), prefix });
            }
        }
        Ok(Self { level, slots, links, metadata: message.metadata() })
    }

    /// What is known of the directory; only its root says something.
    #[must_use]
    pub const fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// Lists what the shard holds at its place, in the order of its bits.
    ///
    /// # Errors
    /// [`DirError::FanoutChanged`], [`DirError::EmptyShard`], [`DirError::WrongPlace`], [`DirError::TooDeep`].
    pub fn expand(self, place: &ShardPlace) -> Result<Vec<ShardItem>, DirError> {
        self.fits(place)?;
        if self.links.is_empty() && *place != ShardPlace::ROOT {
            return Err(DirError::EmptyShard);
        }
        let level = self.level;
        let item = |(mut link, slot): (Link, u16)| {
            link.name = link.name.bytes().slice(level.prefix_bytes()..).into();
            if link.name.is_empty() {
                return Ok(ShardItem::Shard { cid: link.cid, place: place.child(level, slot)? });
            }
            let hash = murmur3::hash(&link.name);
            if !place.holds(hash) || level.slot(hash, place.used) != slot {
                return Err(DirError::WrongPlace(readable(&link.name)));
            }
            Ok(ShardItem::Entry(link))
        };
        self.links.into_iter().zip(self.slots).map(item).collect()
    }

    /// Takes one step towards `name`; [`super::directory::lookup`] for whoever has a shard already.
    ///
    /// # Errors
    /// [`DirError::FanoutChanged`], [`DirError::TooDeep`], and [`DirError::WrongPlace`] when `place` is not on the way
    /// to `name`.
    pub fn lookup(&self, name: &[u8], place: &ShardPlace) -> Result<Step, DirError> {
        self.fits(place)?;
        let hash = murmur3::hash(name);
        if !place.holds(hash) {
            return Err(DirError::WrongPlace(readable(name)));
        }
        let slot = self.level.slot(hash, place.used);
        let Some(link) = self.slots.binary_search(&slot).ok().and_then(|at| self.links.get(at)) else {
            return Ok(Step::Absent);
        };
        let rest = link.name.bytes().slice(self.level.prefix_bytes()..);
        if rest.is_empty() {
            return Ok(Step::Shard { cid: link.cid, place: place.child(self.level, slot)? });
        }
        Ok(if rest == name { Step::Entry(Link { name: rest.into(), ..*link }) } else { Step::Absent })
    }

    fn fits(&self, place: &ShardPlace) -> Result<(), DirError> {
        let found = 1 << self.level.bits;
        match place.fanout {
            Some(expected) if expected != found => Err(DirError::FanoutChanged { expected, found }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(in crate::dag) mod tests;
