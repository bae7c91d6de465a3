//! What is shown while a command works: which text, and when. Pure: the time comes in, the text goes out.
//!
//! In a terminal one line is redrawn; in a pipe or a log a whole line comes every few seconds, and at once when a pull
//! starts or ends waiting for something, because that explains the silence that follows.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::text;
use crate::transfer::api::{JobState, JobStatus};

/// Between two drawings in a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Between two lines in a pipe.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Over how long the rate of an import is taken, and between two of its samples.
const RATE_OVER: Duration = Duration::from_secs(5);
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// The longest line that is redrawn, in characters: a line that wraps cannot be.
const COLUMNS: usize = 79;
/// Back to the line's start and clear it.
const CLEAR: &str = "\r\x1b[K";

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Not at all.
    Off,
    /// One line, redrawn.
    Terminal,
    /// A line now and then.
    Pipe,
}

/// The progress of one command.
#[derive(Debug)]
pub(crate) struct Progress {
    style: Style,
    drawn: bool,
    shown_at: Option<Instant>,
    dirty: bool,
    latest: String,
    explained: String,
    file: String,
    samples: VecDeque<(Instant, u64)>,
}

impl Progress {
    /// Nothing shown yet.
    #[must_use]
    pub(crate) const fn new(style: Style) -> Self {
        Self {
            style,
            drawn: false,
            shown_at: None,
            dirty: false,
            latest: String::new(),
            explained: String::new(),
            file: String::new(),
            samples: VecDeque::new(),
        }
    }

    /// An import or a verification has come so far; gives what to write, if it is time.
    pub(crate) fn bytes(
        &mut self,
        now: Instant,
        name: &str,
        done: u64,
        total: u64,
        files: Option<u64>,
    ) -> Option<String> {
        if self.file != name {
            name.clone_into(&mut self.file);
            self.samples.clear();
        }
        let rate = self.sample(now, done);
        let mut line = match files {
            Some(files) => format!("{}  {}", text::count(files, "file"), text::bytes(done)),
            None => format!("{} of {}  {}", text::bytes(done), text::bytes(total), text::percent(done, total)),
        };
        if rate > 0.0 && files.is_some() {
            line += &format!("  {}", text::rate(rate));
        } else if rate > 0.0 {
            line += &format!("  {}  ETA {}", text::rate(rate), text::time(seconds_left(total - done.min(total), rate)));
        }
        line += &format!("  {}", text::printable(name));
        self.set(now, line)
    }

    /// A pull stands so; gives what to write, if it is time.
    pub(crate) fn job(&mut self, now: Instant, job: &JobStatus) -> Option<String> {
        let explained = explanation(job);
        if job.state.is_final() {
            return None;
        }
        let news = explained != self.explained && !explained.is_empty();
        self.explained.clone_from(&explained);
        match self.style {
            Style::Off => None,
            // A reason has a line of its own, whole, above the one that is redrawn.
            Style::Terminal if news => {
                self.latest = figures(job);
                let drawn = self.show(now).unwrap_or_default();
                Some(format!("{CLEAR}{}\n{drawn}", explained.trim_start()))
            }
            Style::Terminal => self.set(now, figures(job)),
            Style::Pipe => {
                let due = self.set(now, format!("{}{explained}", figures(job)));
                if news && due.is_none() { self.show(now) } else { due }
            }
        }
    }

