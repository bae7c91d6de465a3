//! Services are the service manager's business here: it starts `bitshoal daemon`, and nothing else is needed.

use std::ffi::OsString;
use std::io;

/// What stands in for a service of Windows.
const ADVICE: &str = "services are for Windows; here a unit of systemd runs `bitshoal daemon` (README, \"On Windows\")";

pub(crate) fn install(_name: &str, _arguments: Vec<OsString>) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, ADVICE))
}

pub(crate) fn uninstall(_name: &str) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, ADVICE))
}

/// A service that runs: never here.
#[derive(Debug)]
pub(crate) enum Life {}

impl Life {
    #[expect(clippy::unused_async, reason = "its sibling waits")]
    pub(crate) async fn begin(_name: &str, _stop: impl Fn() + Send + 'static) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, ADVICE))
    }

    pub(crate) fn running(&self) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn stopping(&self) -> io::Result<()> {
        match *self {}
    }

    #[expect(clippy::unused_async, reason = "its sibling waits")]
    pub(crate) async fn end(self, _succeeded: bool) -> io::Result<()> {
        match self {}
    }
}
