//! The one vocabulary of the program's edges: what can be asked of a node and what it says in return.
//!
//! The command line, the HTTP RPC and tests all speak these values; in one process they go through
//! [`super::Engine::call`], between processes as JSON over `/api/v1`. No behaviour lives here.

mod name;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::name::WireName;

/// A path that survives JSON even when it is not UTF-8: a string where it is, else `{"hex": …}` of the platform's bytes
/// (unix bytes; UTF-16 little-endian on Windows).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WirePath(pub PathBuf);

/// Something asked of a node. The variant's name in kebab case is the HTTP route: `POST /api/v1/add`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Request {
    /// Import files and folders in place; answers [`Event::Progress`] and one [`Event::Added`] per path, then one for
    /// the directory around them if there is to be one.
    Add(AddRequest),
    /// Pull a file; answers [`Event::Job`] until it ends (or once, when detached).
    Get(GetRequest),
    /// Pull every block of a DAG of any codec into the index: [`Event::Progress`], and one [`Event::Pinned`].
    Pin {
        /// `CID` or `CID/path/in/it`.
        cid: String,
        /// Addresses to dial for it, with `/p2p/ID`.
        #[serde(default)]
        peers: Vec<String>,
        /// Give up when nothing has arrived for so many seconds. `None` waits for ever.
        #[serde(default)]
        timeout_seconds: Option<u64>,
    },
    /// All roots, one [`Event::Root`] each; or the entries of a directory, one [`Event::Entry`] each.
    Ls(LsRequest),
    /// What of the machine's memory the node takes: one [`Event::Memory`].
    Memory,
    /// One root in detail: one [`Event::Root`].
    Stat {
        /// CID text.
        cid: String,
    },
    /// Forget a root's references: one [`Event::Removed`].
    Rm {
        /// CID text.
        cid: String,
        /// Also delete the `.part` of an unfinished pull. A complete file is never deleted.
        #[serde(default)]
        delete_partial: bool,
    },
    /// Re-hash a finished file: [`Event::Progress`], one [`Event::Bad`] per differing range, one [`Event::Verified`].
    Verify {
        /// CID text.
        cid: String,
    },
    /// All pulls: one [`Event::Job`] each.
    Jobs,
    /// Pause a pull: its [`Event::Job`].
    JobPause {
        /// Job id.
        id: u64,
    },
    /// Go on with a pull: its [`Event::Job`].
    JobResume {
        /// Job id.
        id: u64,
    },
    /// Give up a pull, keeping its `.part`: its [`Event::Job`].
    JobCancel {
        /// Job id.
        id: u64,
    },
    /// Follow a pull: [`Event::Job`] on every change, until it ends.
    JobWatch {
        /// Job id.
        id: u64,
    },
    /// Who this node is: one [`Event::Identity`].
    Id,
    /// Connected peers: one [`Event::Peer`] each.
    Peers,
    /// Dial an address: one [`Event::Connected`].
    Connect {
        /// Multiaddr text, with or without `/p2p/ID`.
        addr: String,
    },
    /// Change what may pass a second, and tell it: one [`Event::Limits`].
    Limit {
        /// Bytes a second to all peers together, 0 for no limit; absent to leave it.
        #[serde(default)]
        up: Option<u64>,
        /// The same from all peers.
        #[serde(default)]
        down: Option<u64>,
    },
    /// Whether the node answers: one [`Event::Healthy`].
    Health,
}

/// What to import and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddRequest {
    /// Absolute paths of files, folders and symbolic links.
    pub paths: Vec<WirePath>,
    /// Import options; what is `None` comes from the profile.
    #[serde(default)]
    pub options: AddOptions,
}

