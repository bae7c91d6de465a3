//! The repo: the folder in which a node keeps its settings, its secrets and its index.
//!
//! ```text
//! node.toml      settings; a folder with this file is a repo
//! identity.key   private key of the peer id (libp2p's protobuf), owner only
//! swarm.key      key of the private swarm, owner only; absent in an open swarm
//! swarm.key.next the key that the swarm changes to, while it does; put there by the user, owner only
//! rpc.addr       where the running daemon answers; removed when it stops
//! rpc.token      what it asks for, fresh at every start, owner only; removed when it stops
//! index/ lock    the store's own
//! ```
//!
//! Knows names, permissions and texts of these files, not their meaning: keys are bytes here. Secrets are written to a
//! temporary file that is private from its first instant, made durable, then renamed. `node.toml` comes last, so a crash
//! within `init` leaves no repo, only files that the next `init` names.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError, Swarm};
use crate::platform;
use crate::transfer::api::Failure;

const SETTINGS: &str = "node.toml";
const IDENTITY: &str = "identity.key";
const SWARM_KEY: &str = "swarm.key";
const RPC_ADDR: &str = "rpc.addr";
const RPC_TOKEN: &str = "rpc.token";
const MEMBERS: &str = "members";

/// The environment variable that names the repo when no flag does.
pub const PATH_VARIABLE: &str = "BITSHOAL_PATH";

/// The largest key file that is read, in bytes: the longest form of a swarm key has about 100, an identity a few KiB.
const KEY_BYTES_MAX: u64 = 16 * 1024;

/// A folder that is a repo.
#[derive(Debug, Clone)]
pub struct Repo {
    dir: PathBuf,
}

/// What a fresh repo holds.
#[derive(Clone)]
pub struct NewRepo {
    /// Private or open; says what `node.toml` sets.
    pub swarm: Swarm,
    /// The private key, as libp2p's protobuf.
    pub identity: Vec<u8>,
    /// The swarm key's file, verbatim.
    pub swarm_key: Option<Vec<u8>>,
}

impl std::fmt::Debug for NewRepo {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewRepo").field("swarm", &self.swarm).finish_non_exhaustive()
    }
}

/// Where a daemon answers and what it asks for.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Loopback address.
    pub addr: SocketAddr,
    /// The bearer token.
    pub token: String,
}

impl std::fmt::Debug for Endpoint {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Why there is no repo, or not the wanted part of it.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// The platform has no data folder for this user.
    #[error("this user has no data folder: name the repo with --repo DIR or {PATH_VARIABLE}")]
    NoHome,
    /// The folder is not a repo.
    #[error(
        "there is no repo at {0}: `bitshoal --repo {0} init` makes one in a new private swarm, \
         with --swarm-key FILE in an existing one, with --public in the open",
        dir.display()
    )]
    Missing {
        /// The folder.
        dir: PathBuf,
    },
    /// `init` where something is already.
    #[error("{} is already there, and nothing was changed: choose another folder with --repo DIR", path.display())]
    Exists {
        /// What is in the way.
        path: PathBuf,
    },
    /// `init` found a swarm key that it was not told to use.
    #[error(
        "{0} is already there, and nothing was changed: to join its swarm, `bitshoal init --swarm-key {0}`",
        path.display()
    )]
    KeyInTheWay {
        /// The key's file.
        path: PathBuf,
    },
    /// A private swarm without its key.
    #[error(
        "{} is missing, and this repo belongs to a private swarm: copy the key there from another node, \
         or set swarm = \"public\" in {} to join the open network",
        path.display(), settings.display()
    )]
    NoSwarmKey {
        /// Where the key should be.
        path: PathBuf,
        /// The settings that say so.
        settings: PathBuf,
    },
    /// The settings are not understood.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl From<RepoError> for Failure {
    fn from(error: RepoError) -> Self {
        let code = match &error {
            RepoError::NoHome | RepoError::Missing { .. } => "no-repo",
            RepoError::Exists { .. } | RepoError::KeyInTheWay { .. } => "repo-exists",
            RepoError::NoSwarmKey { .. } => "no-swarm-key",
            RepoError::Config(_) => "bad-config",
            RepoError::Io { .. } => "repo-io",
        };
        Self::new(code, error)
    }
}

impl Repo {
    /// The folder that is meant: the flag, else the variable's value, else the platform's data folder.
    ///
    /// # Errors
    /// [`RepoError::NoHome`]; [`RepoError::Io`] when a relative path has no current folder to start from.
    pub fn locate(flag: Option<&Path>, variable: Option<&std::ffi::OsStr>) -> Result<PathBuf, RepoError> {
        let variable = variable.filter(|value| !value.is_empty()).map(Path::new);
        let Some(named) = flag.or(variable) else {
            let folders = directories::ProjectDirs::from("", "", "bitshoal").ok_or(RepoError::NoHome)?;
            // Not what Windows copies between a user's machines.
            return Ok(folders.data_local_dir().to_path_buf());
        };
        std::path::absolute(named).map_err(failed("resolve", named))
    }

