//! Windows: the ACL inherited from the user's profile, and console events.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::path::Path;

use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown,
};

/// Nothing to set: a file inherits the folder's ACL, and the default repo lies in the user's profile, which others cannot
/// read. A repo elsewhere is as private as the folder that the user chose.
pub(crate) fn keep_private(_options: &mut OpenOptions) {}

/// As [`keep_private`].
pub(crate) fn keep_folder_private(_builder: &mut DirBuilder) {}

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