/// Options of an import, under the names of `ipfs add`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddOptions {
    /// `unixfs-v1-2025` (the default) or `unixfs-v0-2015`.
    pub profile: Option<String>,
    /// 0 or 1. Given without `profile`, the rest are Kubo's defaults for that version (256 KiB, 174 links).
    pub cid_version: Option<u8>,
    /// Raw leaves instead of dag-pb ones.
    pub raw_leaves: Option<bool>,
    /// `size-N`, N in bytes, `rabin`, `rabin-AVG`, `rabin-MIN-AVG-MAX` or `buzhash`.
    pub chunker: Option<String>,
    /// Most links in an inner node of a file.
    pub max_file_links: Option<usize>,
    /// Most links in a directory before it is sharded; 0 leaves it to the size.
    pub max_directory_links: Option<usize>,
    /// Most links in a node of a sharded directory: a power of two.
    pub max_hamt_fanout: Option<usize>,
    /// Trickle trees instead of balanced ones.
    pub trickle: bool,
    /// Small blocks go into their CIDs.
    pub inline: bool,
    /// The largest block that `inline` inlines, in bytes.
    pub inline_limit: Option<usize>,
    /// The hash, by its name in the multicodec table.
    pub hash: Option<String>,
    /// One directory around all paths.
    pub wrap_with_directory: bool,
    /// Hidden files in folders, too.
    pub hidden: bool,
    /// What to leave out of folders: rules in the language of `.gitignore`.
    pub ignore: Vec<String>,
    /// Keep permissions in the DAG.
    pub preserve_mode: bool,
    /// Keep the times of change in the DAG.
    pub preserve_mtime: bool,
    /// These permissions for everything.
    pub mode: Option<u32>,
    /// This time of change for everything, in seconds since 1970.
    pub mtime: Option<i64>,
    /// Nanoseconds into the second of `mtime`.
    pub mtime_nsecs: Option<u32>,
    /// Compute the CID and keep nothing.
    pub only_hash: bool,
}

/// What to pull and to where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetRequest {
    /// `CID` or `CID/path/in/it`.
    pub cid: String,
    /// Absolute path of the finished file or folder.
    pub output: WirePath,
    /// When there is a folder at `output` already, and it is not what an earlier attempt of this pull has made: the name
    /// in it to pull to. `None` pulls to `output` itself.
    #[serde(default)]
    pub name_in_folder: Option<String>,
    /// Addresses to dial for this pull, with `/p2p/ID`.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Answer once and go on in the background (needs a daemon).
    #[serde(default)]
    pub detach: bool,
    /// Take a file that is already at `output`, keep what is right in it, and fetch the rest.
    #[serde(default)]
    pub into_existing: bool,
    /// Of a folder, pull only what these globs match, relative to it; all when there are none.
    #[serde(default)]
    pub select: Vec<String>,
    /// Answer an [`Event::File`] for each file of a folder that is complete.
    #[serde(default)]
    pub tell_files: bool,
    /// Do not give files the permissions and times that the DAG says.
    #[serde(default)]
    pub no_preserve: bool,
    /// Give up when nothing has arrived for so many seconds. `None` waits for ever.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LsRequest {
    /// A directory, `CID` or `CID/path/in/it`; all roots of the index when `None`, and the rest is then without meaning.
    pub cid: Option<String>,
    /// Addresses to dial for it, with `/p2p/ID`.
    pub peers: Vec<String>,
    /// Give up when nothing has arrived for so many seconds. `None` waits for ever.
    pub timeout_seconds: Option<u64>,
}

/// Which bytes of which file are wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CatRequest {
    /// `CID` or `CID/path/in/it`.
    pub cid: String,
    /// First byte.
    #[serde(default)]
    pub offset: u64,
    /// How many bytes at most; all to the end when `None`.
    #[serde(default)]
    pub length: Option<u64>,
    /// Addresses to dial for it, with `/p2p/ID`.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Give up when nothing has arrived for so many seconds. `None` waits for ever.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
}

