//! What each command does: one method a command, from its flags to its last line.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::CommandFactory;
use futures::StreamExt;
use serde_json::json;

use super::args::{
    AddArgs, CatArgs, Cli, Command, CompletionsArgs, ConfigCommand, DaemonArgs, GetArgs, Global, InitArgs, JobCommand,
    KeyCommand, LsArgs, PinArgs, ServiceCommand, ShareArgs,
};
use super::link::{Link, Need, interrupted};
use super::output::Output;
use super::{demo, service, text};
use crate::config::{ByteRate, Config, Swarm};
use crate::daemon::{self, Host, News};
use crate::dag::path::Rules;
use crate::repo::{NewRepo, PATH_VARIABLE, Repo};
use crate::rpc::{ByteStream, EventStream};
use crate::stop::Stop;
use crate::telemetry;
use crate::transfer::api::{
    AddRequest, CatRequest, EntryInfo, EntryKind, Event, Failure, GetRequest, JobState, JobStatus, LsRequest,
    MemoryInfo, PeerInfo, Request, RootInfo, WirePath,
};
use crate::transfer::resolve::Path as IpfsPath;

/// How often the progress may be redrawn while nothing happens.
const TICK: Duration = Duration::from_millis(100);

/// What commands without a daemon log when nothing is said: their results and errors speak for themselves.
const LOG_OF_COMMANDS: &str = "error,bitshoal=warn";

/// Everything that a command works with.
pub(super) struct Commands<'a> {
    global: Global,
    host: &'a dyn Host,
    output: &'a mut Output,
    stop: &'a mut Stop,
}

impl<'a> Commands<'a> {
    pub(super) const fn new(global: Global, host: &'a dyn Host, output: &'a mut Output, stop: &'a mut Stop) -> Self {
        Self { global, host, output, stop }
    }

    pub(super) async fn run(mut self, command: Command) -> Result<(), Failure> {
        // These two log as their settings say.
        let later = matches!(&command, Command::Daemon(_))
            || matches!(&command, Command::Service(args) if matches!(args.command, ServiceCommand::Run));
        if !later {
            telemetry::start(self.global.log.as_deref(), LOG_OF_COMMANDS)?;
        }
        match command {
            Command::Demo(args) => demo::run(args, self.output, self.stop).await,
            Command::Init(args) => self.init(&args),
            Command::Key(KeyCommand::Gen) => self.key_gen(),
            Command::Daemon(args) => self.daemon(args).await,
            Command::Add(args) => self.add(args).await,
            Command::Get(args) => self.get(args).await,
            Command::Pin(args) => self.pin(args).await,
            Command::Cat(args) => self.cat(args).await,
            Command::Share(args) => self.share(args).await,
            Command::Ls(args) => self.ls(args).await,
            Command::Stat(args) => match args.cid {
                Some(cid) => self.stat(checked(cid)?).await,
                None => self.ask(Need::Offline, Request::Memory).await,
            },
            Command::Rm(args) => {
                let request = Request::Rm { cid: checked(args.cid)?, delete_partial: args.delete_partial };
                self.ask(Need::Offline, request).await
            }
            Command::Verify(args) => self.ask(Need::Offline, Request::Verify { cid: checked(args.cid)? }).await,
            Command::Jobs(args) => self.jobs(args.command).await,
            Command::Id => self.ask(Need::Offline, Request::Id).await,
            Command::Peers => self.ask(Need::Daemon, Request::Peers).await,
            Command::Connect(args) => self.ask(Need::Daemon, Request::Connect { addr: args.addr.to_string() }).await,
            Command::Limit(args) => {
                let request = Request::Limit { up: args.up.map(|rate| rate.0), down: args.down.map(|rate| rate.0) };
                self.ask(Need::Daemon, request).await
            }
            Command::Health => self.ask(Need::Daemon, Request::Health).await,
            Command::Service(args) => {
                let dir = self.repo_dir()?;
                service::run(args, &dir, self.global.log.as_deref(), self.host, self.output).await
            }
            Command::Version => self.version(),
            Command::Config(ConfigCommand::Show) => self.config_show(),
            Command::Completions(args) => self.completions(&args),
        }
    }

