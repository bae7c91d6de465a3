//! Windows: private files, links, console events, and what the process takes.
#![allow(unsafe_code, reason = "the process's memory and a lost peer have no safe interface")]

mod private;
pub(crate) mod service;

pub(crate) use private::{create_private, create_private_folder};

use super::{Memory, ProcessMemory, SystemMemory};
use std::ffi::OsString;
use std::io;
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::os::windows::io::AsRawSocket;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown,
};
use windows_sys::Win32::Foundation::CloseHandle;
use windows_sys::Win32::Networking::WinSock::{IPPROTO_TCP, TCP_MAXRT, setsockopt};
use windows_sys::Win32::System::ProcessStatus::{
    K32GetPerformanceInfo, K32GetProcessMemoryInfo, PERFORMANCE_INFORMATION, PROCESS_MEMORY_COUNTERS_EX,
};
use windows_sys::Win32::System::Threading::{OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION};

/// Whether connections may be made from a port that one listens at. Here which of two sockets gets what arrives at their
/// port is undefined (and in wine the second is refused).
pub(crate) const SHARES_PORTS: bool = false;

/// Whether the system by itself ends a connection whose other side has gone without a word.
pub(crate) const ENDS_DEAD_CONNECTIONS: bool = true;

/// Has the system end a connection when what was sent is not acknowledged for `patience`, or when the other side's
/// system, asked ten times after `silence`, gives no sign of life.
pub(crate) fn end_when_dead(connection: &TcpStream, silence: Duration, patience: Duration) -> io::Result<()> {
    let alive = TcpKeepalive::new().with_time(silence).with_interval((patience - silence) / 5);
    SockRef::from(connection).set_tcp_keepalive(&alive)?;
    let seconds = u32::try_from(patience.as_secs()).unwrap_or(u32::MAX).to_ne_bytes();
    let socket = usize::try_from(connection.as_raw_socket()).map_err(io::Error::other)?;
    // SAFETY: the socket is open as long as `connection` is borrowed, and the value is a DWORD, which `TCP_MAXRT` takes
    // (IPPROTO_TCP socket options, learn.microsoft.com).
    let result = unsafe { setsockopt(socket, IPPROTO_TCP, TCP_MAXRT, seconds.as_ptr(), 4) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Not looked at: a file has what ACL its folder gives, and that of a repo is for its owner alone.
pub(crate) const fn is_open_to_others(_path: &Path) -> bool {
    false
}

/// The system has no limit of its own.
pub(crate) const fn raise_open_files() {}

/// NTFS journals names by itself, and folders cannot be flushed.
pub(crate) fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// The events that ask a program to end.
#[derive(Debug)]
pub(crate) struct EndSignals {
    c: CtrlC,
    r#break: CtrlBreak,
    close: CtrlClose,
    shutdown: CtrlShutdown,
}

impl EndSignals {
    /// Takes the events over from the system's default, which ends the process at once.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { c: ctrl_c()?, r#break: ctrl_break()?, close: ctrl_close()?, shutdown: ctrl_shutdown()? })
    }

    /// Waits for the next.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.c.recv() => {}
            _ = self.r#break.recv() => {}
            _ = self.close.recv() => {}
            _ = self.shutdown.recv() => {}
        }
    }
}

/// Makes a symbolic link; nothing is overwritten. Only users with the right to do so (developer mode) can.
pub(crate) fn make_link(target: &[u8], at: &Path) -> io::Result<()> {
    let target = std::str::from_utf8(target).map_err(|_| io::ErrorKind::Unsupported)?.replace('/', "\\");
    let points_to_folder = at.parent().is_some_and(|parent| parent.join(&target).is_dir());
    let made = if points_to_folder {
        std::os::windows::fs::symlink_dir(&target, at)
    } else {
        std::os::windows::fs::symlink_file(&target, at)
    };
    const PRIVILEGE_NOT_HELD: i32 = 1314;
    made.map_err(|e| match e.raw_os_error() {
        Some(PRIVILEGE_NOT_HELD) => io::Error::new(io::ErrorKind::PermissionDenied, e),
        _ => e,
    })
}