/// Something that a node says while it answers. A stream of events ends after the last, or with an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Bytes done of an add or a verify.
    Progress {
        /// The file or folder.
        path: WirePath,
        /// Bytes done.
        done: u64,
        /// Bytes in all, 0 while that is not known.
        total: u64,
        /// Files done, of a folder.
        #[serde(default)]
        files: Option<u64>,
    },
    /// A file, a folder or a symbolic link has been imported.
    Added {
        /// Root CID text.
        cid: String,
        /// What was named; empty for the directory around several paths.
        path: WirePath,
        /// Bytes of the file, or of all files in the folder.
        size: u64,
    },
    /// State of a pull.
    Job(JobStatus),
    /// A file of a folder that is being pulled is complete.
    File {
        /// Root CID text.
        cid: String,
        /// Where it is.
        path: WirePath,
        /// Bytes of the file.
        size: u64,
    },
    /// Every block of a DAG is in the index.
    Pinned {
        /// Root CID text.
        cid: String,
        /// Distinct blocks.
        blocks: u64,
        /// Bytes of them.
        bytes: u64,
    },
    /// What of the machine's memory the node takes.
    Memory(MemoryInfo),
    /// A root of the index.
    Root(RootInfo),
    /// An entry of a directory.
    Entry(EntryInfo),
    /// A root has been forgotten.
    Removed {
        /// CID text.
        cid: String,
        /// The file, which is still there unless it was a `.part` that was to be deleted.
        path: WirePath,
    },
    /// A range of a verified file that does not hash to what it should; all of it, when it cannot be read.
    Bad {
        /// The file, where it is one of several.
        #[serde(default)]
        path: Option<WirePath>,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// A verify has ended.
    Verified {
        /// CID text.
        cid: String,
        /// The file.
        path: WirePath,
        /// Bytes checked.
        bytes: u64,
        /// Bytes that differ or are missing.
        bad_bytes: u64,
    },
    /// Who the node is.
    Identity {
        /// Peer id.
        peer_id: String,
        /// Listening addresses, with `/p2p/ID`.
        addresses: Vec<String>,
        /// Program and version, as identify says it.
        agent: String,
        /// Fingerprint of the swarm key, `None` in an open swarm. Never the key.
        swarm: Option<String>,
        /// The repo folder.
        repo: WirePath,
    },
    /// A connected peer.
    Peer(PeerInfo),
    /// A dial succeeded.
    Connected {
        /// Peer id.
        peer_id: String,
    },
    /// What may pass a second, until the node ends.
    Limits {
        /// Bytes to all peers together, 0 for no limit.
        up: u64,
        /// Bytes from all peers together, 0 for no limit.
        down: u64,
    },
    /// The node answers.
    Healthy,
}

/// Where a pull stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// Looking for the root and pulling inner nodes.
    Resolving,
    /// Making the file and its references.
    Planning,
    /// Pulling leaves.
    Fetching,
    /// Everything is durable, the file has its name.
    Done,
    /// Paused by the user or for want of space; `message` says which.
    Paused,
    /// Ended by an error in `message`.
    Failed,
    /// Ended by the user.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will happen by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// A pull as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Job id, unique in the repo.
    pub id: u64,
    /// Root CID text.
    pub cid: String,
    /// Where the finished file will be.
    pub output: WirePath,
    /// State.
    pub state: JobState,
    /// Why it waits or has ended, for the user.
    pub message: Option<String>,
    /// The [`Failure::code`] of a failed pull, and `no-space` of one that is paused until there is some.
    pub code: Option<String>,
    /// Bytes that are in place.
    pub done_bytes: u64,
    /// Bytes of the file, or of all files of a folder; 0 while unknown, an estimate while a folder is being discovered.
    pub total_bytes: u64,
    /// Files of a folder that are complete; 0 for a single file.
    #[serde(default)]
    pub done_files: u64,
    /// Files of a folder that are known so far; 0 for a single file.
    #[serde(default)]
    pub total_files: u64,
    /// Bytes a second over the last seconds.
    pub rate: f64,
    /// Seconds until done at this rate.
    pub eta_seconds: Option<u64>,
    /// Seconds since the pull (or its resumption) started.
    pub elapsed_seconds: f64,
    /// Connected peers that take part.
    pub peers: usize,
    /// From whom how much.
    pub sources: Vec<SourceInfo>,
    /// Bytes taken from other local files, or found in place.
    pub local_bytes: u64,
    /// Blocks that arrived more than once.
    pub duplicate_blocks: u64,
}

/// What one peer has given to a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// Peer id.
    pub peer_id: String,
    /// Bytes of blocks.
    pub bytes: u64,
    /// Blocks.
    pub blocks: u64,
}

/// A root of the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootInfo {
    /// CID text.
    pub cid: String,
    /// The file or folder; empty for a DAG of blocks that lie in the index.
    pub path: WirePath,
    /// Bytes of the file, of the folder's files, or of the blocks.
    pub size: u64,
    /// Bytes that are in place and served.
    pub present_bytes: u64,
    /// Leaves of a file, 0 for a folder.
    pub leaves: u64,
    /// Files of a folder, blocks of a DAG without a place. `None` for a file.
    #[serde(default)]
    pub files: Option<u64>,
    /// Whether all of it is there.
    pub complete: bool,
    /// Set when the file was found changed, shortened or gone.
    pub problem: Option<String>,
}

