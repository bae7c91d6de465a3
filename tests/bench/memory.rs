//! What two daemons leave in memory when one pulls a large file from the other: nothing forces them, a control group does,
//! or the machine is small.
//!
//! `cargo bench --bench memory -- [--size 2GiB] [--rounds 3] [--dir DIR] [--out DIR] [--canary 1GiB] [--machine 1856MiB]
//! [--cgroups /sys/fs/cgroup]`
//!
//! In turns, by TCP and TLS on loopback, publisher and reader each in a memory group of its own:
//!
//! - *default*: no limit, default settings;
//! - *unbounded*: no limit, a budget that is never used up: how fast it would be;
//! - *64 MiB*: that limit on each group, default settings (the daemon lowers its budget by itself);
//! - *machine*: default settings, both groups and the canary in one group whose limit (`--machine`) leaves room for the
//!   canary and both budgets, and for little else.
//!
//! Every 100 ms it is looked at anonymous memory, the page cache of the file (source, part or copy) and that of the
//! index. The source is out of the page cache before each run; the canary, a file that somebody else uses all the while
//! (systems may page out by themselves what nobody does), is all in memory before and looked at after. Printed are medians
//! of the rates, the worst of everything else, and whether the figures hold; the chart shows each case's run with the
//! highest peak. `--dir` must be on a disk: on tmpfs the file is the page cache.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a benchmark that cannot go on panics; its numbers are small"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::cgroup::Group;
use common::chart::{Line, Panel};
use common::samples::{Sample, Samples, Subject, peak};
use common::{Daemon, megabytes, parse_size};

/// What the program itself may take beyond its budget.
const OWN_BYTES: u64 = 32 << 20;
/// What a machine has beyond the canary and two bounds.
const MACHINE_SPARE_BYTES: u64 = 256 << 20;
/// How often somebody uses the canary.
const USE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Case {
    name: &'static str,
    /// Of node.toml.
    lines: &'static str,
    /// Of each daemon's group.
    limit: Option<u64>,
    /// Whether all of it is in one group of the machine's size.
    machine: bool,
}

const DEFAULT: usize = 0;
const UNBOUNDED: usize = 1;
const LIMITED: usize = 2;
const MACHINE: usize = 3;
const CASES: [Case; 4] = [
    Case { name: "default", lines: "", limit: None, machine: false },
    Case { name: "unbounded", lines: "cache_bytes = \"64GiB\"", limit: None, machine: false },
    Case { name: "64 MiB", lines: "", limit: Some(64 << 20), machine: false },
    Case { name: "machine", lines: "", limit: None, machine: true },
];

/// What all runs have in common.
#[derive(Debug)]
struct Bench {
    work: PathBuf,
    source: PathBuf,
    cgroups: PathBuf,
    canary: Canary,
    /// `None` where there are no groups.
    machine: Option<Machine>,
}

/// A group that is as large as a small machine, with what else lives there. The inner group goes first.
#[derive(Debug)]
struct Machine {
    canary: Canary,
    group: Group,
}