    /// Makes a repo in `dir`, which is made too if need be.
    ///
    /// # Errors
    /// [`RepoError::Exists`], [`RepoError::KeyInTheWay`], [`RepoError::Io`]; whatever it is, nothing new is left behind.
    pub fn init(dir: &Path, new: &NewRepo) -> Result<Self, RepoError> {
        for name in [SETTINGS, IDENTITY, "index"] {
            let path = dir.join(name);
            if path.symlink_metadata().is_ok() {
                return Err(RepoError::Exists { path });
            }
        }
        // A key that somebody has put here beforehand is kept when it is the very key to use, never replaced.
        let key_path = dir.join(SWARM_KEY);
        let found = if key_path.symlink_metadata().is_ok() { Some(read_key(&key_path)?) } else { None };
        if found.is_some() && found != new.swarm_key {
            return Err(RepoError::KeyInTheWay { path: key_path });
        }
        let fresh_folder = !dir.exists();
        make_folder(dir)?;
        let settings = Config::template(new.swarm);
        let key = new.swarm_key.as_deref().filter(|_| found.is_none());
        let files = [(SWARM_KEY, key), (IDENTITY, Some(&new.identity[..])), (SETTINGS, Some(settings.as_bytes()))];
        let mut made = Vec::new();
        for (name, bytes) in files {
            let Some(bytes) = bytes else { continue };
            let path = dir.join(name);
            if let Err(error) = write_private(&path, bytes) {
                for path in made {
                    let _ = fs::remove_file(path);
                }
                if fresh_folder {
                    let _ = fs::remove_dir(dir);
                }
                return Err(error);
            }
            made.push(path);
        }
        platform::sync_folder(dir).map_err(failed("make durable", dir))?;
        Ok(Self { dir: dir.to_path_buf() })
    }