/// Shares of memory, in bytes. `None` is what the system does not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryInfo {
    /// Memory of the process that lies in no file: heap and stacks.
    pub anonymous_bytes: Option<u64>,
    /// Pages of files that are mapped and in memory: the program itself, the index, windows. Page cache, too.
    pub mapped_bytes: Option<u64>,
    /// Buffers for blocks that lie idle; a part of `anonymous_bytes`.
    pub idle_buffer_bytes: u64,
    /// Windows over served files.
    pub windows_bytes: u64,
    /// The index.
    pub index: FileCache,
    /// Files that are open for serving or being pulled.
    pub files: Vec<FileCache>,
    /// What reading and writing files may leave in memory.
    pub cache_bytes: u64,
    /// What the system allows the process in all.
    pub limit_bytes: Option<u64>,
}

/// A file's share of the page cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCache {
    /// Where it is.
    pub path: WirePath,
    /// Its length.
    pub size: u64,
    /// Bytes of it in the page cache, whoever brought them in. `None` where the system does not tell.
    pub cached_bytes: Option<u64>,
}

/// An entry of a directory, by what the directory says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryInfo {
    /// Its name, which no one has checked.
    pub name: WireName,
    /// CID text.
    pub cid: String,
    /// Bytes of all blocks at and below it: of a file in one raw block, its own. `None` where nothing is said.
    pub size: Option<u64>,
    /// What it is; `None` where only its own block would tell, and that is not here.
    pub kind: Option<EntryKind>,
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// A file.
    File,
    /// A directory, sharded or not.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Something else.
    Other,
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Peer id.
    pub peer_id: String,
    /// The address of the connection.
    pub address: String,
    /// Program and version by identify, when it has come.
    pub agent: Option<String>,
    /// Bytes of blocks received from it.
    pub received_bytes: u64,
    /// Bytes of blocks sent to it.
    pub sent_bytes: u64,
}

/// An error as the user sees it: what happened, to what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// A word for programs, in kebab case: `not-a-cid`, `path-exists`, `no-peers`, `timeout`, …
    pub code: String,
    /// The sentence for people.
    pub message: String,
}

impl Failure {
    /// A failure with its code and sentence.
    pub fn new(code: &str, message: impl std::fmt::Display) -> Self {
        Self { code: code.to_owned(), message: message.to_string() }
    }
}

impl Serialize for WirePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Hex {
            hex: String,
        }
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => Hex { hex: data_encoding::HEXLOWER.encode(&path_bytes(&self.0)) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for WirePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Hex { hex: String },
        }
        match Form::deserialize(deserializer)? {
            Form::Text(text) => Ok(Self(text.into())),
            Form::Hex { hex } => {
                let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).map_err(serde::de::Error::custom)?;
                path_of_bytes(bytes).map(Self).ok_or_else(|| serde::de::Error::custom("odd number of UTF-16 bytes"))
            }
        }
    }
}

impl std::fmt::Display for WirePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}

/// The platform's own bytes of a path, lossless.
#[cfg(unix)]
#[must_use]
pub fn path_bytes(path: &std::path::Path) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec()
}

/// The path of [`path_bytes`].
#[cfg(unix)]
#[must_use]
pub fn path_of_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    Some(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes).into())
}

/// The platform's own bytes of a path, lossless.
#[cfg(windows)]
#[must_use]
pub fn path_bytes(path: &std::path::Path) -> Vec<u8> {
    std::os::windows::ffi::OsStrExt::encode_wide(path.as_os_str()).flat_map(u16::to_le_bytes).collect()
}

/// The path of [`path_bytes`].
#[cfg(windows)]
#[must_use]
pub fn path_of_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let wide: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    rest.is_empty().then(|| <std::ffi::OsString as std::os::windows::ffi::OsStringExt>::from_wide(&wide).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_json() {
        let json = r#"{"method":"rm","cid":"bafk"}"#;
        let request: Request = serde_json::from_str(json).unwrap();
        assert!(matches!(request, Request::Rm { delete_partial: false, .. }));
        let text = serde_json::to_string(&Request::JobPause { id: 3 }).unwrap();
        assert_eq!(text, r#"{"method":"job-pause","id":3}"#);
    }

    #[cfg(unix)]
    #[test]
    fn paths_that_are_not_utf8_survive_json() {
        let path = WirePath(path_of_bytes(vec![b'a', 0xff, b'b']).unwrap());
        let json = serde_json::to_string(&path).unwrap();
        assert_eq!(json, r#"{"hex":"61ff62"}"#);
        assert_eq!(serde_json::from_str::<WirePath>(&json).unwrap(), path);
        assert_eq!(serde_json::to_string(&WirePath("a b".into())).unwrap(), r#""a b""#);
    }
}
