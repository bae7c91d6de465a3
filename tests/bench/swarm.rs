//! How long a private fleet takes to pull one file from a publisher over slow lines, in terms of a single copy.
//!
//! `cargo bench --bench swarm -- [--readers 8] [--mbit 50] [--size 256MiB] [--case all-at-once]… [--rtt 0] [--buffer 50ms]
//! [--dir DIR]`
//!
//! Each node is a process in a network namespace of its own, with a line to one bridge that is shaped both ways (tbf) and
//! buffers `--buffer` of traffic; so it needs root, and `ip` and `tc` (Debian: iproute2). With `--rtt 100` a relay of our own
//! takes the bridge's place and holds every frame, so that there and back takes so many milliseconds more, and lines
//! buffer as much more. Readers are told of the publisher only and get to know each other. Cases:
//!
//! - *all-at-once*: all readers begin together;
//! - *publisher-killed*: the same, and the publisher is killed when 1.2 copies have left it;
//! - *two-publishers*: the same with a second node that has the file;
//! - *late*: the last reader begins when the others should be half done.
//!
//! Printed are when the median, the 99th percentile and the last reader were done in terms of a single copy at the line's
//! rate, the copies that left the publisher as blocks and as bytes on its line, blocks that came twice, what else than
//! blocks was sent (headers, acknowledgements, encryption, wants and notices) in terms of the blocks, and CPU seconds of
//! all processes per GB that was brought. Every copy is compared with the original.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a benchmark that cannot go on panics; its numbers are small"
)]

mod common;
#[cfg(target_os = "linux")]
mod relay;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Lines, equal, generate, megabytes, parse_size};
use serde_json::Value;

const CASES: [&str; 4] = ["all-at-once", "publisher-killed", "two-publishers", "late"];
/// Copies that have left a publisher that is then killed.
const KILLED_AFTER: f64 = 1.2;
/// A fleet that takes so many single copies is given up.
const PATIENCE: f64 = 12.0;

fn main() {
    let arguments = common::arguments();
    #[cfg(target_os = "linux")]
    if let Some(nodes) = arguments.value("relay") {
        let devices: Vec<String> = (0..nodes.parse().unwrap()).map(tap_of).collect();
        relay::run(&devices, Duration::from_millis(arguments.value("rtt").unwrap().parse().unwrap()) / 2);
    }
    let number = |name: &str, usual: usize| arguments.value(name).map_or(usual, |n| n.parse().unwrap());
    let (readers, mbit) = (number("readers", 8), number("mbit", 50));
    let rtt = number("rtt", 0);
    let size = parse_size(&arguments.value("size").unwrap_or_else(|| "256MiB".into()));
    let buffer = arguments.value("buffer").unwrap_or_else(|| format!("{}ms", 50 + rtt));
    let mut cases = arguments.values("case");
    if cases.is_empty() {
        cases.push(CASES[0].into());
    }
    if let Some(unknown) = cases.iter().find(|case| !CASES.contains(&case.as_str())) {
        eprintln!("there is no case {unknown}: {}", CASES.join(", "));
        std::process::exit(2);
    }
    if !is_root() || !run_quietly("ip", "-V") || !run_quietly("tc", "-V") {
        eprintln!("network namespaces need root, ip and tc: install iproute2 and run this as root");
        std::process::exit(2);
    }
    let single = size as f64 * 8.0 / (mbit as f64 * 1e6);
    println!(
        "{readers} readers, {mbit} Mbit/s each way, {rtt} ms there and back, {}, a single copy takes {single:.1} s",
        megabytes(size)
    );
    println!(
        "{:<18}{:>8}{:>8}{:>8}{:>10}{:>10}{:>8}{:>10}{:>12}",
        "", "median", "99 %", "last", "copies", "on line", "twice", "overhead", "CPU s / GB"
    );
    for case in &cases {
        let work = tempfile::tempdir_in(common::disk_folder(&arguments)).unwrap();
        let fleet = Fleet::start(work.path(), &Shape { readers, mbit, buffer: &buffer, rtt }, case == "two-publishers");
        println!("{case:<18}{}", fleet.pull(case, size, single));
    }
}

/// Whether this may make namespaces.
fn is_root() -> bool {
    #[cfg(target_os = "linux")]
    return rustix::process::geteuid().is_root();
    #[cfg(not(target_os = "linux"))]
    false
}

/// The unit of CPU times in `/proc`.
fn ticks_per_second() -> f64 {
    #[cfg(target_os = "linux")]
    return rustix::param::clock_ticks_per_second() as f64;
    #[cfg(not(target_os = "linux"))]
    1.0
}

/// Whether a program is there.
fn run_quietly(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let done = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

struct Shape<'a> {
    readers: usize,
    mbit: usize,
    buffer: &'a str,
    /// In milliseconds.
    rtt: usize,
}

