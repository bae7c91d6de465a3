//! `bitshoal demo`: a fresh private swarm of real processes on this machine moves a generated file from a publisher to
//! readers, all at once, and the result is compared byte by byte.
//!
//! It drives the binary as a user would, through its own commands, and knows nothing of what is inside. All that it makes
//! is in one folder, which it removes at the end, on an error and on Ctrl-C alike.

mod memory;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use self::memory::{Memory, Samples};
use super::args::DemoArgs;
use super::link::interrupted;
use super::output::Output;
use crate::stop::Stop;
use crate::transfer::api::{Event, Failure, JobStatus};

/// How long a node may take to be ready.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Runs the demo and prints its table and verdict.
///
/// # Errors
/// Anything that did not go as promised; the folder is removed all the same unless it is to be kept.
pub(crate) async fn run(args: DemoArgs, output: &mut Output, stop: &mut Stop) -> Result<(), Failure> {
    let size = args.size.0;
    if size == 0 {
        return Err(Failure::new("bad-option", "--size 0: a demo moves at least one byte"));
    }
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = Folder::make(&base, args.keep)?;
    let needed = size.saturating_mul(u64::from(args.readers) + 1).saturating_add(64 << 20);
    let free = crate::store::free_bytes(&folder.path).unwrap_or(u64::MAX);
    if free < needed {
        return Err(Failure::new(
            "no-space",
            format!(
                "the demo needs {} in {} and {} are free; choose a smaller --size or another --dir",
                bytes(needed),
                base.display(),
                bytes(free)
            ),
        ));
    }
    let shown = tokio::select! {
        shown = show(&args, &folder.path, output) => shown,
        () = stop.next() => Err(interrupted("; everything that the demo made is removed")),
    };
    if args.keep {
        output.note(&format!("kept: {}", folder.path.display()));
    }
    shown
}

async fn show(args: &DemoArgs, folder: &Path, output: &mut Output) -> Result<(), Failure> {
    let (size, count) = (args.size.0, args.readers);
    output.note(&format!("making {} of noise and a private swarm of {} processes …", bytes(size), count + 1));
    let file = folder.join("original.bin");
    let path = file.clone();
    blocking(move || generate(&path, size)).await?;

    let publisher = Node::start(folder, "publisher", None).await?;
    let key = folder.join("publisher").join("swarm.key");
    let readers = try_join_all((1..=count).map(|n| {
        let key = key.clone();
        async move { Node::start(folder, &format!("reader{n}"), Some(&key)).await }
    }))
    .await?;

    let nodes = std::iter::once(&publisher).chain(&readers);
    let samples = Samples::begin(nodes.filter_map(|node| Some((node.name.clone(), node.daemon.id()?))).collect());
    let added = samples.during(publisher.ask(&["add", &text(&file)])).await?;
    let Some((cid, import_seconds)) = added.events.iter().find_map(|event| match event {
        Event::Added { cid, .. } => Some((cid.clone(), added.seconds)),
        _ => None,
    }) else {
        return Err(Failure::new("demo", "the publisher did not say what it added"));
    };
    output.note(&format!("publisher added {cid} in {import_seconds:.1} s ({:.0} MB/s)", rate(size, import_seconds)));
    for (n, reader) in readers.iter().enumerate() {
        for other in readers.iter().take(n).chain([&publisher]) {
            reader.ask(&["connect", &other.address]).await?;
        }
    }
    output.note(&format!("{} readers pull at once …", readers.len()));
    let started = Instant::now();
    let pulls = try_join_all(readers.iter().map(|reader| {
        let copy = reader.folder.join("copy.bin");
        let cid = cid.clone();
        async move {
            let answer = reader.ask(&["get", &cid, "-o", &text(&copy)]).await?;
            let last = answer.events.into_iter().rev().find_map(|event| match event {
                Event::Job(status) => Some(status),
                _ => None,
            });
            let status = last.ok_or_else(|| Failure::new("demo", "a reader did not say how its pull went"))?;
            Ok::<_, Failure>((reader, copy, status, answer.seconds))
        }
    }));
    let pulls = samples.during(pulls).await?;
    let seconds = started.elapsed().as_secs_f64();
    // Comparing brings all into the system's cache.
    let after = samples.now();

    let mut rows = Vec::new();
    for (reader, copy, status, took) in &pulls {
        let (a, b) = (file.clone(), copy.clone());
        let cached = crate::store::resident_bytes(copy).ok();
        let equal = blocking(move || equal(&a, &b)).await?;
        let memory = samples.peak(&reader.name);
        rows.push(Row::new(reader, status, &publisher, *took, equal, memory, cached));
    }
    let sent: u64 = rows.iter().map(|row| row.from_publisher).sum();
    let wrong = rows.iter().filter(|row| !row.equal).count();
    drop(pulls);
    let published = samples.peak(&publisher.name);
    let cached = crate::store::resident_bytes(&file).ok();
    let totals = Totals { size, sent, seconds, published, cached };
    totals.print(&rows, output)?;
    if args.memory {
        samples.print(&after, output)?;
    }
    for node in readers.into_iter().chain([publisher]) {
        node.stop().await;
    }
    if wrong > 0 {
        return Err(Failure::new("demo", format!("{wrong} of {count} copies differ from the original")));
    }
    Ok(())
}

