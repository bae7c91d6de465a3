//! One wanted block: who wants it, whom it was asked of, and what each peer said about it.
//!
//! Invariant: a peer's [`Word`] is only changed through `Client::set_word`, which keeps every count and list
//! that follows from it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{PeerNumber, SessionId};
use crate::block::{Cid, Multihash};
use crate::exchange::limits;

/// Wants are numbered in order of preference.
pub(super) type WantNumber = u64;

/// What stands between us and one peer about one block. No word: nothing is known and nothing stands in its ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// The block was asked for.
    Asked(Ask),
    /// WANT-HAVE was sent; unanswered until `due` it counts as lacking.
    AskedHave { due: Instant },
    /// It said HAVE.
    Have,
    /// It said DONT_HAVE to WANT-HAVE, or nothing; it may push HAVE later.
    Lacks,
    /// It is too old to say DONT_HAVE to WANT-BLOCK and said nothing; it may push the block later.
    LacksBlock,
    /// It failed us, and is left alone about this block until then. Nothing stands in its ledger.
    Shunned { until: Instant },
}

/// A request for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    /// When it was sent.
    pub(super) since: Instant,
    /// Whether the peer had said HAVE.
    pub(super) promised: bool,
    /// Whether the peer did not have it when it was asked, but was about to: then it takes no room in the pipeline.
    pub(super) coming: bool,
    /// When to look whether somebody else should be asked.
    pub(super) due: Instant,
}

impl Word {
    /// When something is to be done about it.
    pub(super) const fn timer(self) -> Option<Instant> {
        match self {
            Self::Asked(Ask { due: at, .. }) | Self::AskedHave { due: at } | Self::Shunned { until: at } => Some(at),
            Self::Have | Self::Lacks | Self::LacksBlock => None,
        }
    }

    pub(super) const fn lacks(self) -> bool {
        matches!(self, Self::Lacks | Self::LacksBlock | Self::Shunned { .. })
    }

    /// Whether the peer keeps a WANT-BLOCK of ours.
    pub(super) const fn stands_block(self) -> bool {
        matches!(self, Self::Asked(_) | Self::LacksBlock)
    }

    /// Whether the peer keeps a WANT-HAVE of ours.
    pub(super) const fn stands_have(self) -> bool {
        matches!(self, Self::AskedHave { .. } | Self::Lacks)
    }
}

#[derive(Debug)]
pub(super) struct Want {
    pub(super) hash: Multihash,
    /// The CID under which it is asked for, whoever else wants it by another.
    pub(super) cid: Cid,
    /// Expected length of the block, in bytes.
    pub(super) size: u32,
    /// Who wants it, under which CID. The first one schedules it. Never empty.
    pub(super) wanted_by: Vec<(SessionId, Cid)>,
    pub(super) words: BTreeMap<PeerNumber, Word>,
    /// Its number in the file that its session follows.
    pub(super) leaf: Option<u32>,
    /// How many words are [`Word::Asked`]: 0 in the queue, 2 when a second peer was asked at the end.
    pub(super) asked: usize,
    /// How many words are [`Word::AskedHave`].
    pub(super) questions: usize,
    /// How many words are [`Word::Have`].
    pub(super) holders: usize,
    /// How many words lack it.
    pub(super) lacking: usize,
    /// How many peers had ever connected when the session was last told that nobody has it.
    pub(super) told: Option<u64>,
}

impl Want {
    pub(super) fn new(session: SessionId, cid: Cid, size: u32) -> Self {
        Self {
            hash: *cid.hash(),
            cid,
            size,
            wanted_by: vec![(session, cid)],
            words: BTreeMap::new(),
            leaf: None,
            asked: 0,
            questions: 0,
            holders: 0,
            lacking: 0,
            told: None,
        }
    }

    /// The session that schedules it.
    pub(super) fn owner(&self) -> SessionId {
        self.wanted_by.first().expect("a want is dropped with the last session that wants it").0
    }

    /// Whether peers send it in place of a HAVE.
    pub(super) const fn is_small(&self) -> bool {
        self.size <= limits::HAVE_REPLACED_BYTES_MAX
    }

    /// Whether asking about it now would bring it twice: a block this small is sent in place of a HAVE, so that only
    /// one peer at a time may be asked anything.
    pub(super) fn is_coming_small(&self) -> bool {
        self.is_small() && self.questions > 0
    }

    /// Higher for what was wanted earlier.
    pub(super) fn priority(number: WantNumber) -> i32 {
        i32::MAX - i32::try_from(number).unwrap_or(i32::MAX)
    }

    pub(super) fn word(&self, peer: PeerNumber) -> Option<Word> {
        self.words.get(&peer).copied()
    }

    pub(super) fn put_word(&mut self, peer: PeerNumber, word: Word) {
        self.words.insert(peer, word);
        self.asked += usize::from(matches!(word, Word::Asked(_)));
        self.questions += usize::from(matches!(word, Word::AskedHave { .. }));
        self.holders += usize::from(word == Word::Have);
        self.lacking += usize::from(word.lacks());
    }

    pub(super) fn take_word(&mut self, peer: PeerNumber) -> Option<Word> {
        let word = self.words.remove(&peer)?;
        self.asked -= usize::from(matches!(word, Word::Asked(_)));
        self.questions -= usize::from(matches!(word, Word::AskedHave { .. }));
        self.holders -= usize::from(word == Word::Have);
        self.lacking -= usize::from(word.lacks());
        Some(word)
    }
}