/// A file that somebody uses, who does not miss what is gone of it.
#[derive(Debug)]
struct Canary {
    path: PathBuf,
    /// Whose memory it is.
    group: Option<Group>,
    stop: Arc<AtomicBool>,
    user: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Run {
    rate: f64,
    /// The budget that the daemons gave themselves.
    cache_bytes: u64,
    publisher: Side,
    reader: Side,
    /// Seconds after which the file was added, and then pulled.
    added_at: f64,
    /// What is left of it in memory.
    canary_percent: f64,
}

#[derive(Debug)]
struct Side {
    samples: Vec<Sample>,
    group_peak: Option<u64>,
    limited: Option<u64>,
    killed: Option<u64>,
}

fn main() {
    let arguments = common::arguments();
    let size = parse_size(&arguments.value("size").unwrap_or_else(|| "2GiB".into()));
    let canary_size = parse_size(&arguments.value("canary").unwrap_or_else(|| "1GiB".into()));
    let rounds: usize = arguments.value("rounds").map_or(3, |n| n.parse().unwrap());
    let machine = arguments.value("machine").map(|bytes| parse_size(&bytes));
    let folder = common::disk_folder(&arguments);
    let work = tempfile::tempdir_in(&folder).unwrap();
    let cgroups: PathBuf = arguments.value("cgroups").unwrap_or_else(|| "/sys/fs/cgroup".into()).into();
    let machine_bytes = machine.unwrap_or(canary_size + 2 * ((256 << 20) + OWN_BYTES) + MACHINE_SPARE_BYTES);
    let machine = Group::create(&cgroups, "machine").map(|group| {
        group.limit(machine_bytes);
        let inner = group.within("canary").unwrap();
        Machine { canary: Canary::keep(work.path().join("canary-machine.bin"), canary_size, Some(inner)), group }
    });
    let machine = machine.inspect_err(|reason| println!("no control groups, so only what needs none: {reason}")).ok();
    let cases: Vec<usize> = match machine {
        Some(_) => (0..CASES.len()).collect(),
        None => vec![DEFAULT, UNBOUNDED],
    };
    let bench = Bench {
        work: work.path().to_owned(),
        source: work.path().join("original.bin"),
        cgroups,
        canary: Canary::keep(work.path().join("canary.bin"), canary_size, None),
        machine,
    };
    common::generate(&bench.source, size);
    println!("{} in {}, {rounds} rounds, a machine of {}", megabytes(size), folder.display(), megabytes(machine_bytes));
    let limit = CASES[LIMITED].limit.unwrap();
    if size < 32 * limit {
        println!("the figures are for a file of at least {}, 32 times the limit", megabytes(32 * limit));
    }
    let mut runs: Vec<Vec<Run>> = CASES.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for case in &cases {
            runs[*case].push(bench.run(&CASES[*case]));
        }
    }
    print_table(&runs);
    print_verdict(&runs);
    let chart = common::out_folder(&arguments).join("memory.svg");
    let panels: Vec<Panel> = cases.iter().map(|case| panel(&CASES[*case], &runs[*case])).collect();
    common::chart::draw(&chart, &panels);
    println!("{}", chart.display());
}

impl Bench {
    fn run(&self, case: &Case) -> Run {
        common::drop_cache(&self.source);
        let canary = self.machine.as_ref().filter(|_| case.machine).map_or(&self.canary, |machine| &machine.canary);
        canary.heat();
        let (publisher_group, reader_group) = (self.group(case, "publisher"), self.group(case, "reader"));
        let work = tempfile::tempdir_in(&self.work).unwrap();
        let (home, away) = (work.path().join("publisher"), work.path().join("reader"));
        let publisher = Daemon::start_with(&home, "tls", None, case.lines, publisher_group.as_deref());
        let reader = Daemon::start_with(&away, "tls", None, case.lines, reader_group.as_deref());
        let copy = work.path().join("copy.bin");
        let index = |repo: &Path| repo.join("index").join("data.mdb");
        let samples = Samples::start(vec![
            Subject {
                pid: publisher.pid(),
                files: vec![self.source.clone(), index(&home)],
                group: publisher_group.clone(),
            },
            Subject {
                pid: reader.pid(),
                files: vec![bitshoal::store::part_path(&copy), copy.clone(), index(&away)],
                group: reader_group.clone(),
            },
        ]);
        let started = Instant::now();
        let added = publisher.ask(&["add", self.source.to_str().unwrap()]);
        let cid = added.last().unwrap()["cid"].as_str().unwrap().to_owned();
        reader.ask(&["connect", &publisher.address]);
        let added_at = started.elapsed();
        reader.ask(&["get", &cid, "-o", copy.to_str().unwrap()]);
        let seconds = (started.elapsed() - added_at).as_secs_f64();
        let mut sides = samples.stop().into_iter();
        let mut side = |group: Option<&Arc<Group>>| Side {
            samples: sides.next().unwrap(),
            group_peak: group.and_then(|group| group.peak()),
            limited: group.and_then(|group| group.limited()),
            killed: group.and_then(|group| group.killed()),
        };
        let memory = reader.ask(&["stat", "--memory"]);
        let run = Run {
            rate: std::fs::metadata(&self.source).unwrap().len() as f64 / 1e6 / seconds,
            cache_bytes: memory.last().unwrap()["cache_bytes"].as_u64().unwrap(),
            publisher: side(publisher_group.as_ref()),
            reader: side(reader_group.as_ref()),
            added_at: added_at.as_secs_f64(),
            canary_percent: canary.percent(),
        };
        for (name, daemon) in [("publisher", &publisher), ("reader", &reader)] {
            assert!(common::memory_of(daemon.pid()).is_some(), "{}: the {name} is gone", case.name);
        }
        assert!(common::equal(&self.source, &copy), "{}: the copy differs", case.name);
        run
    }