    fn init(&mut self, args: &InitArgs) -> Result<(), Failure> {
        let dir = self.repo_dir()?;
        if args.if_missing && Repo::open(&dir).is_ok() {
            return Ok(());
        }
        let swarm = if args.public { Swarm::Public } else { Swarm::Private };
        let swarm_key = match &args.swarm_key {
            _ if args.public => None,
            Some(path) => Some(read_swarm_key(path)?),
            None => Some(daemon::new_swarm_key().into_bytes()),
        };
        let identity = daemon::new_identity()?;
        let peer_id = daemon::peer_id(&identity)?;
        let repo = Repo::init(&dir, &NewRepo { swarm, identity, swarm_key })?;
        let key_path = repo.swarm_key_path(&Config::default());
        let line = format!(
            "repo   {}\npeer   {peer_id}\nswarm  {}",
            dir.display(),
            match swarm {
                Swarm::Private => format!("private, key in {}", key_path.display()),
                Swarm::Public => "public".to_owned(),
            }
        );
        let value = json!({ "event": "initialized", "repo": WirePath(dir), "peer_id": peer_id, "swarm": swarm });
        self.output.result(&value, &line)?;
        match swarm {
            Swarm::Public => self.output.note("In an open swarm any peer may fetch any block that the index lists."),
            Swarm::Private if args.swarm_key.is_none() => self.output.note(&format!(
                "Only nodes with the same key can connect: copy {} to the others (it is a secret), and there run \
                 `bitshoal init --swarm-key FILE`.",
                key_path.display()
            )),
            Swarm::Private => {}
        }
        Ok(())
    }

    fn key_gen(&mut self) -> Result<(), Failure> {
        let key = daemon::new_swarm_key();
        self.output.result(&json!({ "event": "swarm-key", "key": key }), key.trim_end())
    }

    async fn daemon(&mut self, args: DaemonArgs) -> Result<(), Failure> {
        if args.init {
            self.init(&InitArgs { swarm_key: args.swarm_key, if_missing: true, ..InitArgs::default() })?;
        }
        let repo = Repo::open(&self.repo_dir()?)?;
        let mut config = repo.config()?;
        config.peers.extend(args.peer);
        config.up = args.up.unwrap_or(config.up);
        config.down = args.down.unwrap_or(config.down);
        telemetry::start(self.global.log.as_deref(), &config.log)?;
        let listen = (!args.listen.is_empty()).then_some(args.listen);
        let output = &mut *self.output;
        let mut tell = |news| match news {
            News::Listening(address) => output.result(&json!({ "event": "listening", "address": address }), &address),
            News::Ready => output.result(&json!({ "event": "ready" }), "ready"),
            News::Stopping => {
                output.note("stopping");
                Ok(())
            }
        };
        daemon::run(self.host, &repo, &config, listen, &mut tell, self.stop).await
    }

    async fn add(&mut self, args: AddArgs) -> Result<(), Failure> {
        let options = args.options.options(args.only_hash)?;
        let request = Request::Add(AddRequest { paths: absolute_all(&args.paths)?, options });
        self.ask(Need::Offline, request).await
    }

    async fn get(&mut self, args: GetArgs) -> Result<(), Failure> {
        let cid = checked(args.cid)?;
        let name = name_of(&cid);
        let request = GetRequest {
            output: absolute(args.output.as_deref().unwrap_or_else(|| Path::new(&name)))?,
            name_in_folder: args.output.is_some().then_some(name),
            cid,
            peers: args.peer.iter().map(ToString::to_string).collect(),
            detach: args.detach,
            into_existing: args.into_existing,
            no_preserve: args.no_preserve,
            select: args.select,
            tell_files: self.global.json,
            timeout_seconds: args.timeout.map(|timeout| timeout.as_secs()),
        };
        let need = if args.detach { Need::Daemon } else { Need::Online { listen: args.listen, any_port: true } };
        let link = self.link(need).await?;
        let mut result = if args.detach {
            self.print_all(link.service.call(Request::Get(request))).await
        } else {
            self.follow(&link, Request::Get(request)).await
        };
        if result.is_ok() && args.seed {
            result = self.serve_on(&link).await;
        }
        link.close(self.stop).await;
        result
    }

