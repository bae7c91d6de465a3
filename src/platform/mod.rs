//! What the edges need of the operating system: private files, links and folders, the signals that end a program, and
//! connections that do not outlive their peer.
//!
//! Equal siblings, one a platform; nothing here decides anything.

/// Memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessMemory {
    /// What lies in no file.
    pub(crate) anonymous_bytes: u64,
    /// Pages of mapped files that are in memory.
    pub(crate) mapped_bytes: u64,
}

/// Memory of any process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What of it is in memory: its own and mapped files'.
    pub(crate) resident_bytes: u64,
    /// What is its own: on Windows in memory or not.
    pub(crate) private_bytes: u64,
}

/// Memory of the machine, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SystemMemory {
    /// Pages of files: the page cache; on Windows the standby list and the system's working set.
    pub(crate) cache_bytes: u64,
    /// What programs could have at once, the cache that is let go for them included.
    pub(crate) available_bytes: u64,
}

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;
