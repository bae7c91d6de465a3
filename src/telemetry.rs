//! The log: tracing's events to stderr, or for a service to a file, once a process.
//!
//! What is logged: `--log`, else `RUST_LOG`, else what the caller says (the daemon its setting, other commands warnings).
//! Results never go through here; they are stdout's.

use std::fs::File;
use std::io::IsTerminal;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

use crate::transfer::api::Failure;

/// Starts the log. A second call changes nothing, which tests rely on.
///
/// # Errors
/// `bad-log` when the directives are not understood; the sentence shows them.
pub fn start(flag: Option<&str>, fallback: &str) -> Result<(), Failure> {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(&wanted(flag, fallback))?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let _ = subscriber.try_init();
    Ok(())
}

/// As [`start`], into a file, for who has no stderr.
///
/// # Errors
/// As of [`start`].
pub fn start_in(file: File, flag: Option<&str>, fallback: &str) -> Result<(), Failure> {
    let filter = filter(&wanted(flag, fallback))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Mutex::new(file)).with_ansi(false);
    let _ = subscriber.try_init();
    Ok(())
}

fn wanted(flag: Option<&str>, fallback: &str) -> String {
    let variable = std::env::var("RUST_LOG").ok().filter(|value| !value.is_empty());
    flag.map(str::to_owned).or(variable).unwrap_or_else(|| fallback.to_owned())
}

/// A bare level speaks of this program: what the libraries below say at `info` is noise to its user.
fn filter(wanted: &str) -> Result<EnvFilter, Failure> {
    let level = wanted.trim().to_ascii_lowercase();
    let directives = match level.as_str() {
        "info" | "debug" | "trace" => format!("warn,bitshoal={level}"),
        _ => wanted.trim().to_owned(),
    };
    EnvFilter::builder().parse(&directives).map_err(|error| {
        Failure::new(
            "bad-log",
            format!(
                "cannot log {wanted:?}: {error}. Give error, warn, info, debug, trace, or directives as in RUST_LOG"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn levels_and_directives_are_understood_and_nonsense_is_not() {
        assert_eq!(filter("DEBUG").unwrap().to_string(), "bitshoal=debug,warn");
        assert_eq!(filter("error").unwrap().to_string(), "error");
        assert!(filter("warn,bitshoal::rpc=trace").is_ok());
        assert_eq!(filter("bitshoal=loud").unwrap_err().code, "bad-log");
    }
}