    async fn pin(&mut self, args: PinArgs) -> Result<(), Failure> {
        let request = Request::Pin {
            cid: checked(args.cid)?,
            peers: args.peer.iter().map(ToString::to_string).collect(),
            timeout_seconds: args.timeout.map(|timeout| timeout.as_secs()),
        };
        self.ask(Need::Online { listen: args.listen, any_port: true }, request).await
    }

    async fn ls(&mut self, args: LsArgs) -> Result<(), Failure> {
        let Some(cid) = args.cid else { return self.ask(Need::Offline, Request::Ls(LsRequest::default())).await };
        let request = LsRequest {
            cid: Some(checked(cid)?),
            peers: args.peer.iter().map(ToString::to_string).collect(),
            timeout_seconds: Some(args.timeout.as_secs()),
        };
        self.ask(Need::Online { listen: args.listen, any_port: true }, Request::Ls(request)).await
    }

    async fn cat(&mut self, args: CatArgs) -> Result<(), Failure> {
        let request = CatRequest {
            cid: checked(args.cid)?,
            offset: args.offset,
            length: args.length,
            peers: args.peer.iter().map(ToString::to_string).collect(),
            timeout_seconds: Some(args.timeout.as_secs()),
        };
        let link = self.link(Need::Online { listen: args.listen, any_port: true }).await?;
        let result = self.print_bytes(link.service.cat(request)).await;
        link.close(self.stop).await;
        result
    }

    async fn print_bytes(&mut self, mut pieces: ByteStream) -> Result<(), Failure> {
        loop {
            tokio::select! {
                biased;
                () = self.stop.next() => return Err(interrupted("")),
                piece = pieces.next() => match piece.transpose()? {
                    Some(piece) => match self.output.raw(&piece) {
                        // Who has read enough has got what he wanted.
                        Err(failure) if failure.code == "broken-pipe" => return Ok(()),
                        written => written?,
                    },
                    None => return Ok(()),
                },
            }
        }
    }

    async fn share(&mut self, args: ShareArgs) -> Result<(), Failure> {
        let paths = absolute_all(&args.paths)?;
        let request = Request::Add(AddRequest { paths, options: args.options.options(false)? });
        let link = self.link(Need::Online { listen: args.listen, any_port: false }).await?;
        let mut result = self.offer(&link, request).await;
        if result.is_ok() {
            result = self.serve_on(&link).await;
        }
        link.close(self.stop).await;
        result
    }

    /// Imports, and prints how to get each file elsewhere.
    async fn offer(&mut self, link: &Link, request: Request) -> Result<(), Failure> {
        let mut events = link.service.call(request);
        let mut added = Vec::new();
        while let Some(event) = self.next(&mut events, "").await? {
            match event {
                Event::Added { cid, path, size } => added.push((cid, path, size)),
                other => self.show(other)?,
            }
        }
        let identity = daemon::identity(&link.service).await?;
        let addresses = text::reachable(&identity.addresses);
        for (cid, path, size) in added {
            let command = text::get_command(&cid, &addresses, &path.0);
            let value = json!({
                "event": "shared", "cid": cid, "path": path, "size": size, "addresses": addresses, "command": command,
            });
            self.output.result(&value, &text::printable(&command))?;
        }
        if identity.private {
            let repo = self.repo()?;
            self.output.note(&format!(
                "The swarm is private: once, copy {} to the other machine (it is a secret) and there run \
                 `bitshoal init --swarm-key FILE`; in a repo that is there already, it belongs beside node.toml.",
                repo.swarm_key_path(&repo.config()?).display()
            ));
        } else {
            self.output.note("The swarm is public: once, run `bitshoal init --public` on the other machine.");
        }
        Ok(())
    }

