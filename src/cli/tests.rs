//! Whole commands against a node that is a function: what is asked of it, what is printed, how it ends.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser;
use futures::StreamExt;
use futures::future::BoxFuture;

use super::args::Cli;
use super::output::Output;
use super::progress::{Style, tests::a_job};
use crate::config::Config;
use crate::daemon::{Host, Mode, Running};
use crate::repo::Repo;
use crate::rpc::EventStream;
use crate::rpc::tests::{Fake, answer};
use crate::stop::Stop;
use crate::transfer::api::{Event, Failure, JobState, JobStatus, Request, RootInfo, WirePath};

const CID: &str = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// A machine with one repo and a node that answers as `node` says.
struct Machine {
    folder: tempfile::TempDir,
    node: Arc<dyn Fn(Request) -> EventStream + Send + Sync>,
    requests: Arc<Mutex<Vec<Request>>>,
    opened: Mutex<Vec<Mode>>,
    refuse: Mutex<Vec<Failure>>,
    stopped: Arc<Mutex<u32>>,
    /// The wish to end of the next command; without one it is never ended.
    stop: Mutex<Option<Stop>>,
}

/// What a command has left.
struct Ended {
    result: Result<(), Failure>,
    out: String,
    err: String,
}

impl Machine {
    fn new(node: impl Fn(Request) -> EventStream + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            folder: tempfile::tempdir().unwrap(),
            node: Arc::new(node),
            requests: Arc::default(),
            opened: Mutex::default(),
            refuse: Mutex::default(),
            stopped: Arc::default(),
            stop: Mutex::default(),
        })
    }

    /// As [`Machine::new`], with a private repo.
    async fn with_repo(node: impl Fn(Request) -> EventStream + Send + Sync + 'static) -> Arc<Self> {
        let machine = Self::new(node);
        machine.run("init").await.result.unwrap();
        machine
    }

    fn repo(&self) -> std::path::PathBuf {
        self.folder.path().join("repo")
    }

    async fn run(self: &Arc<Self>, line: &str) -> Ended {
        self.run_into(line, Sink::default()).await
    }

    async fn run_into(self: &Arc<Self>, line: &str, out: Sink) -> Ended {
        let words = ["bitshoal", "--repo"].map(Into::into).into_iter().chain([self.repo().into_os_string()]);
        let cli = Cli::try_parse_from(words.chain(line.split_whitespace().map(Into::into))).unwrap();
        let err = Sink::default();
        let mut output = Output::new(Box::new(out.clone()), Box::new(err.clone()), &cli.global, Style::Pipe);
        let taken = self.stop.lock().unwrap().take();
        let mut stop = taken.unwrap_or_else(|| Stop::by_hand().1);
        let result = super::run(cli, &**self, &mut output, &mut stop).await;
        Ended { result, out: out.text(), err: err.text() }
    }

    fn opened(&self) -> Vec<Mode> {
        std::mem::take(&mut self.opened.lock().unwrap())
    }

    fn last_request(&self) -> serde_json::Value {
        serde_json::to_value(self.requests.lock().unwrap().last().unwrap()).unwrap()
    }
}

impl Host for Machine {
    fn open<'a>(&'a self, _: &'a Repo, _: &'a Config, mode: Mode) -> BoxFuture<'a, Result<Running, Failure>> {
        self.opened.lock().unwrap().push(mode);
        if let Some(failure) = self.refuse.lock().unwrap().pop() {
            return Box::pin(async { Err(failure) });
        }
        let (node, requests, stopped) = (self.node.clone(), self.requests.clone(), self.stopped.clone());
        let service = Arc::new(Fake(move |request: Request| {
            requests.lock().unwrap().push(request.clone());
            node(request)
        }));
        let stop = Box::pin(async move { *stopped.lock().unwrap() += 1 });
        Box::pin(async { Ok(Running { service, stop }) })
    }
}

fn added(path: &Path) -> Event {
    Event::Added { cid: CID.into(), path: WirePath(path.into()), size: 5 }
}

fn identity(addresses: &[&str]) -> Event {
    Event::Identity {
        peer_id: "12D3".into(),
        addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
        agent: "bitshoal/0".into(),
        swarm: Some("abcd".into()),
        repo: WirePath("/r".into()),
    }
}

fn done() -> JobStatus {
    JobStatus { state: JobState::Done, done_bytes: 1 << 30, elapsed_seconds: 10.0, ..a_job() }
}