    /// Time has passed; gives what to write, if it is time.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<String> {
        let every = match self.style {
            Style::Off => return None,
            Style::Terminal => DRAW_EVERY,
            Style::Pipe => LINE_EVERY,
        };
        if self.latest.is_empty() || (self.style == Style::Terminal && !self.dirty) {
            return None;
        }
        // The first line of a pipe waits too: what is done within seconds needs none.
        let Some(shown) = self.shown_at else {
            self.shown_at = Some(now);
            return if self.style == Style::Terminal { self.show(now) } else { None };
        };
        if now.saturating_duration_since(shown) >= every { self.show(now) } else { None }
    }

    /// What to write before something else appears on the screen.
    pub(crate) fn clear(&mut self) -> &'static str {
        self.dirty = true;
        if std::mem::take(&mut self.drawn) { CLEAR } else { "" }
    }

    fn set(&mut self, now: Instant, line: String) -> Option<String> {
        self.dirty |= line != self.latest;
        self.latest = line;
        self.tick(now)
    }

    fn show(&mut self, now: Instant) -> Option<String> {
        self.shown_at = Some(now);
        self.dirty = false;
        match self.style {
            Style::Off => None,
            Style::Pipe => Some(format!("{}\n", self.latest)),
            Style::Terminal => {
                self.drawn = true;
                Some(format!("{CLEAR}{}", shortened(&self.latest)))
            }
        }
    }

    /// Bytes a second over the last samples, 0 while there is no telling.
    fn sample(&mut self, now: Instant, done: u64) -> f64 {
        let fresh = self.samples.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= SAMPLE_EVERY);
        if fresh {
            self.samples.push_back((now, done));
        }
        while self.samples.len() > 2
            && self.samples.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > RATE_OVER)
        {
            self.samples.pop_front();
        }
        let Some((since, before)) = self.samples.front() else { return 0.0 };
        let seconds = now.saturating_duration_since(*since).as_secs_f64();
        if seconds > 0.0 { done.saturating_sub(*before) as f64 / seconds } else { 0.0 }
    }
}

/// Bytes, part, rate, time left, peers.
fn figures(job: &JobStatus) -> String {
    let peers = text::count(job.peers as u64, "peer");
    let mut so_far = format!(
        "{} of {}  {}",
        text::bytes(job.done_bytes),
        text::bytes(job.total_bytes),
        text::percent(job.done_bytes, job.total_bytes)
    );
    if job.total_files > 0 {
        so_far += &format!("  {}/{} files", job.done_files, job.total_files);
    }
    match job.state {
        JobState::Resolving => format!("looking for {}  {peers}", job.cid),
        JobState::Planning => format!("planning {}  {peers}", text::bytes(job.total_bytes)),
        JobState::Paused if job.total_bytes == 0 => "paused".to_owned(),
        JobState::Paused => format!("{so_far}  paused"),
        JobState::Fetching | JobState::Done | JobState::Failed | JobState::Cancelled => {
            let eta = job.eta_seconds.map_or_else(|| "-".to_owned(), text::time);
            format!("{so_far}  {}  ETA {eta}  {peers}", text::rate(job.rate))
        }
    }
}

fn explanation(job: &JobStatus) -> String {
    job.message.as_ref().map(|message| format!("  {}", text::printable(message))).unwrap_or_default()
}