    /// Waits for the user's end, unless a daemon serves anyway.
    async fn serve_on(&mut self, link: &Link) -> Result<(), Failure> {
        if link.is_daemon() {
            self.output.note("The daemon serves it as long as it runs.");
        } else {
            self.output.note("Serving until Ctrl-C.");
            self.stop.next().await;
        }
        Ok(())
    }

    async fn stat(&mut self, cid: String) -> Result<(), Failure> {
        let link = self.link(Need::Offline).await?;
        let mut events = link.service.call(Request::Stat { cid });
        let mut result = Ok(());
        while result.is_ok() {
            result = match self.next(&mut events, "").await {
                Ok(None) => break,
                Ok(Some(Event::Root(root))) => {
                    let lines = root_details(&root);
                    self.output.result(&Event::Root(root), &lines)
                }
                Ok(Some(other)) => self.show(other),
                Err(failure) => Err(failure),
            };
        }
        drop(events);
        link.close(self.stop).await;
        result
    }

    async fn jobs(&mut self, command: Option<JobCommand>) -> Result<(), Failure> {
        match command {
            None => self.ask(Need::Offline, Request::Jobs).await,
            Some(JobCommand::Pause(job)) => self.ask(Need::Offline, Request::JobPause { id: job.id }).await,
            Some(JobCommand::Cancel(job)) => self.ask(Need::Offline, Request::JobCancel { id: job.id }).await,
            Some(JobCommand::Resume(job)) => self.ask(Need::Daemon, Request::JobResume { id: job.id }).await,
            Some(JobCommand::Watch(job)) => {
                let link = self.link(Need::Daemon).await?;
                let result = self.follow(&link, Request::JobWatch { id: job.id }).await;
                link.close(self.stop).await;
                result
            }
        }
    }

    fn version(&mut self) -> Result<(), Failure> {
        let version = env!("CARGO_PKG_VERSION");
        self.output.result(&json!({ "event": "version", "version": version }), &format!("bitshoal {version}"))
    }

    fn config_show(&mut self) -> Result<(), Failure> {
        let repo = self.repo()?;
        let config = repo.config()?;
        let text = toml::to_string(&config).map_err(|error| Failure::new("bug", error))?;
        let shown = format!("# {} over the defaults\n{}", repo.settings_path().display(), text.trim_end());
        self.output.result(&config, &shown)
    }