#[tokio::test]
async fn without_a_repo_commands_say_how_to_make_one() {
    let machine = Machine::new(|_| answer([]));
    for line in ["ls", "daemon", &format!("get {CID}"), "add f", "share f", "id", "health", "config show"] {
        let failure = machine.run(line).await.result.unwrap_err();
        assert_eq!(failure.code, "no-repo", "{line}");
        assert!(failure.message.contains("init` makes one"), "{failure}");
    }
    assert!(machine.opened().is_empty());
    assert!(!machine.repo().exists());
    for line in ["version", "completions bash", "completions powershell", "key gen"] {
        assert!(!machine.run(line).await.out.is_empty(), "{line}");
    }
}

#[tokio::test]
async fn init_makes_each_kind_of_repo_and_tells_no_secret() {
    let machine = Machine::new(|_| answer([]));
    let ended = machine.run("init --json").await;
    let value: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(value["swarm"], "private");
    assert!(value["peer_id"].as_str().unwrap().starts_with("12D3KooW"));
    let key = std::fs::read_to_string(machine.repo().join("swarm.key")).unwrap();
    let secret = key.lines().last().unwrap();
    assert!(!ended.out.contains(secret) && !ended.err.contains(secret));
    assert_eq!(machine.run("init").await.result.unwrap_err().code, "repo-exists");

    let other = Machine::new(|_| answer([]));
    let join = format!("init --swarm-key {}", machine.repo().join("swarm.key").display());
    other.run(&join).await.result.unwrap();
    assert_eq!(std::fs::read_to_string(other.repo().join("swarm.key")).unwrap(), key);

    let public = Machine::new(|_| answer([]));
    let ended = public.run("init --public").await;
    assert!(ended.err.contains("any peer may fetch any block"), "{}", ended.err);
    assert!(!public.repo().join("swarm.key").exists());
    assert!(public.run("config show").await.out.contains("swarm = \"public\""));

    let bad = Machine::new(|_| answer([]));
    let file = bad.folder.path().join("bad.key");
    std::fs::write(&file, secret).unwrap();
    let failure = bad.run(&format!("init --swarm-key {}", file.display())).await.result.unwrap_err();
    assert!(failure.message.contains("is not a swarm key") && !failure.message.contains(secret), "{failure}");
    assert!(!bad.repo().exists());
}

#[tokio::test]
async fn add_resolves_paths_and_prints_cid_and_path() {
    let machine = Machine::with_repo(|_| {
        let progress = Event::Progress { path: WirePath("/x/f".into()), done: 1, total: 5, files: None };
        answer([Ok(progress), Ok(added(Path::new("/x/f")))])
    })
    .await;
    let ended = machine.run("add f --cid-version 0 --raw-leaves --only-hash").await;
    ended.result.unwrap();
    assert_eq!(ended.out, format!("{CID} /x/f\n"));
    assert_eq!(machine.opened(), [Mode::Offline]);
    let request = machine.last_request();
    let path = std::env::current_dir().unwrap().join("f");
    assert_eq!(request["paths"][0], path.to_str().unwrap());
    assert_eq!(request["options"]["cid_version"], 0);
    assert_eq!(request["options"]["raw_leaves"], true);
    assert_eq!(request["options"]["only_hash"], true);
    assert_eq!(*machine.stopped.lock().unwrap(), 1);

    let json = machine.run("--json add f").await.out;
    assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), added(Path::new("/x/f")));
}

#[tokio::test]
async fn get_ends_well_only_when_the_file_is_there() {
    let machine = Machine::with_repo(|_| answer([Ok(Event::Job(a_job())), Ok(Event::Job(done()))])).await;
    let ended = machine.run(&format!("get {CID} -o out --timeout 2m --peer /ip4/127.0.0.1/tcp/1")).await;
    ended.result.unwrap();
    assert_eq!(ended.out, "bafk /data/f\n");
    assert_eq!(ended.err, "1.0 GiB in 10.0 s (107.4 MB/s) from 0 peers\n");
    let request = machine.last_request();
    assert_eq!(request["output"], std::env::current_dir().unwrap().join("out").to_str().unwrap());
    assert_eq!(request["timeout_seconds"], 120);
    assert_eq!(request["peers"][0], "/ip4/127.0.0.1/tcp/1");
    assert_eq!(machine.opened(), [Mode::Online { listen: None }]);

    machine.run(&format!("get /ipfs/{CID} --quiet")).await.result.unwrap();
    assert_eq!(machine.last_request()["output"], std::env::current_dir().unwrap().join(CID).to_str().unwrap());
    let into = machine.folder.path().display();
    machine.run(&format!("get {CID} -o {into}")).await.result.unwrap();
    assert_eq!(machine.last_request()["output"], machine.folder.path().to_str().unwrap());
    assert_eq!(machine.last_request()["name_in_folder"], CID);
    machine.run(&format!("get {CID}/a/last -o {into}")).await.result.unwrap();
    assert_eq!(machine.last_request()["name_in_folder"], "last");

    let failure = machine.run("get nonsense").await.result.unwrap_err();
    assert_eq!(failure.code, "not-a-cid");
    assert_eq!(machine.run(&format!("get {CID} --detach")).await.result.unwrap_err().code, "no-daemon");
}

