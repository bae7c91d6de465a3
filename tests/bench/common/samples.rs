//! What processes and their files take of the memory, looked at every 100 ms from outside.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::cgroup::Group;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_millis(100);

/// A process, and the files whose page cache is its doing.
#[derive(Debug)]
pub struct Subject {
    pub pid: u32,
    /// Those that do not exist (yet, or any more) count nothing.
    pub files: Vec<PathBuf>,
    pub group: Option<Arc<Group>>,
}

/// One look at a subject, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Seconds since the beginning.
    pub at: f64,
    pub anonymous: u64,
    /// Page cache of its files; pages that are mapped are part of it, and not counted twice.
    pub cached: u64,
    pub group: Option<u64>,
}

impl Sample {
    /// What the budget is for.
    pub fn bytes(&self) -> u64 {
        self.anonymous + self.cached
    }
}

/// A thread that looks until it is stopped.
#[derive(Debug)]
pub struct Samples {
    taken: Arc<Mutex<Vec<Vec<Sample>>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Samples {
    pub fn start(subjects: Vec<Subject>) -> Self {
        let taken = Arc::new(Mutex::new(vec![Vec::new(); subjects.len()]));
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, stopped) = (Arc::clone(&taken), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let started = Instant::now();
            let mut due = started;
            while !stopped.load(Ordering::Relaxed) {
                let looks: Vec<_> = subjects.iter().map(|subject| subject.look(started)).collect();
                let mut taken = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                for (list, look) in taken.iter_mut().zip(looks) {
                    list.extend(look);
                }
                drop(taken);
                due = (due + INTERVAL).max(Instant::now());
                std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
            }
        });
        Self { taken, stop, thread }
    }

    /// All samples, in the order of the subjects.
    pub fn stop(self) -> Vec<Vec<Sample>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap();
        std::mem::take(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Subject {
    fn look(&self, started: Instant) -> Option<Sample> {
        let memory = super::memory_of(self.pid)?;
        Some(Sample {
            at: started.elapsed().as_secs_f64(),
            anonymous: memory.anonymous,
            cached: self.files.iter().filter_map(|file| bitshoal::store::resident_bytes(file).ok()).sum(),
            group: self.group.as_ref().and_then(|group| group.usage()),
        })
    }
}

/// The most of something over all samples.
pub fn peak(samples: &[Sample], what: impl Fn(&Sample) -> u64) -> u64 {
    samples.iter().map(what).max().unwrap_or(0)
}