/// Cut to what fits a line.
fn shortened(line: &str) -> String {
    if line.chars().count() <= COLUMNS {
        return line.to_owned();
    }
    line.chars().take(COLUMNS - 1).chain(['…']).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a float that is too large becomes the largest number, which is right"
)]
fn seconds_left(bytes: u64, rate: f64) -> u64 {
    (bytes as f64 / rate).ceil() as u64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::transfer::api::WirePath;

    /// A pull of 1 GiB, a quarter done.
    pub(in crate::cli) fn a_job() -> JobStatus {
        JobStatus {
            id: 3,
            cid: "bafk".into(),
            output: WirePath("/data/f".into()),
            state: JobState::Fetching,
            message: None,
            code: None,
            done_bytes: 256 << 20,
            done_files: 0,
            total_files: 0,
            total_bytes: 1 << 30,
            rate: 100e6,
            eta_seconds: Some(8),
            elapsed_seconds: 2.5,
            peers: 2,
            sources: Vec::new(),
            local_bytes: 0,
            duplicate_blocks: 0,
        }
    }

    #[test]
    fn a_terminal_is_redrawn_ten_times_a_second_at_most() {
        let mut progress = Progress::new(Style::Terminal);
        let start = Instant::now();
        let first = progress.job(start, &a_job()).unwrap();
        assert_eq!(first, "\r\x1b[K256.0 MiB of 1.0 GiB  25.0 %  100.0 MB/s  ETA 8 s  2 peers");
        assert_eq!(progress.job(start, &JobStatus { peers: 3, ..a_job() }), None);
        assert!(progress.tick(start + DRAW_EVERY).unwrap().contains("3 peers"));
        assert_eq!(progress.tick(start + DRAW_EVERY * 5), None, "nothing new");
        assert_eq!(progress.clear(), CLEAR);
        assert_eq!(progress.clear(), "");
        assert!(progress.tick(start + DRAW_EVERY * 9).is_some(), "comes back after what cleared it");
    }

    #[test]
    fn a_long_line_is_cut_before_it_wraps() {
        let mut progress = Progress::new(Style::Terminal);
        let drawn = progress.bytes(Instant::now(), &"x".repeat(300), 1, 2, None).unwrap();
        assert_eq!(drawn.trim_start_matches(CLEAR).chars().count(), COLUMNS);
    }

    #[test]
    fn a_pipe_gets_a_line_every_five_seconds_and_the_reason_of_a_wait_at_once() {
        let mut progress = Progress::new(Style::Pipe);
        let start = Instant::now();
        assert_eq!(progress.job(start, &a_job()), None);
        assert_eq!(progress.tick(start + LINE_EVERY / 2), None);
        let line = progress.tick(start + LINE_EVERY).unwrap();
        assert_eq!(line, "256.0 MiB of 1.0 GiB  25.0 %  100.0 MB/s  ETA 8 s  2 peers\n");
        let waiting = JobStatus { message: Some("no peer has it".into()), ..a_job() };
        assert!(progress.job(start + LINE_EVERY, &waiting).unwrap().ends_with("  no peer has it\n"));
        assert_eq!(progress.job(start + LINE_EVERY, &waiting), None);
        assert!(progress.tick(start + LINE_EVERY * 2).is_some());
        assert_eq!(progress.clear(), "");
    }

    #[test]
    fn in_a_terminal_the_reason_of_a_wait_stays_above_the_line() {
        let mut progress = Progress::new(Style::Terminal);
        let start = Instant::now();
        progress.job(start, &a_job());
        let waiting = JobStatus { message: Some("no peer has it; ".repeat(9)), ..a_job() };
        let shown = progress.job(start, &waiting).unwrap();
        assert!(shown.starts_with(&format!("{CLEAR}{}\n{CLEAR}256.0 MiB", "no peer has it; ".repeat(9))), "{shown:?}");
        assert_eq!(progress.job(start + DRAW_EVERY * 2, &waiting), None, "told once");
    }

    #[test]
    fn nothing_is_shown_when_it_is_off() {
        let mut progress = Progress::new(Style::Off);
        let start = Instant::now();
        assert_eq!(progress.job(start, &JobStatus { message: Some("m".into()), ..a_job() }), None);
        assert_eq!(progress.tick(start + LINE_EVERY * 2), None);
    }

    #[test]
    fn an_import_measures_its_own_rate() {
        let mut progress = Progress::new(Style::Pipe);
        let start = Instant::now();
        for second in 0..20_u32 {
            progress.bytes(
                start + Duration::from_secs(second.into()),
                "f",
                u64::from(second) * 2_000_000,
                100_000_000,
                None,
            );
        }
        let line = progress.bytes(start + Duration::from_secs(20), "f", 40_000_000, 100_000_000, None).unwrap();
        assert_eq!(line, "38.1 MiB of 95.4 MiB  40.0 %  2.0 MB/s  ETA 30 s  f\n");
        assert!(progress.samples.len() < 30);
    }
}
