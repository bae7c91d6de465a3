//! The far sides as child processes: where their programs are, how they are started, what they say, how they end.
//!
//! `BITSHOAL_BOXO_PEER` names the built Go program and `BITSHOAL_HELIA` the folder of the npm package with its
//! `node_modules`; without them both are built from the folders beside this file. Both speak alike: options in, one JSON
//! object a line out, and they leave when their stdin ends.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

use crate::content::Recipe;
use crate::support::{PATIENCE, gather, reader};

/// Which implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Far {
    Boxo,
    Helia,
}

/// How to speak with us.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    /// `tcp` when nothing is said.
    pub(crate) transport: Option<&'static str>,
    /// The program's own default when nothing is said.
    pub(crate) security: Option<&'static str>,
    /// Every version that it has when nothing is said.
    pub(crate) protocol: Option<&'static str>,
    pub(crate) swarm_key: Option<PathBuf>,
    /// A folder for the blocks; without one they are in memory.
    pub(crate) store: Option<PathBuf>,
}

impl Link {
    fn flags(&self) -> Vec<String> {
        let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
        let pairs = [
            ("--transport", self.transport.map(str::to_owned)),
            ("--security", self.security.map(str::to_owned)),
            ("--protocol", self.protocol.map(str::to_owned)),
            ("--swarm-key", self.swarm_key.as_ref().map(path)),
            ("--store", self.store.as_ref().map(path)),
        ];
        pairs.into_iter().filter_map(|(flag, value)| Some(format!("{flag}={}", value?))).collect()
    }
}

/// The far programs, ready to run.
#[derive(Debug)]
pub(crate) struct Programs {
    boxo: PathBuf,
    node: PathBuf,
    helia: PathBuf,
}

impl Programs {
    /// Finds or builds them.
    pub(crate) fn find() -> Result<Self, String> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        let boxo = match std::env::var_os("BITSHOAL_BOXO_PEER") {
            Some(path) => path.into(),
            None => built_boxo(&sources.join("boxo"))?,
        };
        let package = match std::env::var_os("BITSHOAL_HELIA") {
            Some(path) => path.into(),
            None => installed_helia(sources.join("helia"))?,
        };
        let helia = package.join("peer.js");
        for path in [&boxo, &helia] {
            std::fs::metadata(path)
                .map_err(|error| format!("the interop peer {} is missing: {error}", path.display()))?;
        }
        Ok(Self { boxo, node: node_of(&package), helia })
    }

    /// Lets a far side import some paths and serve them; returns when it is ready.
    pub(crate) fn serve(&self, far: Far, link: &Link, recipe: Recipe, more: &[&str], paths: &[&Path]) -> Serving {
        let mut command = self.command(far);
        command.arg("serve").args(link.flags()).args(recipe.theirs()).args(more).args(paths);
        let mut peer = Peer::start(&mut command);
        let (mut roots, mut address) = (Vec::new(), None);
        loop {
            let said = peer.next();
            if let Some(root) = said["root"].as_str() {
                roots.push(root.to_owned());
            } else if let Some(listen) = said["listen"].as_str() {
                address.get_or_insert(listen.to_owned());
            } else if said["ready"] == true {
                break;
            }
        }
        assert_eq!(roots.len(), paths.len(), "{far:?} imported something else than it was given");
        Serving { peer, roots, address: address.unwrap_or_else(|| panic!("{far:?} listens nowhere")) }
    }

    /// Lets a far side fetch a DAG from us and write it.
    pub(crate) fn fetch(&self, far: Far, link: &Link, from: &str, cid: &str, to: &Path) -> Fetched {
        let mut command = self.command(far);
        let timeout = format!("--timeout={}", PATIENCE.as_secs());
        command.arg("fetch").args(link.flags()).arg(timeout).args(["--peer", from, cid]).arg(to);
        let mut peer = Peer::start(&mut command);
        let said = peer.next();
        let bytes = said["bytes"].as_u64().unwrap_or_else(|| panic!("{far:?} fetched and said {said}"));
        let seconds = said["seconds"].as_f64().unwrap();
        peer.leave();
        Fetched { bytes, seconds }
    }

    fn command(&self, far: Far) -> Command {
        match far {
            Far::Boxo => Command::new(&self.boxo),
            Far::Helia => {
                let mut command = Command::new(&self.node);
                command.arg(&self.helia);
                command
            }
        }
    }
}

/// What a far side says of its fetch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetched {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
}

/// A far side that serves; killed when dropped.
pub(crate) struct Serving {
    peer: Peer,
    /// CIDs of the paths, in their order.
    pub(crate) roots: Vec<String>,
    pub(crate) address: String,
}

impl Serving {
    /// A polite end, which must come promptly.
    pub(crate) fn leave(self) {
        self.peer.leave();
    }

    /// `kill -9`.
    pub(crate) fn kill(self) {
        drop(self.peer);
    }

    pub(crate) fn peer_id(&self) -> &str {
        self.address.rsplit('/').next().unwrap()
    }
}

/// One child, with its stdin held open for as long as it shall live.
struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    log: Option<JoinHandle<String>>,
}

impl Peer {
    fn start(command: &mut Command) -> Self {
        let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        let stdin = child.stdin.take();
        let lines = reader(child.stdout.take().unwrap());
        let log = Some(gather(child.stderr.take().unwrap()));
        Self { child, stdin, lines, log }
    }

    /// Its next line.
    fn next(&mut self) -> Value {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => serde_json::from_str(&line).unwrap_or_else(|_| panic!("a peer printed {line:?}, not JSON")),
            Err(end) => {
                let _ = self.child.kill();
                let log = self.log.take().map(|log| log.join().unwrap()).unwrap_or_default();
                let what = if end == RecvTimeoutError::Timeout { "a peer hangs" } else { "a peer ended" };
                panic!("{what}: {}", log.trim());
            }
        }
    }

    fn leave(mut self) {
        self.stdin = None;
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("a peer does not leave when its stdin ends"),
            }
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "a peer left with {status}: {}", self.log.take().unwrap().join().unwrap().trim());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn built_boxo(source: &Path) -> Result<PathBuf, String> {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boxo-peer");
    let mut go = Command::new("go");
    run(go.arg("build").arg("-o").arg(&program).arg(".").current_dir(source), "Go, or set BITSHOAL_BOXO_PEER")?;
    Ok(program)
}

fn installed_helia(package: PathBuf) -> Result<PathBuf, String> {
    if !package.join("node_modules").exists() {
        let mut npm = Command::new("npm");
        run(npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(&package), "npm, or set BITSHOAL_HELIA")?;
    }
    Ok(package)
}

/// The package brings a node of the version that Helia needs; without it, the machine's.
fn node_of(package: &Path) -> PathBuf {
    let own = package.join("node_modules/.bin/node");
    if own.exists() { own } else { "node".into() }
}

fn run(command: &mut Command, missing: &str) -> Result<(), String> {
    let folder = command.get_current_dir().map(Path::display).map(|folder| folder.to_string()).unwrap_or_default();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} in {folder} failed with {status}")),
        Err(error) => Err(format!("{:?} cannot be run: {error}; install {missing}", command.get_program())),
    }
}