    fn completions(&mut self, args: &CompletionsArgs) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(args.shell, &mut Cli::command(), "bitshoal", &mut script);
        self.output.raw(&script)
    }

    /// Asks one thing and prints all that comes.
    async fn ask(&mut self, need: Need, request: Request) -> Result<(), Failure> {
        let link = self.link(need).await?;
        let result = self.print_all(link.service.call(request)).await;
        link.close(self.stop).await;
        result
    }

    async fn print_all(&mut self, mut events: EventStream) -> Result<(), Failure> {
        let mut differs = None;
        while let Some(event) = self.next(&mut events, "").await? {
            if let Event::Verified { path, bad_bytes, .. } = &event
                && *bad_bytes > 0
            {
                let message = format!(
                    "{path} differs in {bad_bytes} bytes: `bitshoal get CID -o {path} --into-existing` repairs it"
                );
                differs = Some(Failure::new("differs", message));
            }
            self.show(event)?;
        }
        differs.map_or(Ok(()), Err)
    }

    /// Follows a pull to its end, which is success only when the file is there.
    async fn follow(&mut self, link: &Link, request: Request) -> Result<(), Failure> {
        let mut events = link.service.call(request);
        let mut last: Option<JobStatus> = None;
        let mut consequence = String::new();
        while let Some(event) = self.next(&mut events, &consequence).await? {
            let job = match event {
                Event::Job(job) => job,
                file @ Event::File { .. } => {
                    self.show(file)?;
                    continue;
                }
                _ => continue,
            };
            consequence = if link.is_daemon() {
                format!(": the daemon goes on with it; `bitshoal jobs cancel {}` ends it", job.id)
            } else {
                ": the same command continues where it was".to_owned()
            };
            self.output.job(Instant::now(), &job);
            last = Some(job);
        }
        let Some(job) = last else { return Err(Failure::new("bug", "the node says nothing of the pull")) };
        self.output.clear();
        let because = |message: &Option<String>| message.as_ref().map(|text| format!(": {text}")).unwrap_or_default();
        match job.state {
            JobState::Done => {
                let line = text::printable(&format!("{} {}", job.cid, job.output));
                self.output.result(&Event::Job(job.clone()), &line)?;
                self.output.note(&summary(&job));
                if let Some(message) = &job.message {
                    self.output.warning(&text::printable(message));
                }
                Ok(())
            }
            JobState::Failed => {
                let message = job.message.clone().unwrap_or_else(|| format!("the pull of {} has failed", job.cid));
                Err(Failure::new("failed", message))
            }
            JobState::Cancelled => Err(Failure::new(
                "cancelled",
                format!("the pull of {} was cancelled{}", job.cid, because(&job.message)),
            )),
            JobState::Paused => {
                Err(Failure::new("paused", format!("the pull of {} is paused{}", job.cid, because(&job.message))))
            }
            JobState::Resolving | JobState::Planning | JobState::Fetching => {
                Err(Failure::new("unfinished", format!("the node has ended before the pull of {} has", job.cid)))
            }
        }
    }

    /// The next event, with the progress drawn meanwhile; a wish to end is an error that tells the `consequence`.
    async fn next(&mut self, events: &mut EventStream, consequence: &str) -> Result<Option<Event>, Failure> {
        loop {
            tokio::select! {
                biased;
                () = self.stop.next() => return Err(interrupted(consequence)),
                event = events.next() => return event.transpose(),
                () = tokio::time::sleep(TICK) => self.output.tick(Instant::now()),
            }
        }
    }

    /// Prints an event, or draws it when it is progress.
    fn show(&mut self, event: Event) -> Result<(), Failure> {
        let line = match &event {
            Event::Progress { path, done, total, files } => {
                self.output.bytes(Instant::now(), path, *done, *total, *files);
                return Ok(());
            }
            Event::Added { cid, path, .. } if path.0.as_os_str().is_empty() => cid.clone(),
            Event::Added { cid, path, .. } => format!("{cid} {path}"),
            Event::Job(job) => job_line(job),
            Event::File { cid, path, .. } => format!("{cid} {path}"),
            Event::Pinned { cid, blocks, bytes } => {
                format!("pinned {cid}: {}, {}", text::count(*blocks, "block"), text::bytes(*bytes))
            }
            Event::Root(root) => root_line(root),
            Event::Entry(entry) => entry_line(entry),
            // Lines of our own making, which printable() would take for an attack; so below.
            Event::Memory(info) => return self.output.result(&event, &memory_lines(info)),
            Event::Removed { cid, path } => format!("forgot {cid} {path}"),
            Event::Bad { path, offset, length } => {
                let path = path.as_ref().map(|path| format!(" of {path}")).unwrap_or_default();
                format!("differs: bytes {offset} to {}{path}", offset.saturating_add(*length))
            }
            Event::Verified { cid, path, bytes, bad_bytes } => {
                let verdict = if *bad_bytes == 0 { "ok".to_owned() } else { format!("{bad_bytes} bytes differ") };
                format!("{cid} {path}: {verdict}, {} checked", text::bytes(*bytes))
            }
            Event::Identity { peer_id, addresses, agent, swarm, repo } => {
                let swarm =
                    swarm.as_ref().map_or_else(|| "public".to_owned(), |print| format!("private, fingerprint {print}"));
                let mut line = format!("peer     {peer_id}\nagent    {agent}\nswarm    {swarm}\nrepo     {repo}");
                for address in addresses {
                    let _ = write!(line, "\naddress  {address}");
                }
                return self.output.result(&event, &line);
            }
            Event::Peer(peer) => peer_line(peer),
            Event::Connected { peer_id } => format!("connected {peer_id}"),
            Event::Limits { up, down } => {
                let shown = |bytes: &u64| if *bytes == 0 { "no limit".into() } else { ByteRate(*bytes).to_string() };
                format!("up {}, down {}", shown(up), shown(down))
            }
            Event::Healthy => "ok".to_owned(),
        };
        self.output.result(&event, &text::printable(&line))
    }

    async fn link(&mut self, need: Need) -> Result<Link, Failure> {
        let repo = self.repo()?;
        Link::open(self.host, &repo, need, self.stop).await
    }

    fn repo(&self) -> Result<Repo, Failure> {
        Ok(Repo::open(&self.repo_dir()?)?)
    }

    fn repo_dir(&self) -> Result<PathBuf, Failure> {
        Ok(Repo::locate(self.global.repo.as_deref(), std::env::var_os(PATH_VARIABLE).as_deref())?)
    }
}

