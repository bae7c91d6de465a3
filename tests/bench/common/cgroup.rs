//! Memory control groups of a benchmark's own children, version 1 or 2.
//!
//! A group is a folder that is made here and removed with the value; processes are started in it and never moved. Where
//! none can be made (no rights, no such controller, another system) the benchmarks go on without, and say so.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A group of processes whose memory is counted, and bounded if told so.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    files: &'static Files,
}

/// What one version calls its files, and the lines in them.
#[derive(Debug)]
struct Files {
    usage: &'static str,
    peak: &'static str,
    limit: &'static str,
    /// How often an allocation met the limit, and by which name it is counted there.
    limited: (&'static str, &'static str),
    /// Processes killed for want of memory.
    killed: (&'static str, &'static str),
}

const VERSION_1: Files = Files {
    usage: "memory.usage_in_bytes",
    peak: "memory.max_usage_in_bytes",
    limit: "memory.limit_in_bytes",
    limited: ("memory.failcnt", ""),
    killed: ("memory.oom_control", "oom_kill "),
};

const VERSION_2: Files = Files {
    usage: "memory.current",
    peak: "memory.peak",
    limit: "memory.max",
    limited: ("memory.events", "max "),
    killed: ("memory.events", "oom_kill "),
};

impl Group {
    /// A group below the top one that is mounted at `root` (`/sys/fs/cgroup`). The reason, when there can be none.
    pub fn create(root: &Path, name: &str) -> Result<Self, String> {
        let name = format!("bitshoal-{}-{name}", std::process::id());
        // Version 1 goes first: where both are mounted, that is who has the controller.
        if root.join("memory").join(VERSION_1.usage).exists() {
            return Self::make(root.join("memory").join(name), &VERSION_1);
        }
        let controllers = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if !controllers.split_whitespace().any(|one| one == "memory") {
            return Err(format!("no memory controller at {}", root.display()));
        }
        share(root);
        Self::make(root.join(name), &VERSION_2)
    }

    /// A group within this one, whose limit holds for it too.
    pub fn within(&self, name: &str) -> Result<Self, String> {
        share(&self.path);
        Self::make(self.path.join(name), self.files)
    }

    fn make(path: PathBuf, files: &'static Files) -> Result<Self, String> {
        std::fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let group = Self { path, files };
        match group.usage() {
            Some(_) => Ok(group),
            None => Err(format!("{} counts no memory", group.path.display())),
        }
    }

    /// Sets a limit. It is meant for groups that are empty.
    pub fn limit(&self, bytes: u64) {
        std::fs::write(self.path.join(self.files.limit), bytes.to_string()).unwrap();
    }

    /// The same command, started in the group. The process that is spawned is the command's own.
    pub fn enter(&self, command: &Command) -> Command {
        let mut entered = Command::new("sh");
        entered.args(["-c", "echo 0 > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.path);
        entered.arg(command.get_program()).args(command.get_args());
        entered
    }

    /// Bytes in use.
    pub fn usage(&self) -> Option<u64> {
        self.number(self.files.usage, "")
    }

    /// The most bytes that were in use; older kernels do not tell it of version 2.
    pub fn peak(&self) -> Option<u64> {
        self.number(self.files.peak, "")
    }

    /// How often the limit was met, and something had to go for something else to come.
    pub fn limited(&self) -> Option<u64> {
        self.number(self.files.limited.0, self.files.limited.1)
    }

    /// Processes that were killed for want of memory.
    pub fn killed(&self) -> Option<u64> {
        self.number(self.files.killed.0, self.files.killed.1)
    }

    fn number(&self, file: &str, name: &str) -> Option<u64> {
        let text = std::fs::read_to_string(self.path.join(file)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Lets the groups below a folder count memory; version 1 does by itself, and has no such file.
fn share(folder: &Path) {
    let file = folder.join("cgroup.subtree_control");
    if file.exists() {
        // A refusal shows at once: the group within has no file of usage.
        let _ = std::fs::write(file, "+memory");
    }
}
