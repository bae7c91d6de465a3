//! One container of a fleet: commands of the binary in it, what becomes of its jobs, and blows to it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::fleet::{Original, docker, wait};
use crate::support::{PATIENCE, bounded, json_lines, stderr};

pub(crate) struct Member {
    /// Its service in docker-compose.yml.
    pub(crate) name: String,
    pub(crate) id: String,
}

impl Member {
    pub(crate) fn of((id, name): (&str, &str)) -> Self {
        Self { name: name.to_owned(), id: id.to_owned() }
    }

    /// A command of the binary, beside the daemon.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["exec", &self.id, "/bitshoal", "--json"]).args(arguments);
        command
    }

    /// Runs a command that must succeed and returns what it printed as JSON lines.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Vec<Value> {
        let done = bounded(&mut self.command(arguments));
        assert!(done.status.success(), "{} {arguments:?}: {}", self.name, stderr(&done));
        json_lines(&done.stdout)
    }

    /// Runs a command that must fail and returns what it said on stderr.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let done = bounded(&mut self.command(arguments));
        assert!(!done.status.success(), "{} {arguments:?}: {}", self.name, String::from_utf8_lossy(&done.stdout));
        stderr(&done)
    }

    pub(crate) fn wait_ready(&self) {
        wait(&format!("ready: {}", self.name), PATIENCE, || {
            bounded(&mut self.command(&["health"])).status.success().then_some(())
        });
    }

    pub(crate) fn peer_id(&self) -> String {
        self.ask(&["id"])[0]["peer_id"].as_str().unwrap().to_owned()
    }

    /// Ids of those that it is connected with.
    pub(crate) fn peers(&self) -> Vec<String> {
        self.ask(&["peers"]).iter().map(|peer| peer["peer_id"].as_str().unwrap().to_owned()).collect()
    }

    /// Copies a file into the container; where it is then.
    pub(crate) fn put(&self, file: &Path) -> String {
        let there = format!("/files/{}", file.file_name().unwrap().to_str().unwrap());
        docker(&["cp", file.to_str().unwrap(), &format!("{}:{there}", self.id)]);
        there
    }

    /// Starts to pull.
    pub(crate) fn pull(&self, original: &Original) {
        self.ask(&["get", &original.cid, "-o", &original.there(), "--detach"]);
    }

    /// How a pull stands.
    pub(crate) fn job(&self, original: &Original) -> Option<Value> {
        self.ask(&["jobs"]).into_iter().find(|job| job["cid"] == original.cid.as_str())
    }

    pub(crate) fn wait_job(&self, original: &Original, done: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        wait(&format!("there: the pull of {}", self.name), PATIENCE, || {
            let job = self.job(original);
            if job != last
                && let Some(job) = &job
            {
                assert_ne!(job["state"], "failed", "{}: {job}", self.name);
            }
            last = job;
            last.clone().filter(&done)
        })
    }

    /// Waits until so much is there, which must not be all.
    pub(crate) fn wait_middle(&self, original: &Original, bytes: u64) -> u64 {
        let job = self.wait_job(original, |job| done_bytes(job) >= bytes);
        assert_eq!(job["state"], "fetching", "{}: this is not the middle: {job}", self.name);
        done_bytes(&job)
    }

    /// `kill -9` of the daemon, which is the only process.
    pub(crate) fn kill(&self) {
        docker(&["kill", &self.id]);
    }

    /// Starts it again after a kill or a stop.
    pub(crate) fn start(&self) {
        docker(&["start", &self.id]);
        self.wait_ready();
    }

    /// Asks it to end, which it must do by itself, and without complaint.
    pub(crate) fn stop(&self) {
        docker(&["stop", "-t", "10", &self.id]);
        assert_eq!(self.inspect("{{.State.ExitCode}}"), "0", "{} does not stop cleanly", self.name);
    }

    /// What docker knows of the container.
    pub(crate) fn inspect(&self, format: &str) -> String {
        docker(&["inspect", "-f", format, &self.id])
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        let done = bounded(Command::new("docker").args(["logs", &self.id]));
        [done.stdout, done.stderr].iter().map(|bytes| String::from_utf8_lossy(bytes)).collect()
    }
}

/// Bytes that are in place.
pub(crate) fn done_bytes(job: &Value) -> u64 {
    job["done_bytes"].as_u64().unwrap()
}

/// Bytes that came from others since the job was last taken up.
pub(crate) fn pulled_bytes(job: &Value) -> u64 {
    job["sources"].as_array().unwrap().iter().map(|source| source["bytes"].as_u64().unwrap()).sum()
}