/// The text of a CID, once it is known to be one.
fn checked(cid: String) -> Result<String, Failure> {
    match IpfsPath::parse(&cid) {
        Ok(_) => Ok(cid),
        Err(error) => {
            Err(Failure::new("not-a-cid", format!("{error}; `bitshoal add` prints CIDs, and so does `ipfs add`")))
        }
    }
}

/// What a pull's file or folder is called when nothing else is said: as the entry that the path leads to, else by the CID.
fn name_of(cid: &str) -> String {
    let Ok(path) = IpfsPath::parse(cid) else { return cid.to_owned() };
    let last = path.names.last().and_then(|name| Rules::native().component(name).ok());
    last.and_then(|name| String::from_utf8(name.as_bytes().to_vec()).ok()).unwrap_or_else(|| path.root.to_string())
}

fn absolute_all(paths: &[PathBuf]) -> Result<Vec<WirePath>, Failure> {
    paths.iter().map(|path| absolute(path)).collect()
}

/// The daemon has another current folder, so paths are made absolute here.
fn absolute(path: &Path) -> Result<WirePath, Failure> {
    std::path::absolute(path)
        .map(WirePath)
        .map_err(|error| Failure::new("bad-path", format!("cannot resolve the path {:?}: {error}", path.display())))
}

/// Reads a swarm key's file, which has to be one; what is wrong is told without a part of it.
fn read_swarm_key(path: &Path) -> Result<Vec<u8>, Failure> {
    let shown = path.display();
    let key =
        std::fs::read(path).map_err(|error| Failure::new("swarm-key", format!("cannot read {shown}: {error}")))?;
    daemon::check_swarm_key(&key).map_err(|reason| {
        Failure::new("swarm-key", format!("{shown} is not a swarm key: {reason}. `bitshoal key gen` makes one"))
    })?;
    Ok(key)
}

fn job_line(job: &JobStatus) -> String {
    let state = match job.state {
        JobState::Resolving => "resolving",
        JobState::Planning => "planning",
        JobState::Fetching => "fetching",
        JobState::Done => "done",
        JobState::Paused => "paused",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    };
    let percent = text::percent(job.done_bytes, job.total_bytes);
    let message = job.message.as_ref().map(|message| format!("  ({message})")).unwrap_or_default();
    format!("{:>4}  {state:<9}  {percent:>7}  {} {}{message}", job.id, job.cid, job.output)
}

fn root_line(root: &RootInfo) -> String {
    let state = if root.complete { "complete".to_owned() } else { text::percent(root.present_bytes, root.size) };
    let problem = root.problem.as_ref().map(|problem| format!("  ({problem})")).unwrap_or_default();
    let files = root.files.map(|files| format!("  ({})", text::count(files, counted(root)))).unwrap_or_default();
    format!("{}  {:>10}  {state:>8}  {}{files}{problem}", root.cid, text::bytes(root.size), root.path)
}