/// One line of the table.
struct Row {
    name: String,
    megabytes_per_second: f64,
    seconds: f64,
    from_publisher: u64,
    from_readers: u64,
    duplicates: u64,
    memory: Option<Memory>,
    cached: Option<u64>,
    equal: bool,
}

impl Row {
    fn new(
        reader: &Node,
        status: &JobStatus,
        publisher: &Node,
        seconds: f64,
        equal: bool,
        memory: Option<Memory>,
        cached: Option<u64>,
    ) -> Self {
        let (mut from_publisher, mut from_readers) = (0, 0);
        for source in &status.sources {
            if publisher.address.ends_with(&source.peer_id) {
                from_publisher += source.bytes;
            } else {
                from_readers += source.bytes;
            }
        }
        Self {
            name: reader.name.clone(),
            megabytes_per_second: rate(status.total_bytes, seconds),
            seconds,
            from_publisher,
            from_readers,
            duplicates: status.duplicate_blocks,
            memory,
            cached,
            equal,
        }
    }
}

/// What all readers together did.
struct Totals {
    size: u64,
    sent: u64,
    seconds: f64,
    published: Option<Memory>,
    cached: Option<u64>,
}

impl Totals {
    fn print(&self, rows: &[Row], output: &mut Output) -> Result<(), Failure> {
        let equal = rows.iter().all(|row| row.equal);
        let copies = self.sent as f64 / self.size as f64;
        let readers: Vec<_> = rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "reader": row.name, "mb_per_second": row.megabytes_per_second, "seconds": row.seconds,
                    "from_publisher_bytes": row.from_publisher, "from_readers_bytes": row.from_readers,
                    "duplicate_blocks": row.duplicates, "equal": row.equal,
                    "peak_rss_bytes": row.memory.map(|m| m.resident_bytes), "peak_anonymous_bytes": row.memory.map(|m| m.private_bytes),
                    "page_cache_bytes": row.cached,
                })
            })
            .collect();
        let value = serde_json::json!({
            "event": "demo", "size": self.size, "seconds": self.seconds, "publisher_sent_bytes": self.sent,
            "publisher_copies": copies, "publisher_peak_rss_bytes": self.published.map(|m| m.resident_bytes),
            "equal": equal, "readers": readers,
        });
        let amount = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), bytes);
        let line = |name: &str, cells: [String; 8], end: &str| {
            let [rate, seconds, publisher, readers, duplicates, anonymous, resident, cached] = cells;
            format!(
                "{name:<10} {rate:>6} {seconds:>6}  {publisher:>14} {readers:>12} {duplicates:>5} {anonymous:>9} \
                 {resident:>9} {cached:>10}  {end}\n"
            )
        };
        let head = ["MB/s", "s", "from publisher", "from readers", "dups", "peak anon", "peak RSS", "page cache"];
        let mut table = line("", head.map(str::to_owned), "bytes");
        for row in rows {
            let cells = [
                format!("{:.0}", row.megabytes_per_second),
                format!("{:.1}", row.seconds),
                bytes(row.from_publisher),
                bytes(row.from_readers),
                row.duplicates.to_string(),
                amount(row.memory.map(|m| m.private_bytes)),
                amount(row.memory.map(|m| m.resident_bytes)),
                amount(row.cached),
            ];
            table += &line(&row.name, cells, if row.equal { "equal" } else { "DIFFERENT" });
        }
        let none = String::new;
        let cells = [
            none(),
            none(),
            none(),
            none(),
            none(),
            amount(self.published.map(|m| m.private_bytes)),
            amount(self.published.map(|m| m.resident_bytes)),
            amount(self.cached),
        ];
        table += &line("publisher", cells, &format!("sent {copies:.2} copies"));
        table += &format!(
            "{}: {} readers have {} each, {}, in {:.1} s ({:.0} MB/s together)",
            if equal { "OK" } else { "FAILED" },
            rows.len(),
            bytes(self.size),
            if equal { "every byte equal" } else { "NOT all equal" },
            self.seconds,
            rate(self.size * rows.len() as u64, self.seconds),
        );
        output.result(&value, &table)
    }
}

/// A daemon of the swarm.
struct Node {
    name: String,
    folder: PathBuf,
    repo: PathBuf,
    address: String,
    daemon: Child,
    _output: Lines<BufReader<ChildStdout>>,
}