    /// A daemon's.
    fn group(&self, case: &Case, name: &str) -> Option<Arc<Group>> {
        let machine = &self.machine.as_ref()?.group;
        let group = if case.machine { machine.within(name) } else { Group::create(&self.cgroups, name) }.unwrap();
        if let Some(limit) = case.limit {
            group.limit(limit);
        }
        Some(Arc::new(group))
    }
}

impl Canary {
    /// Makes the file, and somebody who uses it as long as this value lives.
    fn keep(path: PathBuf, size: u64, group: Option<Group>) -> Self {
        common::generate(&path, size);
        common::drop_cache(&path);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, file) = (Arc::clone(&stop), path.clone());
        let user = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                common::use_cached(&file);
                std::thread::park_timeout(USE_INTERVAL);
            }
        });
        let canary = Self { path, group, stop, user: Some(user) };
        canary.heat();
        canary
    }

    /// Reads it twice, so that its pages count as used again. Those that come in are the group's.
    fn heat(&self) {
        for _ in 0..2 {
            match &self.group {
                None => common::warm(&self.path),
                Some(group) => {
                    let mut command = group.enter(Command::new("cat").arg(&self.path));
                    assert!(command.stdout(Stdio::null()).status().unwrap().success());
                }
            }
        }
        assert!(self.percent() > 99.0, "only {:.0} % of the canary are in memory to begin with", self.percent());
    }

    /// What is in memory of it.
    fn percent(&self) -> f64 {
        common::cached_percent(&self.path)
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(user) = self.user.take() {
            user.thread().unpark();
            let _ = user.join();
        }
    }
}

impl Run {
    fn bound(&self) -> u64 {
        self.cache_bytes + OWN_BYTES
    }

    /// Peaks of the publisher while it added, and while it served.
    fn publisher_peaks(&self) -> (u64, u64) {
        let samples = &self.publisher.samples;
        let (add, serve) = samples.split_at(samples.partition_point(|sample| sample.at < self.added_at));
        (peak(add, Sample::bytes), peak(serve, Sample::bytes))
    }

    fn peak(&self) -> u64 {
        peak(&self.publisher.samples, Sample::bytes).max(peak(&self.reader.samples, Sample::bytes))
    }

    fn group_peak(&self) -> Option<u64> {
        self.publisher.group_peak.max(self.reader.group_peak)
    }
}

/// The ratio of each case to the unbounded one of the same round, the middle one of all rounds.
fn ratio(runs: &[Vec<Run>], case: usize) -> f64 {
    common::median(runs[case].iter().zip(&runs[UNBOUNDED]).map(|(run, unbounded)| run.rate / unbounded.rate))
}

