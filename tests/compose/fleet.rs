//! One fleet in containers: started from docker-compose.yml under a name of its own, always taken down again with its
//! volumes. When a case fails, what its containers have said is kept in a folder that the failure names.

use std::any::Any;
use std::fs;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::member::Member;
use crate::support::{PATIENCE, bounded, noise, say, stderr};

/// Two fleets at a time would only be in each other's way.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static IMAGE: Once = Once::new();

/// What a case does to the fleet that users have.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Setting {
    /// What each member may receive a second.
    pub(crate) down: Option<&'static str>,
    /// A file beside this one that says what is otherwise, as docker-compose merges it.
    pub(crate) more: Option<&'static str>,
}

/// A project of docker-compose.
pub(crate) struct Fleet {
    project: String,
    setting: Setting,
    members: Vec<Member>,
    /// For files on this side.
    folder: tempfile::TempDir,
}

/// A file that is to get around.
pub(crate) struct Original {
    path: PathBuf,
    pub(crate) cid: String,
    pub(crate) bytes: u64,
}

/// Runs a case with a fleet whose members all know each other.
pub(crate) fn case(name: &str, setting: Setting, work: impl FnOnce(&Fleet)) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    IMAGE.call_once(build_image);
    let started = Instant::now();
    let _ = fs::remove_dir_all(logs_of(name));
    let mut fleet = Fleet {
        project: format!("bitshoal-{name}"),
        setting,
        members: Vec::new(),
        folder: tempfile::tempdir().unwrap(),
    };
    let done = catch_unwind(AssertUnwindSafe(|| {
        fleet.start();
        work(&fleet);
    }));
    if let Err(panic) = done {
        let kept = fleet.keep_logs(name);
        panic!("{}\nwhat the containers of this case have said is in {}", message(&*panic), kept.display());
    }
    drop(fleet);
    say(&format!("compose: {name} holds ({:.0} s)", started.elapsed().as_secs_f64()));
}

/// Asks again and again until there is an answer.
pub(crate) fn wait<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "after {} s: not {what}", patience.as_secs());
        std::thread::yield_now();
    }
}

/// Runs `docker`, which must succeed, and returns what it printed.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let done = bounded(Command::new("docker").args(arguments));
    assert!(done.status.success(), "docker {arguments:?}: {}", stderr(&done));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

impl Fleet {
    fn start(&mut self) {
        // What an earlier run left that was killed.
        self.down();
        let done = bounded(self.compose().args(["up", "-d", "--no-build"]));
        assert!(done.status.success(), "docker-compose up: {}", stderr(&done));
        let label = format!("label=com.docker.compose.project={}", self.project);
        let format = r#"{{.ID}} {{.Label "com.docker.compose.service"}}"#;
        let listed = docker(&["ps", "--no-trunc", "--filter", &label, "--format", format]);
        self.members = listed.lines().map(|line| line.split_once(' ').unwrap()).map(Member::of).collect();
        self.members.sort_by(|a, b| a.name.cmp(&b.name));
        for member in self.all() {
            member.wait_ready();
        }
        self.wait_whole(PATIENCE);
    }