/// Where a symbolic link points, with slashes.
pub(crate) fn link_target(at: &Path) -> io::Result<Vec<u8>> {
    std::fs::read_link(at).map(|target| target.to_string_lossy().replace('\\', "/").into_bytes())
}

/// Permissions are not these, and times of folders are of no use here.
pub(crate) fn restore_folder(_path: &Path, _mode: Option<u32>, _mtime: Option<SystemTime>) -> io::Result<()> {
    Ok(())
}

/// Names are compared without regard to case.
pub(crate) fn folds_case(_folder: &Path) -> bool {
    true
}

/// From this length on a path must be verbatim: a folder's must leave room for a name of 12 below 260.
const PATH_UNITS_MAX: usize = 248;

/// What this process takes, in bytes: what it has been promised, in memory or not, and what is in memory beside that.
pub(crate) fn process_memory() -> Option<ProcessMemory> {
    let memory = memory_of(std::process::id())?;
    let mapped_bytes = memory.resident_bytes.saturating_sub(memory.private_bytes);
    Some(ProcessMemory { anonymous_bytes: memory.private_bytes, mapped_bytes })
}

/// The working set and the private bytes of any process.
pub(crate) fn memory_of(pid: u32) -> Option<Memory> {
    let size = u32::try_from(size_of::<PROCESS_MEMORY_COUNTERS_EX>()).ok()?;
    let mut counters = PROCESS_MEMORY_COUNTERS_EX { cb: size, ..Default::default() };
    // SAFETY: the handle is open while it is asked. The longer structure begins with the fields of the shorter one that
    // the function's type names, and the size tells which of the two it is.
    let told = unsafe {
        let process = OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, pid);
        let told = !process.is_null() && K32GetProcessMemoryInfo(process, (&raw mut counters).cast(), size) != 0;
        CloseHandle(process);
        told
    };
    told.then_some(Memory {
        resident_bytes: counters.WorkingSetSize as u64,
        private_bytes: counters.PrivateUsage as u64,
    })
}

/// What the machine's memory holds.
pub(crate) fn system_memory() -> Option<SystemMemory> {
    let size = u32::try_from(size_of::<PERFORMANCE_INFORMATION>()).ok()?;
    let mut told = PERFORMANCE_INFORMATION::default();
    // SAFETY: the structure is as large as is said.
    let done = unsafe { K32GetPerformanceInfo(&raw mut told, size) };
    let bytes = |pages: usize| (pages as u64).saturating_mul(told.PageSize as u64);
    (done != 0)
        .then(|| SystemMemory { cache_bytes: bytes(told.SystemCache), available_bytes: bytes(told.PhysicalAvailable) })
}

/// How the standby list, where pages of closed files stay, is watched: no call tells it.
pub(crate) const CACHE_ADVICE: &str = "The standby list by itself, in PowerShell: Get-Counter \
    '\\Memory\\Standby Cache Normal Priority Bytes'; by file: RAMMap of Sysinternals, File Summary.";

/// A path as calls of the system want it: ended by a zero, and of any length.
pub(crate) fn wide(path: &Path) -> io::Result<Vec<u16>> {
    let path = verbatim(&std::path::absolute(path)?);
    Ok(path.as_os_str().encode_wide().chain([0]).collect())
}

/// An absolute path so that the system takes it however long it is: beyond [`PATH_UNITS_MAX`] it does so only for paths
/// that say that there is nothing in them to be interpreted. Others are left as they are.
pub(crate) fn verbatim(path: &Path) -> PathBuf {
    use std::path::{Component, Prefix};
    if path.as_os_str().encode_wide().count() < PATH_UNITS_MAX {
        return path.to_path_buf();
    }
    let mut components = path.components();
    let mut long = match components.next() {
        Some(Component::Prefix(prefix)) => match prefix.kind() {
            Prefix::Disk(_) => OsString::from(r"\\?\"),
            Prefix::UNC(..) => OsString::from(r"\\?\UNC"),
            _ => return path.to_path_buf(),
        },
        _ => return path.to_path_buf(),
    };
    let skipped = if long.len() == 4 { 0 } else { 1 };
    let units: Vec<u16> = path.as_os_str().encode_wide().skip(skipped).collect();
    long.push(OsString::from_wide(&units));
    PathBuf::from(long)
}