fn print_table(runs: &[Vec<Run>]) {
    println!(
        "MiB: most of anonymous memory + page cache of file and index in any sample, and what the group counted at most"
    );
    println!(
        "{:<10} {:>6} {:>6}  {:>6}  {:>6} {:>6} {:>6}  {:>10} {:>10}  {:>8} {:>6}  {:>8}",
        "case",
        "MB/s",
        "ratio",
        "bound",
        "add",
        "serve",
        "pull",
        "group pub.",
        "group rdr.",
        "limited",
        "killed",
        "canary %"
    );
    for (at, (case, of_case)) in CASES.iter().zip(runs).enumerate() {
        let Some(first) = of_case.first() else { continue };
        let most = |of: &dyn Fn(&Run) -> u64| of_case.iter().map(of).max().unwrap_or(0) >> 20;
        let told = |of: &dyn Fn(&Run) -> Option<u64>| of_case.iter().map(of).max().flatten();
        let number = |value: Option<u64>| value.map_or_else(|| "-".into(), |value| value.to_string());
        let sum = |of: fn(&Side) -> Option<u64>| told(&|run| Some(of(&run.publisher)? + of(&run.reader)?));
        println!(
            "{:<10} {:>6.0} {:>6.2}  {:>6}  {:>6} {:>6} {:>6}  {:>10} {:>10}  {:>8} {:>6}  {:>8.1}",
            case.name,
            common::median(of_case.iter().map(|run| run.rate)),
            ratio(runs, at),
            if at == UNBOUNDED { "-".into() } else { (first.bound() >> 20).to_string() },
            most(&|run| run.publisher_peaks().0),
            most(&|run| run.publisher_peaks().1),
            most(&|run| peak(&run.reader.samples, Sample::bytes)),
            number(told(&|run| run.publisher.group_peak).map(|bytes| bytes >> 20)),
            number(told(&|run| run.reader.group_peak).map(|bytes| bytes >> 20)),
            number(sum(|side| side.limited)),
            number(sum(|side| side.killed)),
            canary(of_case),
        );
    }
}

/// The least that was left of it.
fn canary(runs: &[Run]) -> f64 {
    runs.iter().map(|run| run.canary_percent).fold(100.0, f64::min)
}

/// Says of each figure whether it holds; a case that did not run has nothing to say.
fn print_verdict(runs: &[Vec<Run>]) {
    let say = |holds: bool, figure: String| println!("{:<12} {figure}", if holds { "holds" } else { "falls short" });
    let keeps = |case: usize, what: &str, bytes: Option<u64>| {
        if let (Some(run), Some(bytes)) = (runs[case].first(), bytes) {
            let (most, bound) = (megabytes(bytes), megabytes(run.bound()));
            say(bytes <= run.bound(), format!("{}: {what} {most}, at most {bound}", CASES[case].name));
        }
    };
    for case in [DEFAULT, LIMITED, MACHINE] {
        keeps(case, "the most of any sample is", runs[case].iter().map(Run::peak).max());
    }
    for case in [DEFAULT, MACHINE] {
        keeps(case, "the groups' peak is", runs[case].iter().map(Run::group_peak).max().flatten());
    }
    for (case, least) in [(DEFAULT, 0.95), (LIMITED, 0.9)] {
        if !runs[case].is_empty() {
            let ratio = ratio(runs, case);
            say(ratio >= least, format!("{}: {ratio:.2} of the unbounded speed, at least {least}", CASES[case].name));
        }
    }
    for case in [DEFAULT, LIMITED, MACHINE] {
        if !runs[case].is_empty() {
            let percent = canary(&runs[case]);
            say(percent >= 95.0, format!("{}: {percent:.1} % of the canary stay, at least 95", CASES[case].name));
        }
    }
    let killed: u64 = runs.iter().flatten().filter_map(|run| Some(run.publisher.killed? + run.reader.killed?)).sum();
    say(killed == 0, format!("{killed} processes were killed"));
}

fn panel(case: &Case, runs: &[Run]) -> Panel {
    let worst = runs.iter().max_by_key(|run| run.peak()).unwrap();
    let sides = [("publisher", &worst.publisher), ("reader", &worst.reader)];
    let ours = sides.map(|(name, side)| Line::of(format!("{name}: anon + cache"), &side.samples, Sample::bytes));
    let grouped = sides.into_iter().filter(|(_, side)| side.group_peak.is_some());
    let group = |(name, side): (&str, &Side)| {
        Line::of(format!("{name}: its group"), &side.samples, |sample| sample.group.unwrap_or(0))
    };
    let lines = ours.into_iter().chain(grouped.map(group)).collect();
    let bound = (!case.lines.contains("cache_bytes")).then(|| worst.bound());
    Panel { title: format!("{}: {:.0} MB/s", case.name, worst.rate), lines, bound, doubling: false }
}