    /// The publisher and the readers.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.name == "publisher" || member.name.starts_with("reader"))
    }

    pub(crate) fn readers(&self) -> impl Iterator<Item = &Member> {
        self.all().filter(|member| member.name != "publisher")
    }

    pub(crate) fn member(&self, name: &str) -> &Member {
        self.members.iter().find(|member| member.name == name).unwrap()
    }

    /// Waits until all are connected with all.
    pub(crate) fn wait_whole(&self, patience: Duration) {
        let (started, others) = (Instant::now(), self.all().count() - 1);
        for member in self.all() {
            let patience = patience.saturating_sub(started.elapsed());
            wait(&format!("connected with all: {}", member.name), patience, || {
                (member.peers().len() == others).then_some(())
            });
        }
    }

    /// Gives the publisher a file of noise to add.
    pub(crate) fn publish(&self, name: &str, bytes: usize) -> Original {
        let path = self.folder.path().join(name);
        noise(&path, bytes, bytes as u64);
        let publisher = self.member("publisher");
        let there = publisher.put(&path);
        let added = publisher.ask(&["add", &there]);
        Original { path, cid: added.last().unwrap()["cid"].as_str().unwrap().to_owned(), bytes: bytes as u64 }
    }

    /// Every reader starts to pull it.
    pub(crate) fn pull(&self, original: &Original) {
        for reader in self.readers() {
            reader.pull(original);
        }
    }

    /// Waits until every reader has it, and compares.
    pub(crate) fn check_all(&self, original: &Original) {
        for reader in self.readers() {
            self.check(reader, original);
        }
    }

    /// Waits until this one has it, and compares.
    pub(crate) fn check(&self, reader: &Member, original: &Original) {
        reader.wait_job(original, |job| job["state"] == "done");
        let copy = self.folder.path().join("copy");
        docker(&["cp", &format!("{}:{}", reader.id, original.there()), copy.to_str().unwrap()]);
        assert_eq!(sha256(&copy), sha256(&original.path), "what {} has is not what was published", reader.name);
        fs::remove_file(copy).unwrap();
    }

    /// A folder of a container, here.
    pub(crate) fn folder_of(&self, member: &Member, folder: &str) -> PathBuf {
        let here = self.folder.path().join(&member.name);
        docker(&["cp", &format!("{}:{folder}", member.id), here.to_str().unwrap()]);
        here
    }

    /// The network that docker-compose made.
    pub(crate) fn network(&self) -> String {
        format!("{}_default", self.project)
    }

    fn compose(&self) -> Command {
        let mut command = compose();
        command.args(["-p", &self.project, "-f", "docker-compose.yml"]);
        if let Some(more) = self.setting.more {
            command.args(["-f", &format!("tests/compose/{more}")]);
        }
        command.env("BITSHOAL_UP", "0").env("BITSHOAL_DOWN", self.setting.down.unwrap_or("0"));
        command
    }

    fn down(&self) -> Output {
        bounded(self.compose().args(["down", "-v", "--remove-orphans", "-t", "0"]))
    }

    fn keep_logs(&self, case: &str) -> PathBuf {
        let folder = logs_of(case);
        fs::create_dir_all(&folder).unwrap();
        for (name, arguments) in [("containers.log", ["logs", "--no-color", "-t"].as_slice()), ("states.txt", &["ps"])]
        {
            let said = bounded(self.compose().args(arguments));
            fs::write(folder.join(name), [said.stdout, said.stderr].concat()).unwrap();
        }
        for member in &self.members {
            let jobs = bounded(&mut member.command(&["jobs"]));
            let peers = bounded(&mut member.command(&["peers"]));
            let said = [jobs.stdout, jobs.stderr, peers.stdout, peers.stderr].concat();
            fs::write(folder.join(format!("{}.json", member.name)), said).unwrap();
        }
        folder
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let done = self.down();
        if !done.status.success() {
            say(&format!("the fleet {} is still there: {}", self.project, stderr(&done)));
        }
    }
}

impl Original {
    /// Where it lies in every container.
    pub(crate) fn there(&self) -> String {
        format!("/files/{}", self.path.file_name().unwrap().to_str().unwrap())
    }
}

fn build_image() {
    let binary = manifest().join("target/docker/bitshoal");
    assert!(
        binary.exists(),
        "{} is missing: the first two commands of README, \"With docker-compose\", make it",
        binary.display()
    );
    let done = bounded(compose().args(["build", "-q", "publisher"]));
    assert!(done.status.success(), "the image is not built: {}", stderr(&done));
}

fn compose() -> Command {
    let mut command = Command::new("docker-compose");
    command.current_dir(manifest());
    command
}

/// Where a failed case leaves what its containers have said.
fn logs_of(case: &str) -> PathBuf {
    manifest().join("target/compose-logs").join(case)
}

fn manifest() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sha256(path: &Path) -> String {
    let mut file = fs::File::open(path).unwrap();
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; 1 << 20]);
    while let n @ 1.. = file.read(&mut chunk).unwrap() {
        hash.update(&chunk[..n]);
    }
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}
