//! From each layer's own errors to the one sentence that the user reads: what happened, to what, and what to do.

use crate::block::Cid;
use crate::dag::walk::WalkError;
use crate::store::{StoreError, WriteError};

pub use super::api::Failure;

