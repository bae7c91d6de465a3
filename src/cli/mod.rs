//! The command line: from what was typed to one request, and from its events to lines.
//!
//! Thin: a command finds a [`crate::rpc::Service`] (the repo's daemon, or a node opened in this process), asks one thing
//! of it, and prints what it says. Knows every flag and every text, nothing of blocks or the wire.

pub mod args;
mod commands;
mod demo;
mod link;
pub mod output;
mod progress;
mod service;
#[cfg(test)]
mod tests;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use self::args::Cli;
use self::output::Output;
use crate::daemon::{Host, LocalHost};
use crate::stop::Stop;
use crate::transfer::api::Failure;

/// How long threads that are still hashing or writing may hold up the end of the process.
const THREADS_PATIENCE: Duration = Duration::from_millis(500);

/// The program: parses, runs, prints the error, and tells the exit code. 0 is success, 1 failure, 2 a wrong command line,
/// 130 the user's interruption, 141 that nobody read the results (as SIGPIPE gives).
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    crate::platform::raise_open_files();
    let mut output = Output::standard(&cli.global);
    let result = run_to_end(cli, &mut output);
    output.clear();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.code != "broken-pipe" {
                output.error(&failure);
            }
            ExitCode::from(exit_code(&failure))
        }
    }
}

fn run_to_end(cli: Cli, output: &mut Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("runtime", format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(async {
        let mut stop = Stop::on_signals()?;
        run(cli, &LocalHost, output, &mut stop).await
    });
    runtime.shutdown_timeout(THREADS_PATIENCE);
    result
}

/// Runs one command; `host` opens the nodes that it needs.
///
/// # Errors
/// What the user is told, and what [`main`] makes the exit code of.
pub async fn run(cli: Cli, host: &dyn Host, output: &mut Output, stop: &mut Stop) -> Result<(), Failure> {
    commands::Commands::new(cli.global, host, output, stop).run(cli.command).await
}

fn exit_code(failure: &Failure) -> u8 {
    match failure.code.as_str() {
        "interrupted" => 130,
        "broken-pipe" => 141,
        _ => 1,
    }
}
