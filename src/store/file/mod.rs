//! Users' files: read where they lie, written where they will stay.
//!
//! Only `writer.rs` knows that there is an index: what makes its bits true is the order of the data's and theirs. All else
//! of this folder is brought together with the index by [`super::Store`].

pub(crate) mod bitmap;
pub(crate) mod disk;
pub(crate) mod part;
pub(crate) mod platform;
pub(crate) mod pool;
pub(crate) mod reader;
pub(crate) mod small;
pub(crate) mod source;
pub(crate) mod writer;
