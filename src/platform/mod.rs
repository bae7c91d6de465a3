//! What the edges need of the operating system: private files, links and folders, and the signals that end a program.
//!
//! Equal siblings, one a platform; nothing here decides anything.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;
