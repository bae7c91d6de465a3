//! What the edges need of the operating system: private files, links and folders, and the signals that end a program.
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

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;