fn memory_lines(info: &MemoryInfo) -> String {
    let told = |bytes: Option<u64>| bytes.map_or_else(|| "not told by this system".to_owned(), text::bytes);
    let mut lines = vec![
        format!("heap                    {}", told(info.anonymous_bytes)),
        format!("  idle buffers          {}", text::bytes(info.idle_buffer_bytes)),
        format!("mapped and resident     {}", told(info.mapped_bytes)),
        format!("  windows, at most      {}", text::bytes(info.windows_bytes)),
        format!("page cache of the index {}", told(info.index.cached_bytes)),
    ];
    let files = info.files.iter().map(|file| file.cached_bytes);
    let (known, unknown): (Vec<_>, Vec<_>) = files.partition(Option::is_some);
    lines.push(format!("page cache of files     {}", text::bytes(known.into_iter().flatten().sum())));
    if !unknown.is_empty() {
        // Of files that are someone else's nobody but their owner learns it, so that nothing of them is dropped, either.
        let count = text::count(unknown.len() as u64, "file");
        lines.push(format!("  and of {count} that this system does not tell of; their pages are left to the system"));
    }
    for file in &info.files {
        let (cached, size) = (told(file.cached_bytes), text::bytes(file.size));
        lines.push(format!("  {}  {cached} of {size}", text::printable(&file.path.to_string())));
    }
    lines.push(format!("budget (cache_bytes)    {}", text::bytes(info.cache_bytes)));
    if let Some(limit) = info.limit_bytes {
        lines.push(format!("limit of the system     {}", text::bytes(limit)));
    }
    lines.join("\n")
}

fn entry_line(entry: &EntryInfo) -> String {
    let size = entry.size.map_or_else(|| "-".to_owned(), text::bytes);
    let slash = if entry.kind == Some(EntryKind::Directory) { "/" } else { "" };
    format!("{}  {size:>10}  {}{slash}", entry.cid, entry.name)
}

/// What a collection is of.
fn counted(root: &RootInfo) -> &'static str {
    if root.path.0.as_os_str().is_empty() { "part" } else { "file" }
}

fn root_details(root: &RootInfo) -> String {
    let present = text::percent(root.present_bytes, root.size);
    let mut lines = format!("cid      {}\npath     {}\n", root.cid, text::printable(&root.path.to_string()));
    let _ = write!(lines, "size     {} bytes ({})\npresent  {present}\n", root.size, text::bytes(root.size),);
    let _ = match root.files {
        None => write!(lines, "leaves   {}", root.leaves),
        Some(files) => write!(lines, "files    {files}"),
    };
    if let Some(problem) = &root.problem {
        let _ = write!(lines, "\nproblem  {}", text::printable(problem));
    }
    lines
}

fn peer_line(peer: &PeerInfo) -> String {
    let agent = peer.agent.as_deref().unwrap_or("-");
    let (received, sent) = (text::bytes(peer.received_bytes), text::bytes(peer.sent_bytes));
    format!("{}  {}  {agent}  received {received}, sent {sent}", peer.peer_id, peer.address)
}

fn summary(job: &JobStatus) -> String {
    let pulled = job.total_bytes.saturating_sub(job.local_bytes);
    let mut line = format!("{} in {:.1} s", text::bytes(job.total_bytes), job.elapsed_seconds);
    if job.total_files > 0 {
        line = format!("{}, {line}", text::count(job.total_files, "file"));
    }
    if job.elapsed_seconds > 0.0 {
        let _ = write!(line, " ({})", text::rate(pulled as f64 / job.elapsed_seconds));
    }
    let _ = write!(line, " from {}", text::count(job.sources.len() as u64, "peer"));
    if job.local_bytes > 0 {
        let _ = write!(line, ", {} of it from this machine", text::bytes(job.local_bytes));
    }
    if job.duplicate_blocks > 0 {
        let _ = write!(line, ", {}", text::count(job.duplicate_blocks, "duplicate block"));
    }
    line
}
