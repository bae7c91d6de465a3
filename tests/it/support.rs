//! Real processes of this binary for the tests: repos in temporary folders, daemons on free ports, commands and what they
//! print. Nothing waits by sleeping: a daemon is ready when it says so, a job has got somewhere when its events say so.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything in a test may take before the test fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Says something that people want to read even of a test that passes: past the capture, which only macros heed.
pub(crate) fn say(line: &str) {
    let line = format!("{line}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// A repo folder with its own private swarm, or another's.
pub(crate) struct Repo {
    pub(crate) path: PathBuf,
}

impl Repo {
    /// A repo in a new private swarm.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        Self::init(folder, name, &[])
    }

    /// A repo in the swarm of another.
    pub(crate) fn member(folder: &Path, name: &str, of: &Self) -> Self {
        let key = of.path.join("swarm.key");
        Self::init(folder, name, &["--swarm-key", key.to_str().unwrap()])
    }

    pub(crate) fn init(folder: &Path, name: &str, arguments: &[&str]) -> Self {
        let repo = Self { path: folder.join(name) };
        let done = repo.command(&["init"]).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", stderr(&done));
        // Where ports are not shared only one of all that run at a time could listen at the usual one.
        let settings = repo.path.join("node.toml");
        let text = std::fs::read_to_string(&settings).unwrap();
        std::fs::write(&settings, format!("listen = [\"/ip4/127.0.0.1/tcp/0\"]\n{text}")).unwrap();
        repo
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bitshoal();
        command.arg("--repo").arg(&self.path).args(arguments);
        command
    }

    /// Runs a command that must succeed and returns what it printed as JSON lines.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Vec<Value> {
        let done = self.run(arguments);
        assert!(done.status.success(), "{arguments:?}: {}", stderr(&done));
        json_lines(&done.stdout)
    }

    /// Runs a command that must fail and returns what it said on stderr.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert!(!done.status.success(), "{arguments:?} succeeded: {}", String::from_utf8_lossy(&done.stdout));
        stderr(&done)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        bounded(self.command(&["--json"]).args(arguments))
    }

    /// Starts the daemon and waits until it is ready.
    pub(crate) fn daemon(&self) -> Daemon {
        self.daemon_at("/ip4/127.0.0.1/tcp/0", &[])
    }

    pub(crate) fn daemon_at(&self, listen: &str, more: &[&str]) -> Daemon {
        let mut command = self.command(&["daemon", "--listen", listen]);
        #[cfg(windows)]
        {
            use std::os::windows::process::CommandExt;
            use windows_sys::Win32::System::Threading::CREATE_NEW_PROCESS_GROUP;
            command.creation_flags(CREATE_NEW_PROCESS_GROUP);
        }
        let mut child =
            command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = reader(child.stdout.take().unwrap());
        let log = gather(child.stderr.take().unwrap());
        let mut addresses = Vec::new();
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) if line == "ready" => break,
                Ok(line) if line.contains("/p2p/") => addresses.push(line),
                Ok(_) => {}
                Err(_) => {
                    let _ = child.kill();
                    panic!("the daemon did not become ready: {}", log.join().unwrap());
                }
            }
        }
        Daemon { child, addresses, _lines: lines }
    }

    /// Starts a pull in the background and returns its events as they come.
    pub(crate) fn start_get(&self, cid: &str, output: &Path, more: &[&str]) -> Running {
        let child = self
            .command(&["--json", "get", cid, "-o", output.to_str().unwrap()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Running::new(child)
    }

    /// The job of one output path, as the daemon tells it.
    pub(crate) fn job(&self, output: &Path) -> Option<Value> {
        self.ask(&["jobs"]).into_iter().find(|job| job["output"].as_str() == output.to_str())
    }

    /// Asks for the job again and again until `done` says so.
    pub(crate) fn wait_job(&self, output: &Path, done: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(job) = self.job(output)
                && done(&job)
            {
                return job;
            }
            assert!(Instant::now() < until, "the job never got there: {:?}", self.job(output));
            std::thread::yield_now();
        }
    }
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) addresses: Vec<String>,
    _lines: Receiver<String>,
}

impl Daemon {
    pub(crate) fn address(&self) -> &str {
        &self.addresses[0]
    }

    pub(crate) fn peer_id(&self) -> &str {
        self.address().rsplit('/').next().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A polite stop; how long it took.
    #[cfg(unix)]
    pub(crate) fn terminate(mut self) -> (Duration, std::process::ExitStatus) {
        let started = Instant::now();
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let status = self.child.wait().unwrap();
        (started.elapsed(), status)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command under way whose JSON lines are read as they come; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn new(mut child: Child) -> Self {
        let lines = reader(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Waits for an event.
    pub(crate) fn wait_for(&self, wanted: impl Fn(&Value) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let line = self.lines.recv_timeout(until.saturating_duration_since(Instant::now()));
            let line = line.expect("the command ends or hangs before what is waited for");
            if serde_json::from_str(&line).is_ok_and(|event| wanted(&event)) {
                return;
            }
        }
    }

    /// Waits for the end and returns whether it succeeded.
    pub(crate) fn finish(mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().unwrap().success(),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("the command hangs"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn bitshoal() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitshoal"));
    command.env_remove("BITSHOAL_PATH").env_remove("RUST_LOG");
    command
}

/// Runs a command to its end, or fails the test when it does not come.
pub(crate) fn bounded(command: &mut Command) -> Output {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (gather_bytes(child.stdout.take().unwrap()), gather_bytes(child.stderr.take().unwrap()));
    let (ended, end) = channel();
    let pid = child.id();
    let waiter = std::thread::spawn(move || {
        let status = child.wait().unwrap();
        let _ = ended.send(());
        status
    });
    if end.recv_timeout(PATIENCE).is_err() {
        panic!("process {pid} hangs: {command:?}");
    }
    let status = waiter.join().unwrap();
    Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

pub(crate) fn stderr(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

pub(crate) fn json_lines(bytes: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(bytes)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect()
}

/// A file of noise.
pub(crate) fn noise(path: &Path, size: usize, seed: u64) {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    std::fs::File::create(path).unwrap().write_all(&bytes).unwrap();
}

/// Gives a file's name to another file. Windows keeps the name of an open file from others (unless renames are as in
/// POSIX, which Wine's are not), so programs that save there rename the old one first.
pub(crate) fn replace(new: &Path, path: &Path) {
    if cfg!(windows) && path.exists() {
        std::fs::rename(path, path.with_extension("old")).unwrap();
    }
    std::fs::rename(new, path).unwrap();
}

/// Removes a file whose name must be gone at once; see [`replace`].
pub(crate) fn remove(path: &Path) {
    let gone = path.with_extension("gone");
    std::fs::rename(path, &gone).unwrap();
    std::fs::remove_file(&gone).unwrap();
}

pub(crate) fn assert_same(a: &Path, b: &Path) {
    assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "{} and {} differ", a.display(), b.display());
}

/// The lines of a child as they come; the end of them is the end of its output.
pub(crate) fn reader(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// All that a child says, once it has said it.
pub(crate) fn gather(from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || String::from_utf8_lossy(&gather_bytes(from).join().unwrap()).into_owned())
}

fn gather_bytes(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}
