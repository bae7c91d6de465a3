//! What is exchanged: files of awkward sizes and three folders, how each is imported, and whether a copy is the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::support::noise;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const LEAF: u32 = 256 << 10;

/// How a DAG is built, in terms that all sides have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recipe {
    cid_version: u8,
    raw_leaves: bool,
    chunk: u32,
    trickle: bool,
}

impl Recipe {
    const RAW: Self = Self { cid_version: 1, raw_leaves: true, chunk: LEAF, trickle: false };
    /// Ours by default, and Kubo's since 2025.
    pub(crate) const LARGE: Self = Self { chunk: 1 << 20, ..Self::RAW };
    const TRICKLE: Self = Self { raw_leaves: false, trickle: true, ..Self::RAW };
    const V0: Self = Self { cid_version: 0, raw_leaves: false, ..Self::RAW };
    pub(crate) const PLAIN: Self = Self::RAW;

    /// The like of it with CIDv0 only, for Bitswap 1.0.0, whose blocks come without their CIDs' prefixes.
    pub(crate) const fn in_v0(self) -> Self {
        Self { cid_version: 0, raw_leaves: false, ..self }
    }

    /// The like of it for those who build no trickle trees.
    pub(crate) const fn balanced(self) -> Self {
        Self { trickle: false, ..self }
    }

    /// Flags of `bitshoal add`.
    pub(crate) fn ours(self) -> Vec<String> {
        let mut flags = vec![
            format!("--cid-version={}", self.cid_version),
            format!("--raw-leaves={}", self.raw_leaves),
            format!("--chunker=size-{}", self.chunk),
        ];
        flags.extend(self.trickle.then(|| "--trickle".to_owned()));
        flags
    }

    /// Flags of a far side's `serve`.
    pub(crate) fn theirs(self) -> Vec<String> {
        let mut flags = vec![
            format!("--cid-version={}", self.cid_version),
            format!("--raw-leaves={}", self.raw_leaves),
            format!("--chunk={}", self.chunk),
        ];
        flags.extend(self.trickle.then(|| "--trickle".to_owned()));
        flags
    }
}

/// One thing to exchange.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) path: PathBuf,
    pub(crate) recipe: Recipe,
    /// Whether it is left out where every version has been tried already.
    pub(crate) large: bool,
    manifest: Manifest,
}

impl Item {
    pub(crate) fn name(&self) -> &str {
        self.path.file_name().unwrap().to_str().unwrap()
    }

    /// Panics with the first difference.
    pub(crate) fn assert_same(&self, copy: &Path) {
        let copy = manifest(copy);
        for (path, entry) in &self.manifest {
            assert!(copy.get(path) == Some(entry), "{}: {path:?} is {:?}, not {entry:?}", self.name(), copy.get(path));
        }
        let more = copy.keys().find(|path| !self.manifest.contains_key(*path));
        assert!(more.is_none(), "{}: {more:?} was never there", self.name());
    }
}

/// Makes all of it once, for every cell.
pub(crate) fn plant(folder: &Path) -> Vec<Item> {
    let sizes = [
        ("0", 0, Recipe::RAW),
        ("1", 1, Recipe::LARGE),
        ("1KiB", KIB, Recipe::TRICKLE),
        ("262144", 262_144, Recipe::RAW),
        ("262145", 262_145, Recipe::RAW),
        ("1MiB+1", MIB + 1, Recipe::LARGE),
        ("5MiB", 5 * MIB, Recipe::V0),
        ("20MiB", 20 * MIB, Recipe::TRICKLE),
        ("33MiB", 33 * MIB, Recipe::LARGE),
    ];
    let mut items = Vec::new();
    for (seed, (name, size, recipe)) in sizes.into_iter().enumerate() {
        let path = folder.join(name);
        noise(&path, size, seed as u64);
        items.push((path, recipe, size > 5 * MIB));
    }
    let zeros = folder.join("zeros");
    std::fs::write(&zeros, vec![0; 3 * MIB]).unwrap();
    items.push((zeros, Recipe::RAW, false));
    for (name, plant, recipe, large) in [
        ("flat", flat as fn(&Path), Recipe::RAW, false),
        ("nested", nested, Recipe::V0, false),
        ("sharded", sharded, Recipe::RAW, true),
    ] {
        let path = folder.join(name);
        plant(&path);
        items.push((path, recipe, large));
    }
    items.into_iter().map(|(path, recipe, large)| Item { manifest: manifest(&path), path, recipe, large }).collect()
}

/// One node: 300 files, a link, an empty folder.
fn flat(folder: &Path) {
    std::fs::create_dir_all(folder.join("empty")).unwrap();
    for i in 0..300 {
        std::fs::write(folder.join(format!("file{i}")), format!("This is file {i} of the flat folder.\n")).unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink("file7", folder.join("link")).unwrap();
}

/// Folders in folders, under names that tempt to be changed on the way.
fn nested(folder: &Path) {
    for (i, name) in ["sp ace", "sp ace/ünïcödé", "sp ace/ünïcödé/日本 語"].into_iter().enumerate() {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("a file.txt"), format!("at level {i}\n")).unwrap();
        noise(&folder.join("größer.bin"), 300 * KIB, 100 + i as u64);
        std::fs::write(folder.join("100%25 #?&\\"), b"").unwrap();
    }
}

/// Enough names that everybody's default limit of 256 KiB a directory is passed and it becomes a HAMT.
fn sharded(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for i in 0..3000 {
        let name = format!("{i:04} is a name that is long enough to fill up a node of a directory");
        std::fs::write(folder.join(name), format!("sharded {i}\n")).unwrap();
    }
}

type Manifest = BTreeMap<PathBuf, Entry>;

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    Link(PathBuf),
    File(String),
}

/// Everything at and below a path.
fn manifest(root: &Path) -> Manifest {
    let mut found = Manifest::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let kind = path.symlink_metadata().unwrap_or_else(|error| panic!("{}: {error}", path.display())).file_type();
        let entry = if kind.is_symlink() {
            Entry::Link(std::fs::read_link(&path).unwrap())
        } else if kind.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Entry::Folder
        } else {
            let digest = Sha256::digest(std::fs::read(&path).unwrap());
            Entry::File(data_encoding::HEXLOWER.encode(&digest))
        };
        found.insert(path.strip_prefix(root).unwrap().to_owned(), entry);
    }
    found
}