/// Namespaces of one run, each with a line to a bridge; they go when it is dropped.
struct Network {
    names: Vec<String>,
    relay: Option<Child>,
}

impl Network {
    fn lay(nodes: usize, shape: &Shape<'_>) -> Self {
        let prefix = format!("bs{}", std::process::id());
        let hub = format!("{prefix}-hub");
        let mut made = Self { names: vec![hub.clone()], relay: None };
        run(&format!("ip netns add {hub}"));
        // With a relay each line has a bridge of its own, to the relay's device; else they share one.
        for bridge in 0..if shape.rtt > 0 { nodes } else { 1 } {
            run(&format!("ip -n {hub} link add name bridge{bridge} type bridge"));
            run(&format!("ip -n {hub} link set bridge{bridge} up"));
            if shape.rtt > 0 {
                let tap = tap_of(bridge);
                run(&format!("ip -n {hub} tuntap add {tap} mode tap"));
                run(&format!("ip -n {hub} link set {tap} master bridge{bridge} txqueuelen 10000 up"));
            }
        }
        let shaped = format!("root tbf rate {}mbit burst 64kb latency {}", shape.mbit, shape.buffer);
        for node in 0..nodes {
            let name = format!("{prefix}-{node}");
            let bridge = if shape.rtt > 0 { node } else { 0 };
            made.names.push(name.clone());
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
            run(&format!("ip link add line netns {name} type veth peer name to{node} netns {hub}"));
            run(&format!("ip -n {hub} link set to{node} master bridge{bridge} up"));
            run(&format!("ip -n {name} addr add {}/16 dev line", address_of(node)));
            run(&format!("ip -n {name} link set line up"));
            run(&format!("tc -n {name} qdisc add dev line {shaped}"));
            run(&format!("tc -n {hub} qdisc add dev to{node} {shaped}"));
        }
        if shape.rtt > 0 {
            let mut relay = Command::new("ip");
            relay.args(["netns", "exec", &hub]).arg(std::env::current_exe().unwrap());
            relay.args(["--relay", &nodes.to_string(), "--rtt", &shape.rtt.to_string()]);
            made.relay = Some(relay.spawn().unwrap());
        }
        made
    }

    fn of(&self, node: usize) -> &str {
        &self.names[node + 1]
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(relay) = &mut self.relay {
            let _ = relay.kill();
            let _ = relay.wait();
        }
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn address_of(node: usize) -> String {
    format!("10.77.{}.{}", node / 200, node % 200 + 1)
}

/// The relay's device for a node.
fn tap_of(node: usize) -> String {
    format!("tap{node}")
}

struct Node {
    repo: PathBuf,
    namespace: String,
    address: String,
    daemon: Option<Lines>,
}

impl Node {
    fn command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, env!("CARGO_BIN_EXE_bitshoal"), "--log", "warn", "--repo"]);
        command.arg(&self.repo);
        command
    }

    fn ask(&self, arguments: &[&str]) -> Vec<Value> {
        let done = self.command().args(["--json", "--quiet"]).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Bytes that have left on its line.
    fn sent(&self) -> u64 {
        let counter = "/sys/class/net/line/statistics/tx_bytes";
        let done = Command::new("ip").args(["netns", "exec", &self.namespace, "cat", counter]).output().unwrap();
        String::from_utf8_lossy(&done.stdout).trim().parse().unwrap()
    }

    /// CPU seconds of its daemon.
    fn cpu(&self) -> f64 {
        let pid = self.daemon.as_ref().map_or(0, Lines::pid);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ticks: Option<u64> = stat.rsplit(')').next().map(|rest| {
            let fields: Vec<&str> = rest.split_whitespace().collect();
            // proc(5): utime and stime are the 14th and 15th field, the 12th and 13th after the name.
            fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
        });
        ticks.unwrap_or_default() as f64 / ticks_per_second()
    }
}

struct Fleet {
    work: PathBuf,
    nodes: Vec<Node>,
    publishers: usize,
    _lines: Network,
}

impl Fleet {
    /// Starts all nodes and waits until each is connected with all others.
    fn start(work: &Path, shape: &Shape<'_>, two: bool) -> Self {
        let publishers = 1 + usize::from(two);
        let all = shape.readers + publishers;
        let lines = Network::lay(all, shape);
        let mut nodes: Vec<Node> = Vec::new();
        for number in 0..all {
            let mut node = Node {
                repo: work.join(format!("node{number}")),
                namespace: lines.of(number).to_owned(),
                address: String::new(),
                daemon: None,
            };
            let mut init = node.command();
            init.args(["--quiet", "init"]);
            if let Some(first) = nodes.first() {
                init.arg("--swarm-key").arg(first.repo.join("swarm.key"));
            }
            assert!(init.stdout(Stdio::null()).status().unwrap().success());
            let mut daemon = node.command();
            daemon.args(["daemon", "--listen", &format!("/ip4/{}/tcp/4001", address_of(number))]);
            if let Some(first) = nodes.first() {
                daemon.args(["--peer", &first.address]);
            }
            let mut daemon = Lines::spawn(&mut daemon);
            loop {
                let line = daemon.next();
                if line == "ready" {
                    break;
                }
                if line.contains("/p2p/") && node.address.is_empty() {
                    node.address = line.split_whitespace().last().unwrap().to_owned();
                }
            }
            node.daemon = Some(daemon);
            nodes.push(node);
        }
        let deadline = Instant::now() + Duration::from_secs(120);
        while nodes.iter().any(|node| node.ask(&["peers"]).len() + 1 < all) {
            assert!(Instant::now() < deadline, "the members have not met after two minutes");
        }
        Self { work: work.to_owned(), nodes, publishers, _lines: lines }
    }

