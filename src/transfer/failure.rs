//! From each layer's own errors to the one sentence that the user reads: what happened, to what, and what to do.

use std::fmt::Display;
use std::io::ErrorKind;
use std::time::Duration;

use crate::block::Cid;
use crate::dag::walk::WalkError;
use crate::store::{StoreError, WriteError};

pub use super::api::Failure;

/// An error of the index or of a file that is read.
#[must_use]
pub fn from_store(error: &StoreError) -> Failure {
    let code = match error {
        StoreError::InUse { .. } => "repo-in-use",
        StoreError::NewerFormat { .. } => "newer-format",
        StoreError::NetworkFileSystem { .. } => "network-file-system",
        StoreError::NoSpace => "no-space",
        StoreError::Changed(_) => "changed",
        StoreError::NotAFile(_) => "not-a-file",
        StoreError::Io { source, .. } => match source.kind() {
            ErrorKind::NotFound => "not-found",
            ErrorKind::PermissionDenied => "permission",
            _ => "io",
        },
        StoreError::Corrupt(_) => "index-damaged",
        StoreError::UnknownFile(_) | StoreError::Busy(_) | StoreError::Index(_) => "index",
    };
    match error {
        StoreError::Io { path, source } if source.kind() == ErrorKind::NotFound => {
            Failure::new(code, format!("{} does not exist", path.display()))
        }
        StoreError::Io { path, source } if source.kind() == ErrorKind::PermissionDenied => {
            Failure::new(code, format!("{}: no permission to read it", path.display()))
        }
        other => Failure::new(code, other),
    }
}

/// An error of a file that is being pulled.
#[must_use]
pub fn from_write(error: WriteError) -> Failure {
    if error.is_no_space() {
        return Failure::new("no-space", format!("{error}; the pull goes on when there is space"));
    }
    let code = match &error {
        WriteError::Exists(_) => "path-exists",
        WriteError::ParentMissing(_) => "parent-missing",
        WriteError::Permission(_) => "permission",
        WriteError::TooLarge { .. } => "file-too-large",
        WriteError::Store(inner) => return from_store(inner),
        _ => "io",
    };
    Failure::new(code, error)
}

/// A tree that is not a file, or lies.
#[must_use]
pub fn from_walk(root: &Cid, error: WalkError) -> Failure {
    match error {
        WalkError::NotAFile(kind) => Failure::new(
            "not-a-file",
            format!("{root} is a {kind}, and only files can be pulled so far: name the CID of a file in it"),
        ),
        WalkError::UnknownCodec(_) => Failure::new("unknown-codec", format!("{root}: {error}")),
        other => Failure::new(
            "bad-tree",
            format!("the tree of {root} lies or is damaged: {other}. Nobody can have a better one under this CID"),
        ),
    }
}

/// That no block has come for so long; `lacking` when every connected peer has said that it has none.
#[must_use]
pub(super) fn late(patience: Duration, what: impl Display, lacking: bool) -> Failure {
    let why = if lacking { "none of the connected peers has it" } else { "no block came" };
    Failure::new("timeout", format!("{what}: nothing arrived for {} s: {why}", patience.as_secs()))
}
