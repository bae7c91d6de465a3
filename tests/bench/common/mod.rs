//! What the benchmarks share: arguments, generated files, daemons of this binary, memory samples and their charts.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub mod cgroup;
pub mod chart;
pub mod samples;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cgroup::Group;

/// `--name value` pairs of the command line; what cargo itself adds is left out.
pub struct Arguments(Vec<(String, String)>);

pub fn arguments() -> Arguments {
    let mut given = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut pairs = Vec::new();
    while let Some(name) = given.next() {
        let value = given.next().unwrap_or_else(|| panic!("{name} needs a value"));
        pairs.push((name.trim_start_matches("--").to_owned(), value));
    }
    Arguments(pairs)
}

impl Arguments {
    pub fn value(&self, name: &str) -> Option<String> {
        self.values(name).pop()
    }

    pub fn values(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(given, _)| given == name).map(|(_, value)| value.clone()).collect()
    }
}

/// A folder on a disk, not in memory, where files may go for a while.
pub fn disk_folder(arguments: &Arguments) -> PathBuf {
    arguments.value("dir").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").to_owned()).into()
}

/// The folder for what stays.
pub fn out_folder(arguments: &Arguments) -> PathBuf {
    let given = arguments.value("out").map(PathBuf::from);
    given.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench"))
}

/// `4GiB`, `256MiB`, or plain bytes.
pub fn parse_size(text: &str) -> u64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().unwrap();
    match &text[digits.len()..] {
        "" => number,
        "MiB" => number << 20,
        "GiB" => number << 30,
        other => panic!("unknown unit {other}: MiB, GiB"),
    }
}

pub fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// A file of noise, durable.
pub fn generate(path: &Path, size: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut buffer = vec![0_u8; 1 << 20];
    let mut left = size;
    while left > 0 {
        for word in buffer.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let part = left.min(buffer.len() as u64) as usize;
        file.write_all(&buffer[..part]).unwrap();
        left -= part as u64;
    }
    file.sync_all().unwrap();
}

pub fn equal(a: &Path, b: &Path) -> bool {
    let (mut a, mut b) = (std::fs::File::open(a).unwrap(), std::fs::File::open(b).unwrap());
    if a.metadata().unwrap().len() != b.metadata().unwrap().len() {
        return false;
    }
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = a.read(&mut x).unwrap();
        if read == 0 {
            return true;
        }
        b.read_exact(&mut y[..read]).unwrap();
        if x[..read] != y[..read] {
            return false;
        }
    }
}

/// A child whose lines are read one by one; it is killed when dropped.
pub struct Lines {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Lines {
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    pub fn next(&mut self) -> String {
        self.lines.next().expect("the child said nothing").unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node of this binary in a fresh repo.
pub struct Daemon {
    repo: PathBuf,
    pub address: String,
    child: Lines,
}

impl Daemon {
    /// `transport`: tls, noise, quic (all in an open swarm) or private.
    pub fn start(repo: &Path, transport: &str, key: Option<&Path>) -> Self {
        Self::start_with(repo, transport, key, "", None)
    }

    /// As [`Daemon::start`], with more lines for node.toml, in a control group.
    pub fn start_with(repo: &Path, transport: &str, key: Option<&Path>, lines: &str, group: Option<&Group>) -> Self {
        let mut init = program(repo);
        init.args(["--quiet", "init"]);
        match (transport, key) {
            ("private", Some(key)) => {
                init.arg("--swarm-key").arg(key);
            }
            ("private", None) => {}
            _ => {
                init.arg("--public");
            }
        }
        assert!(init.stdout(Stdio::null()).status().unwrap().success());
        let security = match transport {
            "tls" | "noise" => format!("security = \"{transport}\"\n"),
            _ => String::new(),
        };
        let config = repo.join("node.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, format!("{security}{lines}\n{text}")).unwrap();
        let listen = if transport == "quic" { "/ip4/127.0.0.1/udp/0/quic-v1" } else { "/ip4/127.0.0.1/tcp/0" };
        let mut command = program(repo);
        command.args(["daemon", "--listen", listen]);
        if let Some(group) = group {
            command = group.enter(&command);
        }
        let mut child = Lines::spawn(&mut command);
        let mut address = String::new();
        loop {
            let line = child.next();
            if line == "ready" {
                break;
            }
            if line.contains("/p2p/") && address.is_empty() {
                address = line;
            }
        }
        Self { repo: repo.to_owned(), address, child }
    }

    /// Runs a command against it and returns the JSON objects that it prints.
    pub fn ask(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let done = program(&self.repo).args(["--json", "--quiet"]).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }
}

/// A fresh private repo.
pub fn init(repo: &Path) {
    assert!(program(repo).arg("init").stdout(Stdio::null()).status().unwrap().success());
}

/// Reads a file once, so that the page cache holds it.
pub fn warm(path: &Path) {
    let mut file = std::fs::File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).unwrap() > 0 {}
}

/// Lets a file leave the page cache, where the system can be told to.
pub fn drop_cache(path: &Path) {
    let file = std::fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Reads a byte here and there of what the page cache has of a file, so that it counts as in use, and nothing from the
/// disk.
pub fn use_cached(path: &Path) {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::{ReadWriteFlags, preadv2};
        let file = std::fs::File::open(path).unwrap();
        for offset in (0..file.metadata().unwrap().len()).step_by(32 << 10) {
            let _ = preadv2(&file, &mut [std::io::IoSliceMut::new(&mut [0])], offset, ReadWriteFlags::NOWAIT);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = path;
}

/// The share of a file that is in the page cache, in percent.
pub fn cached_percent(path: &Path) -> f64 {
    let bytes = bitshoal::store::resident_bytes(path).unwrap();
    bytes as f64 * 100.0 / std::fs::metadata(path).unwrap().len() as f64
}

/// The middle one.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// This binary on a repo.
pub fn program(repo: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitshoal"));
    command.arg("--repo").arg(repo).args(["--log", "warn"]);
    command
}

/// Peak memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub resident: u64,
    pub anonymous: u64,
}

/// What the kernel says of a process now.
pub fn memory_of(pid: u32) -> Option<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some(Memory { resident: field("VmRSS:")?, anonymous: field("RssAnon:")? })
}

/// Looks at processes' memory until it is stopped.
pub struct Sampler {
    pids: Vec<u32>,
    peaks: Arc<Mutex<HashMap<u32, Memory>>>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Sampler {
    pub fn start(pids: &[u32]) -> Self {
        let peaks: Arc<Mutex<HashMap<u32, Memory>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, stopped, watched) = (peaks.clone(), stop.clone(), pids.to_vec());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for pid in &watched {
                    if let Some(now) = memory_of(*pid) {
                        let mut peaks = theirs.lock().unwrap();
                        let peak = peaks.entry(*pid).or_default();
                        peak.resident = peak.resident.max(now.resident);
                        peak.anonymous = peak.anonymous.max(now.anonymous);
                    }
                }
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        Self { pids: pids.to_vec(), peaks, stop, thread }
    }

    /// The peaks, in the order of the processes.
    pub fn stop(self) -> Vec<Memory> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap();
        let peaks = self.peaks.lock().unwrap();
        self.pids.iter().map(|pid| peaks.get(pid).copied().unwrap_or_default()).collect()
    }
}