    /// Finds the repo at `dir`. Takes no lock: that is the store's.
    ///
    /// # Errors
    /// [`RepoError::Missing`] with the remedy, [`RepoError::Io`].
    pub fn open(dir: &Path) -> Result<Self, RepoError> {
        let settings = dir.join(SETTINGS);
        match settings.metadata() {
            Ok(_) => Ok(Self { dir: dir.to_path_buf() }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(RepoError::Missing { dir: dir.to_path_buf() })
            }
            Err(source) => Err(RepoError::Io { action: "read", path: settings, source }),
        }
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the settings are.
    #[must_use]
    pub fn settings_path(&self) -> PathBuf {
        self.dir.join(SETTINGS)
    }

    /// Where the swarm key is, or would be.
    #[must_use]
    pub fn swarm_key_path(&self, config: &Config) -> PathBuf {
        self.dir.join(&config.swarm_key_file)
    }

    /// Where the key is that the swarm changes to, while it does: beside the swarm key, its name with `.next`.
    #[must_use]
    pub fn next_swarm_key_path(&self, config: &Config) -> PathBuf {
        let mut path = self.swarm_key_path(config).into_os_string();
        path.push(".next");
        path.into()
    }

    /// The settings over the defaults.
    ///
    /// # Errors
    /// [`RepoError::Config`].
    pub fn config(&self) -> Result<Config, RepoError> {
        Ok(Config::load(&self.settings_path())?)
    }

    /// The private key's bytes, as libp2p's protobuf.
    ///
    /// # Errors
    /// [`RepoError::Io`].
    pub fn identity(&self) -> Result<Vec<u8>, RepoError> {
        read_key(&self.dir.join(IDENTITY))
    }

    /// The swarm key's file, `None` in an open swarm. A private swarm whose key is gone is an error, not an open swarm.
    ///
    /// # Errors
    /// [`RepoError::NoSwarmKey`], [`RepoError::Io`].
    pub fn swarm_key(&self, config: &Config) -> Result<Option<Vec<u8>>, RepoError> {
        let path = self.swarm_key_path(config);
        match (config.swarm, read_key(&path)) {
            (Swarm::Public, _) => Ok(None),
            (Swarm::Private, Ok(key)) => Ok(Some(key)),
            (Swarm::Private, Err(RepoError::Io { source, .. })) if source.kind() == io::ErrorKind::NotFound => {
                Err(RepoError::NoSwarmKey { path, settings: self.settings_path() })
            }
            (Swarm::Private, Err(error)) => Err(error),
        }
    }

    /// Records of the members that were met, opaque here; none when the file is not there or is damaged, since they are a
    /// convenience.
    #[must_use]
    pub fn members(&self) -> Vec<Vec<u8>> {
        let Ok(bytes) = fs::read(self.dir.join(MEMBERS)) else { return Vec::new() };
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk() {
            let Some((record, after)) = after.split_at_checked(u32::from_be_bytes(*length) as usize) else { break };
            records.push(record.to_vec());
            rest = after;
        }
        records
    }

    /// Keeps them for the next start: lengths of four bytes, the highest first, and the records.
    ///
    /// # Errors
    /// [`RepoError::Io`].
    pub fn remember_members(&self, records: &[Vec<u8>]) -> Result<(), RepoError> {
        let mut bytes = Vec::new();
        for record in records {
            let Ok(length) = u32::try_from(record.len()) else { continue };
            bytes.extend(length.to_be_bytes());
            bytes.extend(record);
        }
        write_private(&self.dir.join(MEMBERS), &bytes)
    }

    /// The file of the key that the swarm changes to, `None` while it keeps its key, and in an open swarm.
    ///
    /// # Errors
    /// [`RepoError::Io`].
    pub fn next_swarm_key(&self, config: &Config) -> Result<Option<Vec<u8>>, RepoError> {
        if config.swarm == Swarm::Public {
            return Ok(None);
        }
        match read_key(&self.next_swarm_key_path(config)) {
            Err(RepoError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            key => key.map(Some),
        }
    }

    /// Says where a daemon answers, until what is returned is dropped. Only who holds the repo's lock may call this.
    ///
    /// # Errors
    /// [`RepoError::Io`].
    pub fn publish(&self, endpoint: &Endpoint) -> Result<Published, RepoError> {
        let published = Published { dir: self.dir.clone() };
        write_private(&self.dir.join(RPC_TOKEN), endpoint.token.as_bytes())?;
        // The address last: who finds one finds its token too.
        write_private(&self.dir.join(RPC_ADDR), format!("{}\n", endpoint.addr).as_bytes())?;
        Ok(published)
    }

    /// Where a daemon said that it answers. It may have been killed since.
    ///
    /// # Errors
    /// [`RepoError::Io`] when the files are there and cannot be read, by another user for example.
    pub fn endpoint(&self) -> Result<Option<Endpoint>, RepoError> {
        let read = |name: &str| {
            let path = self.dir.join(name);
            match fs::read_to_string(&path) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(RepoError::Io { action: "read", path, source }),
            }
        };
        let addr = read(RPC_ADDR)?.and_then(|text| text.trim().parse::<SocketAddr>().ok());
        // The token is a secret of this machine alone, whoever has written the address.
        let Some(addr) = addr.filter(|addr| addr.ip().is_loopback()) else { return Ok(None) };
        Ok(read(RPC_TOKEN)?.map(|token| Endpoint { addr, token: token.trim().to_owned() }))
    }
}

/// Takes a daemon's address and token away again when dropped.
#[derive(Debug)]
pub struct Published {
    dir: PathBuf,
}

impl Drop for Published {
    fn drop(&mut self) {
        for name in [RPC_ADDR, RPC_TOKEN] {
            let _ = fs::remove_file(self.dir.join(name));
        }
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RepoError + use<'a> {
    move |source| RepoError::Io { action, path: path.to_path_buf(), source }
}

/// Makes the folder private; those above it, if missing too, as usual.
fn make_folder(dir: &Path) -> Result<(), RepoError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(failed("make the folder", parent))?;
    }
    platform::create_private_folder(dir).map_err(failed("make the folder", dir))
}

/// Reads a key's file whole.
fn read_key(path: &Path) -> Result<Vec<u8>, RepoError> {
    let length = fs::metadata(path).map_err(failed("read", path))?.len();
    if length > KEY_BYTES_MAX {
        let source = io::Error::other(format!("{length} bytes are too many for a key"));
        return Err(failed("read", path)(source));
    }
    fs::read(path).map_err(failed("read", path))
}