#[tokio::test]
async fn a_pull_that_does_not_end_done_is_a_failure_with_its_reason() {
    for (state, code) in [
        (JobState::Failed, "failed"),
        (JobState::Cancelled, "cancelled"),
        (JobState::Paused, "paused"),
        (JobState::Fetching, "unfinished"),
    ] {
        let job = JobStatus { state, message: Some("because".into()), ..a_job() };
        let machine = Machine::with_repo(move |_| answer([Ok(Event::Job(job.clone()))])).await;
        let ended = machine.run(&format!("get {CID}")).await;
        assert_eq!(ended.result.unwrap_err().code, code);
        assert_eq!(ended.out, "");
        assert_eq!(*machine.stopped.lock().unwrap(), 1, "whatever happens, the node is stopped");
    }
    let machine = Machine::with_repo(|_| answer([Err(Failure::new("path-exists", "/f is there"))])).await;
    assert_eq!(machine.run(&format!("get {CID}")).await.result.unwrap_err().code, "path-exists");
}

#[tokio::test]
async fn an_interrupted_pull_says_what_becomes_of_it() {
    let machine = Machine::with_repo(|_| answer([])).await;
    let (wish, stop) = Stop::by_hand();
    let wish = Arc::new(wish);
    let pulling = Machine::new(move |_| {
        let wish = wish.clone();
        let wait = async move {
            wish.send_modify(|count| *count += 1);
            std::future::pending().await
        };
        answer([Ok(Event::Job(a_job()))]).chain(futures::stream::once(wait)).boxed()
    });
    std::fs::create_dir(pulling.repo()).unwrap();
    for name in ["node.toml", "identity.key", "swarm.key"] {
        std::fs::copy(machine.repo().join(name), pulling.repo().join(name)).unwrap();
    }
    *pulling.stop.lock().unwrap() = Some(stop);
    let failure = pulling.run(&format!("get {CID}")).await.result.unwrap_err();
    assert_eq!(failure.message, "interrupted: the same command continues where it was");
    assert_eq!(super::exit_code(&failure), 130);
    assert_eq!(*pulling.stopped.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_get_takes_another_port_when_its_own_is_taken_and_share_does_not() {
    let machine = Machine::with_repo(|_| answer([Ok(Event::Job(done()))])).await;
    let taken = Failure::new("port-taken", "port 4001 is taken");
    machine.refuse.lock().unwrap().push(taken.clone());
    machine.run(&format!("get {CID}")).await.result.unwrap();
    let opened = machine.opened();
    let Mode::Online { listen: Some(listen) } = &opened[1] else { panic!("{opened:?}") };
    assert_eq!(listen[0].to_string(), "/ip4/0.0.0.0/tcp/0");
    assert_eq!(listen[3].to_string(), "/ip6/::/udp/0/quic-v1");

    machine.refuse.lock().unwrap().push(taken.clone());
    let line = format!("get {CID} --listen /ip4/127.0.0.1/tcp/9");
    assert_eq!(machine.run(&line).await.result.unwrap_err(), taken);
    machine.refuse.lock().unwrap().push(taken.clone());
    assert_eq!(machine.run("share f").await.result.unwrap_err(), taken);
}

#[tokio::test]
async fn share_prints_the_line_for_the_other_machine_and_serves_until_it_is_stopped() {
    let machine = Machine::with_repo(|request| match request {
        Request::Add(_) => answer([Ok(added(Path::new("/x/my file")))]),
        Request::Id => answer([Ok(identity(&["/ip4/127.0.0.1/tcp/1/p2p/X", "/ip4/192.0.2.1/tcp/1/p2p/X"]))]),
        _ => answer([]),
    })
    .await;
    let (wish, stop) = Stop::by_hand();
    *machine.stop.lock().unwrap() = Some(stop);
    let sink = Sink::default();
    let seen = sink.clone();
    let (ended, ()) = tokio::join!(machine.run_into("share f", sink), async {
        while seen.text().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*machine.stopped.lock().unwrap(), 0, "it still serves");
        wish.send_modify(|count| *count += 1);
    });
    ended.result.unwrap();
    assert_eq!(ended.out, format!("bitshoal get {CID} --peer /ip4/192.0.2.1/tcp/1/p2p/X -o 'my file'\n"));
    let key = machine.repo().join("swarm.key");
    assert!(ended.err.contains(&format!("copy {}", key.display())), "{}", ended.err);
    let secret = std::fs::read_to_string(key).unwrap();
    assert!(!ended.err.contains(secret.lines().last().unwrap()));
    assert_eq!(*machine.stopped.lock().unwrap(), 1);
}

#[tokio::test]
async fn verify_fails_when_bytes_differ() {
    let machine = Machine::with_repo(|_| {
        let verified = Event::Verified { cid: CID.into(), path: WirePath("/f".into()), bytes: 10, bad_bytes: 4 };
        answer([Ok(Event::Bad { path: None, offset: 2, length: 4 }), Ok(verified)])
    })
    .await;
    let ended = machine.run(&format!("verify {CID}")).await;
    assert_eq!(ended.result.unwrap_err().code, "differs");
    assert_eq!(ended.out, format!("differs: bytes 2 to 6\n{CID} /f: 4 bytes differ, 10 B checked\n"));
}

#[tokio::test]
async fn lists_are_lines_for_people_and_objects_for_programs() {
    let root = RootInfo {
        cid: CID.into(),
        path: WirePath("/f\u{1b}[2J".into()),
        size: 1 << 20,
        present_bytes: 1 << 19,
        files: None,
        leaves: 2,
        complete: false,
        problem: Some("shortened".into()),
    };
    let event = Event::Root(root);
    let told = event.clone();
    let machine = Machine::with_repo(move |request| match request {
        Request::Jobs => answer([Ok(Event::Job(a_job()))]),
        _ => answer([Ok(told.clone())]),
    })
    .await;
    let row = format!("{CID}     1.0 MiB    50.0 %  /f\\u{{1b}}[2J  (shortened)\n");
    assert_eq!(machine.run("ls").await.out, row);
    assert_eq!(serde_json::from_str::<Event>(&machine.run("ls --json").await.out).unwrap(), event);
    let details = machine.run(&format!("stat {CID}")).await.out;
    assert!(details.contains("size     1048576 bytes (1.0 MiB)\npresent  50.0 %\nleaves   2\nproblem  shortened\n"));
    assert_eq!(machine.run("jobs").await.out, "   3  fetching    25.0 %  bafk /data/f\n");
    assert!(machine.opened().iter().all(|mode| *mode == Mode::Offline));
}

#[tokio::test]
async fn what_needs_a_daemon_says_so() {
    let machine = Machine::with_repo(|_| answer([])).await;
    for line in ["peers", "connect /ip4/127.0.0.1/tcp/1", "health", "jobs resume 1", "jobs watch 1"] {
        let failure = machine.run(line).await.result.unwrap_err();
        assert_eq!(failure.code, "no-daemon", "{line}");
        assert!(failure.message.contains("daemon`"), "{failure}");
    }
    assert!(machine.opened().is_empty());
}

#[tokio::test]
async fn errors_of_the_settings_come_through() {
    let machine = Machine::with_repo(|_| answer([])).await;
    std::fs::write(machine.repo().join("node.toml"), "\nquic = 3\n").unwrap();
    for line in ["ls", "daemon", "config show"] {
        let failure = machine.run(line).await.result.unwrap_err();
        assert_eq!(failure.code, "bad-config", "{line}");
        assert!(failure.message.contains("node.toml, line 2, key quic: "), "{failure}");
    }
}

#[tokio::test]
async fn a_daemon_tells_its_addresses_answers_commands_and_leaves_nothing() {
    let machine = Machine::with_repo(|request| match request {
        Request::Id => answer([Ok(identity(&["/ip4/127.0.0.1/tcp/1/p2p/X"]))]),
        Request::Health => answer([Ok(Event::Healthy)]),
        Request::Add(_) => answer([Ok(added(Path::new("/x/f")))]),
        Request::Get(_) => answer([Ok(Event::Job(a_job()))]),
        _ => answer([Err(Failure::new("unknown-root", "no such root"))]),
    })
    .await;
    let (wish, stop) = Stop::by_hand();
    *machine.stop.lock().unwrap() = Some(stop);
    let sink = Sink::default();
    let seen = sink.clone();
    let line = "daemon --listen /ip4/127.0.0.1/tcp/0";
    let (daemon, ()) = tokio::join!(machine.run_into(line, sink), async {
        while !seen.text().ends_with("ready\n") {
            tokio::task::yield_now().await;
        }
        assert_eq!(machine.run("health").await.out, "ok\n");
        assert_eq!(machine.run("add f").await.out, format!("{CID} /x/f\n"));
        assert_eq!(machine.run(&format!("get {CID} --detach")).await.out, "   3  fetching    25.0 %  bafk /data/f\n");
        assert!(machine.run("id --json").await.out.contains("/p2p/X"));
        let failure = machine.run(&format!("stat {CID}")).await.result.unwrap_err();
        assert_eq!(failure, Failure::new("unknown-root", "no such root"));
        // A share needs not wait where the daemon serves.
        let shared = machine.run("share f").await;
        shared.result.unwrap();
        assert!(shared.err.contains("The daemon serves it"), "{}", shared.err);
        assert_eq!(machine.opened().len(), 1, "all of it went to the daemon");
        wish.send_modify(|count| *count += 1);
    });
    daemon.result.unwrap();
    assert_eq!(daemon.out, "/ip4/127.0.0.1/tcp/1/p2p/X\nready\n");
    assert_eq!(*machine.stopped.lock().unwrap(), 1);
    assert!(!machine.repo().join("rpc.addr").exists() && !machine.repo().join("rpc.token").exists());
}

#[tokio::test]
async fn a_command_waits_for_a_repo_that_is_in_use_for_a_moment() {
    let machine = Machine::with_repo(|_| answer([])).await;
    let in_use = Failure::new("repo-in-use", "process 7 holds it");
    machine.refuse.lock().unwrap().extend([in_use.clone(), in_use]);
    machine.run("ls").await.result.unwrap();
    assert!(machine.refuse.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_daemon_that_cannot_start_names_the_cause_and_leaves_nothing() {
    let machine = Machine::with_repo(|_| answer([])).await;
    machine.refuse.lock().unwrap().push(Failure::new("repo-in-use", "process 7 holds it"));
    assert_eq!(machine.run("daemon").await.result.unwrap_err().code, "repo-in-use");
    let failure = machine.run("daemon").await.result.unwrap_err();
    assert_eq!(failure.code, "bug", "a node that does not say who it is");
    assert_eq!(*machine.stopped.lock().unwrap(), 1);

    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = format!("[rpc]\nlisten = \"{}\"\n", busy.local_addr().unwrap());
    std::fs::write(machine.repo().join("node.toml"), settings).unwrap();
    let failure = machine.run("daemon").await.result.unwrap_err();
    assert_eq!(failure.code, "port-taken");
    assert!(failure.message.contains("set another port under [rpc]"), "{failure}");
    assert!(!machine.repo().join("rpc.addr").exists());
}

#[tokio::test]
async fn results_that_nobody_reads_end_the_command() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let global = super::args::Global::default();
    let mut output = Output::new(Box::new(Closed), Box::new(Sink::default()), &global, Style::Pipe);
    let failure = output.result(&1, "1").unwrap_err();
    assert_eq!(super::exit_code(&failure), 141);
}

#[test]
fn quiet_leaves_errors_alone_and_json_makes_them_objects() {
    let global = super::args::Global { quiet: true, json: true, ..super::args::Global::default() };
    let notes = Sink::default();
    let mut output = Output::new(Box::new(Sink::default()), Box::new(notes.clone()), &global, Style::Terminal);
    output.note("unheard");
    output.job(std::time::Instant::now(), &a_job());
    output.error(&Failure::new("no-space", "the disk is full"));
    assert_eq!(notes.text(), "{\"error\":{\"code\":\"no-space\",\"message\":\"the disk is full\"}}\n");
}