/// What a command of a node answered.
struct Answer {
    events: Vec<Event>,
    seconds: f64,
}

impl Node {
    async fn start(folder: &Path, name: &str, key: Option<&Path>) -> Result<Self, Failure> {
        let repo = folder.join(name);
        let mut init = program(&repo)?;
        init.arg("init").stdout(Stdio::null());
        if let Some(key) = key {
            init.arg("--swarm-key").arg(key);
        }
        let done = init.output().await.map_err(|e| Failure::new("demo", e))?;
        if !done.status.success() {
            return Err(Failure::new("demo", String::from_utf8_lossy(&done.stderr).trim()));
        }
        let mut daemon = program(&repo)?
            .args(["daemon", "--listen", "/ip4/127.0.0.1/tcp/0"])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| Failure::new("demo", e))?;
        let stdout = daemon.stdout.take().ok_or_else(|| Failure::new("demo", "a daemon has no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        let mut address = None;
        let ready = tokio::time::timeout(START_PATIENCE, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line == "ready" {
                    return true;
                }
                if line.contains("/p2p/") && address.is_none() {
                    address = Some(line);
                }
            }
            false
        })
        .await;
        match (ready, address) {
            (Ok(true), Some(address)) => {
                Ok(Self { name: name.to_owned(), folder: repo.clone(), repo, address, daemon, _output: lines })
            }
            _ => Err(Failure::new("demo", format!("the {name} did not become ready"))),
        }
    }

    /// Runs one command against this node and gathers what it prints.
    async fn ask(&self, arguments: &[&str]) -> Result<Answer, Failure> {
        let started = Instant::now();
        let mut command = program(&self.repo)?;
        command.args(["--json", "--quiet"]).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let done = command.output().await.map_err(|e| Failure::new("demo", e))?;
        let seconds = started.elapsed().as_secs_f64();
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr);
            return Err(Failure::new("demo", format!("{}: {}: {}", self.name, arguments.join(" "), why.trim())));
        }
        let events =
            String::from_utf8_lossy(&done.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Answer { events, seconds })
    }

    async fn stop(mut self) {
        let _ = self.daemon.start_kill();
        let _ = self.daemon.wait().await;
    }
}

fn program(repo: &Path) -> Result<Command, Failure> {
    let own = std::env::current_exe().map_err(|e| Failure::new("demo", e))?;
    let mut command = Command::new(own);
    command.arg("--repo").arg(repo).args(["--log", "warn"]).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// The demo's folder, which goes when it is dropped.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn make(base: &Path, keep: bool) -> Result<Self, Failure> {
        let path = base.join(format!("bitshoal-demo-{}", std::process::id()));
        std::fs::create_dir_all(base)
            .and_then(|()| std::fs::create_dir(&path))
            .map_err(|e| Failure::new("demo", format!("{} cannot be made: {e}", path.display())))?;
        Ok(Self { path, keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(folder = %self.path.display(), %error, "the demo's folder could not be removed");
        }
    }
}

/// Fills a file with noise that no file system can shorten.
fn generate(path: &Path, size: u64) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::new("demo", format!("{}: {e}", path.display()));
    let mut file = std::fs::File::create_new(path).map_err(failed)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
    let mut buffer = vec![0_u8; 1 << 20];
    let mut left = size;
    while left > 0 {
        for word in buffer.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.write_all(buffer.get(..part).unwrap_or(&buffer)).map_err(failed)?;
        left -= part as u64;
    }
    file.sync_all().map_err(failed)
}

/// Whether two files hold the same bytes.
fn equal(a: &Path, b: &Path) -> Result<bool, Failure> {
    let failed =
        |e: std::io::Error| Failure::new("demo", format!("comparing {} and {}: {e}", a.display(), b.display()));
    let (mut a, mut b) = (std::fs::File::open(a).map_err(failed)?, std::fs::File::open(b).map_err(failed)?);
    let mut left = a.metadata().map_err(failed)?.len();
    if left != b.metadata().map_err(failed)?.len() {
        return Ok(false);
    }
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(x.len());
        let (x, y) = (x.get_mut(..part).unwrap_or_default(), y.get_mut(..part).unwrap_or_default());
        a.read_exact(x).map_err(failed)?;
        b.read_exact(y).map_err(failed)?;
        if x != y {
            return Ok(false);
        }
        left -= part as u64;
    }
    Ok(true)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Failure::new("bug", e))?
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn rate(size: u64, seconds: f64) -> f64 {
    size as f64 / 1e6 / seconds.max(1e-9)
}

/// A size for people.
fn bytes(value: u64) -> String {
    match value {
        0..0x40_0000 => format!("{} KiB", value.div_ceil(1024)),
        0x40_0000..0x1_0000_0000 => format!("{} MiB", value >> 20),
        _ => format!("{:.1} GiB", value as f64 / (1_u64 << 30) as f64),
    }
}