/// Writes a file that only its owner can read, whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), RepoError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // Left by a process that had our id and was killed in here.
    let _ = fs::remove_file(&temporary);
    let write = || {
        let mut file = platform::create_private(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        RepoError::Io { action: "write", path: path.to_path_buf(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_remembered_and_damage_costs_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::init(&dir.path().join("repo"), &new(None)).unwrap();
        assert!(repo.members().is_empty());
        let records = vec![b"one".to_vec(), Vec::new(), vec![7; 1000]];
        repo.remember_members(&records).unwrap();
        assert_eq!(repo.members(), records);
        let path = repo.dir().join(MEMBERS);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(repo.members(), records[..2]);
    }

    fn new(key: Option<&[u8]>) -> NewRepo {
        let swarm = if key.is_some() { Swarm::Private } else { Swarm::Public };
        NewRepo { swarm, identity: b"identity".to_vec(), swarm_key: key.map(<[u8]>::to_vec) }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_fresh_repo_has_its_parts_and_no_leftovers() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("deep/repo");
        let repo = Repo::init(&dir, &new(Some(b"key"))).unwrap();
        assert_eq!(names(&dir), ["identity.key", "node.toml", "swarm.key"]);
        let config = Repo::open(&dir).unwrap().config().unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(repo.identity().unwrap(), b"identity");
        assert_eq!(repo.swarm_key(&config).unwrap().unwrap(), b"key");
    }

    #[cfg(unix)]
    #[test]
    fn secrets_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("repo");
        let repo = Repo::init(&dir, &new(Some(b"key"))).unwrap();
        let endpoint = Endpoint { addr: "127.0.0.1:1".parse().unwrap(), token: "t".into() };
        let _published = repo.publish(&endpoint).unwrap();
        for name in ["identity.key", "swarm.key", "rpc.token"] {
            let mode = fs::metadata(dir.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(!format!("{endpoint:?}").contains("token"));
        assert!(!format!("{:?}", new(Some(b"k"))).contains("key"));
    }

    #[test]
    fn init_changes_nothing_of_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("repo");
        Repo::init(&dir, &new(Some(b"key"))).unwrap();
        let error = Repo::init(&dir, &NewRepo { identity: b"other".to_vec(), ..new(Some(b"key2")) }).unwrap_err();
        assert!(error.to_string().contains("node.toml is already there, and nothing was changed"), "{error}");
        assert_eq!(fs::read(dir.join("identity.key")).unwrap(), b"identity");
        assert_eq!(fs::read(dir.join("swarm.key")).unwrap(), b"key");
    }

    #[test]
    fn a_key_that_was_put_there_first_is_used_when_named_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("swarm.key"), b"key").unwrap();
        let error = Repo::init(folder.path(), &new(Some(b"other"))).unwrap_err();
        assert!(error.to_string().contains("bitshoal init --swarm-key"), "{error}");
        assert_eq!(names(folder.path()), ["swarm.key"]);
        Repo::init(folder.path(), &new(Some(b"key"))).unwrap();
        assert_eq!(fs::read(folder.path().join("swarm.key")).unwrap(), b"key");
    }

    #[test]
    fn no_repo_says_how_to_make_one() {
        let folder = tempfile::tempdir().unwrap();
        let error = Repo::open(&folder.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("init` makes one"), "{error}");
        assert_eq!(Failure::from(error).code, "no-repo");
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(matches!(Repo::open(&file), Err(RepoError::Missing { .. })));
        assert!(matches!(Repo::init(&file, &new(None)), Err(RepoError::Io { .. })));
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn a_private_swarm_without_its_key_does_not_become_an_open_one() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repo::init(folder.path(), &new(Some(b"key"))).unwrap();
        fs::remove_file(folder.path().join("swarm.key")).unwrap();
        let error = repo.swarm_key(&repo.config().unwrap()).unwrap_err();
        assert!(matches!(error, RepoError::NoSwarmKey { .. }), "{error}");
        let open = Config { swarm: Swarm::Public, ..Config::default() };
        assert_eq!(repo.swarm_key(&open).unwrap(), None);
    }

    #[test]
    fn the_flag_wins_over_the_variable_and_both_over_the_data_folder() {
        let variable = std::ffi::OsStr::new("/from/variable");
        assert_eq!(
            Repo::locate(Some(Path::new("/flag")), Some(variable)).unwrap(),
            std::path::absolute("/flag").unwrap()
        );
        let found = Repo::locate(None, Some(variable)).unwrap();
        assert_eq!(found, std::path::absolute("/from/variable").unwrap());
        assert!(Repo::locate(Some(Path::new("relative")), None).unwrap().is_absolute());
        if let Ok(default) = Repo::locate(None, Some(std::ffi::OsStr::new(""))) {
            assert!(default.to_string_lossy().contains("bitshoal"), "{}", default.display());
            if cfg!(windows) {
                let local = std::env::var_os("LOCALAPPDATA").unwrap();
                assert!(default.starts_with(local), "{}", default.display());
            }
        }
    }

    #[test]
    fn a_daemons_address_is_there_while_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repo::init(folder.path(), &new(None)).unwrap();
        assert_eq!(repo.endpoint().unwrap(), None);
        let endpoint = Endpoint { addr: "127.0.0.1:4711".parse().unwrap(), token: "secret".into() };
        let published = repo.publish(&endpoint).unwrap();
        assert_eq!(repo.endpoint().unwrap(), Some(endpoint.clone()));
        drop(published);
        assert_eq!(repo.endpoint().unwrap(), None);
        assert_eq!(names(folder.path()), ["identity.key", "node.toml"]);
        // An address elsewhere would hand the token to another machine.
        let _foreign = repo.publish(&Endpoint { addr: "192.0.2.1:80".parse().unwrap(), ..endpoint }).unwrap();
        assert_eq!(repo.endpoint().unwrap(), None);
    }
}
