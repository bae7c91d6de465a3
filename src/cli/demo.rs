//! `demo`: a private swarm of separate processes on this machine, and its figures.

use super::args::DemoArgs;
use super::output::Output;
use crate::stop::Stop;
use crate::transfer::api::Failure;

/// Runs the demo.
///
/// # Errors
/// What went wrong in any of its processes.
pub(crate) async fn run(_args: DemoArgs, _output: &mut Output, _stop: &mut Stop) -> Result<(), Failure> {
    Err(Failure::new("bug", "this build has no demo"))
}
