//! Where results, notes, progress and errors go: results to stdout, everything else to stderr.
//!
//! With `--json` a result is one JSON object a line, in the words of [`crate::transfer::api::Event`], and so is an error.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use super::args::Global;
use super::progress::{Progress, Style};
use super::text;
use crate::transfer::api::{Failure, JobStatus, WirePath};

/// The two streams of a command.
pub struct Output {
    results: Box<dyn Write + Send>,
    notes: Box<dyn Write + Send>,
    json: bool,
    quiet: bool,
    progress: Progress,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("json", &self.json).field("quiet", &self.quiet).finish_non_exhaustive()
    }
}

impl Output {
    /// The process's own stdout and stderr.
    #[must_use]
    pub fn standard(global: &Global) -> Self {
        let style = if io::stderr().is_terminal() { Style::Terminal } else { Style::Pipe };
        Self::new(Box::new(io::stdout()), Box::new(io::stderr()), global, style)
    }

    /// Any two streams.
    #[must_use]
    pub(crate) fn new(
        results: Box<dyn Write + Send>,
        notes: Box<dyn Write + Send>,
        global: &Global,
        style: Style,
    ) -> Self {
        let style = if global.quiet { Style::Off } else { style };
        Self { results, notes, json: global.json, quiet: global.quiet, progress: Progress::new(style) }
    }

    /// Prints a result: `value` as JSON or `line` for people, one of which may be several lines.
    ///
    /// # Errors
    /// `broken-pipe` when nobody reads any more, `output` when it cannot be written.
    pub fn result(&mut self, value: &impl serde::Serialize, line: &str) -> Result<(), Failure> {
        self.clear();
        let written = if self.json {
            let json = serde_json::to_string(value).map_err(|error| Failure::new("bug", error))?;
            writeln!(self.results, "{json}")
        } else {
            writeln!(self.results, "{line}")
        };
        written.and_then(|()| self.results.flush()).map_err(|error| unwritable(&error))
    }

    /// Prints bytes that are the result themselves, whatever `--json` says.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.results.write_all(bytes).and_then(|()| self.results.flush()).map_err(|error| unwritable(&error))
    }

    /// Tells the user something that is no result.
    pub fn note(&mut self, line: &str) {
        if !self.quiet {
            self.clear();
            let _ = writeln!(self.notes, "{line}");
        }
    }

    /// Tells the user what is not as it was asked for, though the command has not failed; said even when quiet.
    pub fn warning(&mut self, line: &str) {
        self.clear();
        let _ = writeln!(self.notes, "warning: {line}");
    }

    /// Tells why the command has failed, which is said even when quiet.
    pub fn error(&mut self, failure: &Failure) {
        self.clear();
        let _ = if self.json {
            writeln!(self.notes, "{}", serde_json::json!({ "error": failure }))
        } else {
            writeln!(self.notes, "error: {}", text::printable(&failure.message))
        };
    }

    /// An import or a verification goes on.
    pub fn bytes(&mut self, now: Instant, path: &WirePath, done: u64, total: u64, files: Option<u64>) {
        let name = path.0.file_name().unwrap_or_default().to_string_lossy();
        let shown = self.progress.bytes(now, &name, done, total, files);
        self.draw(shown);
    }

    /// A pull goes on.
    pub fn job(&mut self, now: Instant, job: &JobStatus) {
        let shown = self.progress.job(now, job);
        self.draw(shown);
    }

    /// Time goes on.
    pub fn tick(&mut self, now: Instant) {
        let shown = self.progress.tick(now);
        self.draw(shown);
    }

    /// Takes the line of progress off the screen.
    pub fn clear(&mut self) {
        let clear = self.progress.clear();
        self.draw(Some(clear.to_owned()));
    }

    fn draw(&mut self, shown: Option<String>) {
        if let Some(shown) = shown.filter(|shown| !shown.is_empty()) {
            // Progress that cannot be written is no reason to fail.
            let _ = self.notes.write_all(shown.as_bytes()).and_then(|()| self.notes.flush());
        }
    }
}

fn unwritable(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::new("broken-pipe", "nobody reads the results any more");
    }
    Failure::new("output", format!("cannot write the results: {error}"))
}
