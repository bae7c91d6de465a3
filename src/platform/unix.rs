//! Unix: permission bits, links, SIGINT and SIGTERM.

pub(crate) mod service;

use super::{Memory, ProcessMemory, SystemMemory};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whether connections may be made from a port that one listens at.
pub(crate) const SHARES_PORTS: bool = true;

/// Whether the system by itself ends a connection whose other side has gone without a word.
pub(crate) const ENDS_DEAD_CONNECTIONS: bool = cfg!(target_os = "linux");

/// Has the system end a connection when what was sent is not acknowledged for `patience`, or when the other side's system
/// gives no sign of life for as long. After `silence` it asks that system, several times since a question may be lost;
/// the program there does not notice. Linux ends a connection at the first question that is unanswered after `patience`,
/// so `silence` has to be the shorter of the two.
pub(crate) fn end_when_dead(connection: &TcpStream, silence: Duration, patience: Duration) -> io::Result<()> {
    let socket = SockRef::from(connection);
    let interval = (patience - silence) / 5;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(silence).with_interval(interval).with_retries(5))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(patience))?;
    Ok(())
}

/// Makes a file to write to that is not there yet, and that its owner alone can read from its first instant.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Whether users other than a file's owner can read it.
pub(crate) fn is_open_to_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o044 != 0)
}

/// The same for a folder.
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Allows this process as many open files as the system lets it have: the usual 1024 are for programs that wait for
/// files with select(2).
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the number of open files stays as it is");
    }
}

/// Makes names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The signals that ask a program to end.
#[derive(Debug)]
pub(crate) struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    /// Takes the signals over from the system's default, which ends the process at once.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Makes a symbolic link; nothing is overwritten.
pub(crate) fn make_link(target: &[u8], at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(OsStr::from_bytes(target), at)
}

/// Where a symbolic link points.
pub(crate) fn link_target(at: &Path) -> io::Result<Vec<u8>> {
    std::fs::read_link(at).map(|target| target.into_os_string().into_vec())
}

/// Gives a folder permissions (the lowest nine bits) and a time of last change.
pub(crate) fn restore_folder(path: &Path, mode: Option<u32>, mtime: Option<SystemTime>) -> io::Result<()> {
    let folder = File::open(path)?;
    if let Some(mode) = mode {
        folder.set_permissions(Permissions::from_mode(mode & 0o777))?;
    }
    mtime.map_or(Ok(()), |mtime| folder.set_modified(mtime))
}

/// Whether a folder's file system takes names that differ in case for one. No when it cannot be tried.
pub(crate) fn folds_case(folder: &Path) -> bool {
    let name = format!(".bitshoal-case-{:016x}", rand::random::<u64>());
    let lower = folder.join(&name);
    if OpenOptions::new().write(true).create_new(true).open(&lower).is_err() {
        return false;
    }
    let folds = folder.join(name.to_uppercase()).symlink_metadata().is_ok();
    let _ = std::fs::remove_file(&lower);
    folds
}

/// What this process takes, in bytes; `None` when the system does not tell.
pub(crate) fn process_memory() -> Option<ProcessMemory> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let anonymous_bytes = field(&status, "RssAnon")?;
    Some(ProcessMemory { anonymous_bytes, mapped_bytes: field(&status, "RssFile")? + field(&status, "RssShmem")? })
}

/// The same of any process.
pub(crate) fn memory_of(pid: u32) -> Option<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Memory { resident_bytes: field(&status, "VmRSS")?, private_bytes: field(&status, "RssAnon")? })
}

/// What the machine's memory holds.
pub(crate) fn system_memory() -> Option<SystemMemory> {
    let told = std::fs::read_to_string("/proc/meminfo").ok()?;
    Some(SystemMemory { cache_bytes: field(&told, "Cached")?, available_bytes: field(&told, "MemAvailable")? })
}

/// How what the system's cache holds of a file is told apart from the rest.
pub(crate) const CACHE_ADVICE: &str =
    "What of the page cache is whose: `bitshoal stat --memory`, for each node and file.";

/// A line of proc(5), where kB are KiB, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_told_when_to_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (silence, patience) = (Duration::from_secs(10), Duration::from_secs(20));
        end_when_dead(&connection, silence, patience).unwrap();
        let socket = SockRef::from(&connection);
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), silence);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(2));
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(patience));
        }
    }
}
