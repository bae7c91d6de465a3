//! The memory of the demo's processes and of the machine: before anything is added, at its highest, and after the pulls.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::bytes;
use crate::cli::output::Output;
use crate::platform;
pub(super) use crate::platform::Memory;
use crate::platform::SystemMemory;
use crate::transfer::api::Failure;

/// How often memory is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// What is told at one time, by the processes' names.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    processes: BTreeMap<String, Memory>,
    system: Option<SystemMemory>,
}

/// Snapshots of some processes.
#[derive(Debug)]
pub(super) struct Samples {
    pids: Vec<(String, u32)>,
    before: Snapshot,
    /// The highest of each figure; of what is available the lowest.
    peak: Mutex<Snapshot>,
}

impl Samples {
    /// Looks for the first time.
    pub(super) fn begin(pids: Vec<(String, u32)>) -> Self {
        let mut samples = Self { pids, before: Snapshot::default(), peak: Mutex::default() };
        samples.before = samples.now();
        samples
    }

    /// Looks again and again until the work is done.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let watch = async {
            loop {
                self.now();
                tokio::time::sleep(SAMPLE_INTERVAL).await;
            }
        };
        tokio::select! {
            done = work => done,
            never = watch => never,
        }
    }

    /// Looks once.
    pub(super) fn now(&self) -> Snapshot {
        let processes = self.pids.iter().filter_map(|(name, pid)| Some((name.clone(), platform::memory_of(*pid)?)));
        let now = Snapshot { processes: processes.collect(), system: platform::system_memory() };
        let mut peak = self.peak.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, memory) in &now.processes {
            let peak = peak.processes.entry(name.clone()).or_default();
            peak.resident_bytes = peak.resident_bytes.max(memory.resident_bytes);
            peak.private_bytes = peak.private_bytes.max(memory.private_bytes);
        }
        peak.system = match (peak.system, now.system) {
            (Some(peak), Some(now)) => Some(SystemMemory {
                cache_bytes: peak.cache_bytes.max(now.cache_bytes),
                available_bytes: peak.available_bytes.min(now.available_bytes),
            }),
            (peak, now) => peak.or(now),
        };
        now
    }

    /// The highest that was seen of a process.
    pub(super) fn peak(&self, name: &str) -> Option<Memory> {
        self.peak.lock().unwrap_or_else(PoisonError::into_inner).processes.get(name).copied()
    }

    /// Prints it all.
    pub(super) fn print(&self, after: &Snapshot, output: &mut Output) -> Result<(), Failure> {
        let peak = self.peak.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let times = [&self.before, &peak, after];
        let mut rows = Vec::new();
        for (name, _) in &self.pids {
            let of = |figure: fn(&Memory) -> u64| times.map(|time| time.processes.get(name).map(figure));
            rows.push((format!("{name}, in memory"), of(|memory| memory.resident_bytes)));
            rows.push((format!("{name}, its own"), of(|memory| memory.private_bytes)));
        }
        let of = |figure: fn(&SystemMemory) -> u64| times.map(|time| time.system.as_ref().map(figure));
        rows.push(("the system's cache".to_owned(), of(|system| system.cache_bytes)));
        rows.push(("available to programs".to_owned(), of(|system| system.available_bytes)));

        let mut table = format!("{:<24} {:>10} {:>10} {:>10}\n", "memory", "before", "while", "after");
        for (name, figures) in &rows {
            // What nobody has nothing of (Wine says so of some) has not been told.
            let told = figures.map(|figure| figure.filter(|bytes| *bytes > 0));
            let [before, peak, after] = told.map(|figure| figure.map_or_else(|| "?".to_owned(), bytes));
            table += &format!("{name:<24} {before:>10} {peak:>10} {after:>10}\n");
        }
        table += platform::CACHE_ADVICE;
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(name, [before, peak, after])| json!({ "what": name, "before": before, "while": peak, "after": after }))
            .collect();
        output.result(&json!({ "event": "demo-memory", "rows": rows }), &table)
    }
}