    /// The row of one case.
    fn pull(mut self, case: &str, size: u64, single: f64) -> String {
        let file = self.work.join("file");
        generate(&file, size);
        let mut cid = String::new();
        for publisher in &self.nodes[..self.publishers] {
            cid = publisher.ask(&["add", file.to_str().unwrap()])[0]["cid"].as_str().unwrap().to_owned();
        }
        let before: Vec<(u64, f64)> = self.nodes.iter().map(|node| (node.sent(), node.cpu())).collect();
        let began = Instant::now();
        let copy = |number: usize| self.work.join(format!("copy{number}"));
        let mut running: Vec<(usize, Instant, Child)> = Vec::new();
        let mut waiting: Vec<usize> = (self.publishers..self.nodes.len()).rev().collect();
        let late = (case == "late").then(|| waiting.remove(0));
        let mut ends: Vec<(usize, f64)> = Vec::new();
        let begin = |nodes: &[Node], number: usize| {
            let mut get = nodes[number].command();
            get.args(["--json", "--quiet", "get", &cid, "-o"]).arg(copy(number));
            (number, Instant::now(), get.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        };
        while let Some(number) = waiting.pop() {
            running.push(begin(&self.nodes, number));
        }
        let mut late = late;
        let (mut killed, mut gone) = (false, (0, 0.0));
        let readers = self.nodes.len() - self.publishers;
        while ends.len() < readers {
            let elapsed = began.elapsed().as_secs_f64();
            assert!(elapsed < single * PATIENCE, "{case}: {} of {readers} are done after {elapsed:.0} s", ends.len());
            if elapsed > single / 2.0
                && let Some(number) = late.take()
            {
                running.push(begin(&self.nodes, number));
            }
            if case == "publisher-killed" && !killed {
                let left = self.nodes[0].sent() - before[0].0;
                if left as f64 >= KILLED_AFTER * size as f64 {
                    gone = (self.nodes[0].sent(), self.nodes[0].cpu());
                    self.nodes[0].daemon = None;
                    killed = true;
                }
            }
            running.retain_mut(|(number, since, get)| match get.try_wait().unwrap() {
                None => true,
                Some(status) => {
                    assert!(status.success(), "reader {number}: {status}");
                    ends.push((*number, since.elapsed().as_secs_f64() / single));
                    false
                }
            });
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let (mut on_line, mut cpu) = (0, 0.0);
        for (number, node) in self.nodes.iter().enumerate() {
            let (sent, used) = if number == 0 && killed { gone } else { (node.sent(), node.cpu()) };
            on_line += sent - before[number].0;
            cpu += used - before[number].1;
        }
        let publisher_line = if killed { gone.0 } else { self.nodes[0].sent() } - before[0].0;
        let publisher = self.nodes[0].address.rsplit('/').next().unwrap().to_owned();
        let (mut blocks, mut twice, mut bytes, mut from_publisher) = (0, 0, 0, 0);
        for (number, _) in &ends {
            assert!(equal(&file, &copy(*number)), "reader {number} has something else");
            let job = self.nodes[*number].ask(&["jobs"]).pop().unwrap();
            twice += job["duplicate_blocks"].as_u64().unwrap();
            for source in job["sources"].as_array().unwrap() {
                blocks += source["blocks"].as_u64().unwrap();
                bytes += source["bytes"].as_u64().unwrap();
                if source["peer_id"].as_str() == Some(&publisher) {
                    from_publisher += source["bytes"].as_u64().unwrap();
                }
            }
        }
        let mut times: Vec<f64> = ends.iter().map(|(_, time)| *time).collect();
        times.sort_by(f64::total_cmp);
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        format!(
            "{:>8.2}{:>8.2}{:>8.2}{:>10.2}{:>10.2}{:>6.2} %{:>8.1} %{:>12.1}",
            at(50),
            at(99),
            times.last().unwrap(),
            from_publisher as f64 / size as f64,
            publisher_line as f64 / size as f64,
            twice as f64 * 100.0 / blocks as f64,
            (on_line as f64 / bytes as f64 - 1.0) * 100.0,
            cpu * 1e9 / bytes as f64,
        )
    }
}
