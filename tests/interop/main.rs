//! Interop: this binary against the real implementations, boxo (Go) and Helia (JavaScript), on loopback.
//!
//! The driver starts daemons of ours and peers of theirs as processes, lets each fetch from the other, and prints a table
//! of what worked: [`matrix`] every protocol version over every transport, [`parties`] pulls from more than one of them
//! and from one that leaves, [`speed`] one large file by each pair, which is printed and not judged. It is no benchmark
//! and does not look at how we do it, only at what arrives. It needs Go and npm (or the built peers, see [`peers`]) and
//! runs by `cargo test --release --test interop [-- matrix|parties|speed|ROW…]`.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a panic is how a cell fails, and the figures are for people"
)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

#[path = "../bench/common/mod.rs"]
mod common;
mod content;
mod matrix;
mod nodes;
mod parties;
mod peers;
mod speed;
#[allow(dead_code, reason = "the integration tests use all of it")]
#[path = "../it/support.rs"]
mod support;
mod table;

/// How many of the checks that were to be done held.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

fn main() -> ExitCode {
    let (sections, rows): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .partition(|word| ["matrix", "parties", "speed"].contains(&word.as_str()));
    let wanted = |section: &str| sections.is_empty() || sections.iter().any(|word| word == section);
    let programs = match peers::Programs::find() {
        Ok(programs) => programs,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let started = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let mut tally = Tally::default();
    if wanted("matrix") {
        tally += matrix::run(&programs, folder.path(), &rows);
        println!("({:.0} s)\n", started.elapsed().as_secs_f64());
    }
    if wanted("parties") {
        tally += parties::run(&programs, folder.path());
    }
    if wanted("speed") {
        tally += speed::run(&programs, folder.path());
    }
    println!("interop took {:.0} s", started.elapsed().as_secs_f64());
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs something that panics when it fails, and gives the panic's message.
fn attempt<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_owned()
}
