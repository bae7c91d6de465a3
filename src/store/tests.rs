//! Tests of the store as a whole: lives of files, serving, crashes at every step.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

mod collections;
mod crash;
mod index;
mod serve;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::block::Prefix;

/// Leaves of the files of these tests, in bytes: large enough to lie on pages of their own, small enough to be many.
const LEAF: usize = 4096;

/// A folder with a repository and room for users' files.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> Store {
        Store::open(&self.repo(), options()).unwrap()
    }
}

fn options() -> Options {
    Options { recheck: std::time::Duration::ZERO, window_bytes: 1 << 16, ..Options::default() }
}

/// Removes a file whose name must be gone at once. Windows keeps the name of an open file (unless removals are as in POSIX,
/// which Wine's are not), but lets it be renamed.
fn remove(path: &Path) {
    let gone = path.with_extension("gone");
    std::fs::rename(path, &gone).unwrap();
    std::fs::remove_file(&gone).unwrap();
}

/// Bytes that differ from leaf to leaf, by a seed.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

fn block(data: &[u8]) -> Block {
    Block::seal(Prefix::RAW_V1, Bytes::copy_from_slice(data)).unwrap()
}

fn hash(data: &[u8]) -> Multihash {
    *block(data).cid().hash()
}

fn root_of(data: &[u8]) -> Cid {
    *block(format!("root of {:?}", hash(data)).as_bytes()).cid()
}

fn refs(file: FileId, data: &[u8]) -> Vec<(Multihash, LeafPlace)> {
    (0..)
        .zip(data.chunks(LEAF))
        .map(|(leaf, chunk)| {
            let place = LeafPlace { file, leaf, offset: leaf * LEAF as u64, len: chunk.len() as u32, wrap: Vec::new() };
            (hash(chunk), place)
        })
        .collect()
}

fn leaves(data: &[u8]) -> u64 {
    data.len().div_ceil(LEAF) as u64
}

fn activate(store: &Store, file: FileId, data: &[u8]) {
    let root = root_of(data);
    store.activate(file, Activation { root: &root, leaves: leaves(data), extents: &[0] }).unwrap();
}

fn add(store: &Store, path: &Path, data: &[u8]) -> FileId {
    std::fs::write(path, data).unwrap();
    let source = SourceFile::open(path).unwrap();
    let file = store.register(&NewFile::in_place(&source)).unwrap();
    store.put_refs(file, &mut refs(file, data)).unwrap();
    activate(store, file, data);
    file
}

fn start_pull(store: &Store, path: &Path, data: &[u8]) -> FileId {
    let file = store.create_part(&root_of(data), path, data.len() as u64, Preallocate::Sparse, None).unwrap();
    store.put_refs(file, &mut refs(file, data)).unwrap();
    activate(store, file, data);
    file
}

fn write_leaf(writer: &Writer, data: &[u8], leaf: u64) -> Result<bool, WriteError> {
    let offset = leaf as usize * LEAF;
    writer.write(leaf, offset as u64, &data[offset..data.len().min(offset + LEAF)])
}

fn leaf(data: &[u8], leaf: u64) -> &[u8] {
    data.chunks(LEAF).nth(leaf as usize).unwrap()
}
