//! What can be typed: the commands and their flags, as clap sees them. No behaviour.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use libp2p::Multiaddr;

use crate::config::{ByteRate, ByteSize};
use crate::transfer::api::{AddOptions, Failure};

/// Distributes very large files to many machines, in private swarms, in place on every disk.
#[derive(Debug, Parser)]
#[command(name = "bitshoal", version, max_term_width = 110, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that stand before or after the command.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// The repo: settings, keys, index [default: $BITSHOAL_PATH, else the platform's data folder]
    #[arg(long, value_name = "DIR", global = true, help_heading = "Global options")]
    pub repo: Option<PathBuf>,
    /// Print results as JSON, one object a line
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// No progress and no notes on stderr, only errors
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// What to log to stderr: error, warn, info, debug, trace, or directives as in RUST_LOG
    #[arg(long, value_name = "LEVEL", global = true, help_heading = "Global options")]
    pub log: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show it all on this machine: a private swarm of separate processes, a generated file, the figures
    Demo(DemoArgs),
    /// Make a repo: settings, identity, swarm key
    Init(InitArgs),
    /// Swarm keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Run the node until SIGINT or SIGTERM
    Daemon(DaemonArgs),
    /// Import files and folders in place and print their CIDs; nothing is copied
    Add(AddArgs),
    /// Pull a file or a folder by its CID; run again, it continues
    Get(GetArgs),
    /// Pull every block of a DAG of any codec into the index, and serve it; for what is no file
    Pin(PinArgs),
    /// Print a file, or a part of it, without keeping it; what is needed is pulled first
    Cat(CatArgs),
    /// Add, serve, and print the command that gets it on another machine
    Share(ShareArgs),
    /// List what the index holds, or the entries of a directory
    Ls(LsArgs),
    /// Show one root, or with --memory what the node takes of the machine's memory
    Stat(StatArgs),
    /// Forget a root; its files stay
    Rm(RmArgs),
    /// Hash finished files again and say what differs
    Verify(CidArgs),
    /// List pulls, or pause, resume, cancel or watch one
    Jobs(JobsArgs),
    /// Show this node's peer id and addresses
    Id,
    /// List connected peers
    Peers,
    /// Connect to a peer
    Connect(ConnectArgs),
    /// Show what the daemon may send and receive a second, or change it until it ends
    Limit(LimitArgs),
    /// Whether the daemon of the repo answers
    Health,
    /// The daemon as a service of Windows
    Service(ServiceArgs),
    /// Print the version
    Version,
    /// Settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
}

/// Flags of `demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Size of the generated file
    #[arg(long, default_value = "1GiB")]
    pub size: ByteSize,
    /// How many readers pull at once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub readers: u32,
    /// Where to make the temporary folder [default: the system's]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Show the memory of each process and the system's cache before, while and after, too
    #[arg(long)]
    pub memory: bool,
    /// Keep the folder, and say where it is
    #[arg(long)]
    pub keep: bool,
}

/// Flags of `init`.
#[derive(Debug, Clone, Default, Args)]
pub struct InitArgs {
    /// Join the private swarm of this key
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_swarm_key", "public"])]
    pub swarm_key: Option<PathBuf>,
    /// Start a new private swarm (the default)
    #[arg(long, conflicts_with = "public")]
    pub new_swarm_key: bool,
    /// Join the open network: any peer may then fetch any block that the index lists
    #[arg(long)]
    pub public: bool,
    /// Succeed and change nothing when there is a repo already
    #[arg(long)]
    pub if_missing: bool,
}

/// Swarm keys.
#[derive(Debug, Clone, Subcommand)]
pub enum KeyCommand {
    /// Print a new swarm key; `init --swarm-key` takes it
    Gen,
}

/// Flags of `daemon`.
#[derive(Debug, Clone, Args)]
pub struct DaemonArgs {
    /// Listen here instead of at the configured addresses; port 0 takes a free one
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<Multiaddr>,
    /// Stay connected with this peer too, as if it stood under `peers` in node.toml
    #[arg(long, value_name = "MULTIADDR")]
    pub peer: Vec<Multiaddr>,
    /// Make the repo first if there is none, as `init` would: for containers
    #[arg(long)]
    pub init: bool,
    /// With --init: join the private swarm of this key
    #[arg(long, value_name = "FILE", requires = "init")]
    pub swarm_key: Option<PathBuf>,
    /// The most that is sent to all peers together: 50Mbit, 6MiB/s [default: `up` in node.toml]
    #[arg(long, value_name = "RATE")]
    pub up: Option<ByteRate>,
    /// The most that is received from all peers together [default: `down` in node.toml]
    #[arg(long, value_name = "RATE")]
    pub down: Option<ByteRate>,
}

/// Flags of `limit`.
#[derive(Debug, Clone, Copy, Args)]
pub struct LimitArgs {
    /// The most that is sent to all peers together: 50Mbit, 6MiB/s, 0 for no limit
    #[arg(long, value_name = "RATE")]
    pub up: Option<ByteRate>,
    /// The most that is received from all peers together
    #[arg(long, value_name = "RATE")]
    pub down: Option<ByteRate>,
}

/// Flags of `add`.
#[derive(Debug, Clone, Args)]
pub struct AddArgs {
    /// Files, folders with all that is in them, and symbolic links (as such)
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// How the DAG is built.
    #[command(flatten)]
    pub options: ImportArgs,
    /// Print the CID and keep nothing
    #[arg(long, short = 'n')]
    pub only_hash: bool,
}

/// How the DAG of an import is built, under the names of `ipfs add`. What is not said comes from the profile.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Import options, as of ipfs add")]
pub struct ImportArgs {
    /// Accepted for those who are used to it: folders are always imported with all that is in them
    #[arg(long, short, hide = true)]
    pub recursive: bool,
    /// A set of all of these [default: unixfs-v1-2025]
    #[arg(long, value_parser = ["unixfs-v1-2025", "unixfs-v0-2015"])]
    pub profile: Option<String>,
    /// 0 or 1; without --profile the rest is then as Kubo has it (256 KiB chunks, 174 links)
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub cid_version: Option<u8>,
    /// Leaves are the file's plain bytes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub raw_leaves: Option<bool>,
    /// Where files are cut: size-N, rabin, rabin-AVG, rabin-MIN-AVG-MAX, buzhash; numbers in bytes
    #[arg(long, value_name = "CHUNKER")]
    pub chunker: Option<String>,
    /// Most links in an inner node of a file
    #[arg(long, value_name = "N")]
    pub max_file_links: Option<usize>,
    /// Most links in a directory before it is sharded; 0 leaves that to its size
    #[arg(long, value_name = "N")]
    pub max_directory_links: Option<usize>,
    /// Most links in a node of a sharded directory: 8, 16, …, 1024
    #[arg(long, value_name = "N")]
    pub max_hamt_fanout: Option<usize>,
    /// Trickle trees, for files that are read from the beginning
    #[arg(long)]
    pub trickle: bool,
    /// Put small blocks into their CIDs
    #[arg(long)]
    pub inline: bool,
    /// The largest block to inline, in bytes [default: 32]
    #[arg(long, value_name = "N")]
    pub inline_limit: Option<usize>,
    /// sha2-256, blake3, blake2b-256 and others
    #[arg(long, value_name = "NAME")]
    pub hash: Option<String>,
    /// One directory around all paths, so that their names are kept
    #[arg(long, short)]
    pub wrap_with_directory: bool,
    /// Import hidden files in folders, too
    #[arg(long, short = 'H')]
    pub hidden: bool,
    /// Leave this out of folders, as a line of .gitignore would
    #[arg(long, value_name = "RULE")]
    pub ignore: Vec<String>,
    /// Leave out of folders what this file says, written like .gitignore
    #[arg(long, value_name = "FILE")]
    pub ignore_rules_path: Option<PathBuf>,
    /// Keep permissions in the DAG
    #[arg(long)]
    pub preserve_mode: bool,
    /// Keep the times of change in the DAG
    #[arg(long)]
    pub preserve_mtime: bool,
    /// Give everything these permissions, in octal
    #[arg(long, value_name = "MODE", value_parser = octal, conflicts_with = "preserve_mode")]
    pub mode: Option<u32>,
    /// Give everything this time of change, in seconds since 1970
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true, conflicts_with = "preserve_mtime")]
    pub mtime: Option<i64>,
    /// Nanoseconds of --mtime
    #[arg(long, value_name = "N", requires = "mtime", value_parser = clap::value_parser!(u32).range(0..1_000_000_000))]
    pub mtime_nsecs: Option<u32>,
}

impl ImportArgs {
    /// As a request has them; reads the file of rules.
    ///
    /// # Errors
    /// `bad-option` when there is no such file.
    pub fn options(self, only_hash: bool) -> Result<AddOptions, Failure> {
        let mut ignore = Vec::new();
        if let Some(path) = &self.ignore_rules_path {
            let rules = std::fs::read_to_string(path)
                .map_err(|e| Failure::new("bad-option", format!("--ignore-rules-path {}: {e}", path.display())))?;
            ignore.extend(rules.trim_start_matches('\u{feff}').lines().map(str::to_owned));
        }
        ignore.extend(self.ignore);
        Ok(AddOptions {
            profile: self.profile,
            cid_version: self.cid_version,
            raw_leaves: self.raw_leaves,
            chunker: self.chunker,
            max_file_links: self.max_file_links,
            max_directory_links: self.max_directory_links,
            max_hamt_fanout: self.max_hamt_fanout,
            trickle: self.trickle,
            inline: self.inline,
            inline_limit: self.inline_limit,
            hash: self.hash,
            wrap_with_directory: self.wrap_with_directory,
            hidden: self.hidden,
            ignore,
            preserve_mode: self.preserve_mode,
            preserve_mtime: self.preserve_mtime,
            mode: self.mode,
            mtime: self.mtime,
            mtime_nsecs: self.mtime_nsecs,
            only_hash,
        })
    }
}

/// Flags of `get`.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// What to pull: CID, or CID/path/in/it
    pub cid: String,
    /// Where to [default: the last name of the path, else ./CID]; into it when it is a folder that is there, unless --into-existing
    #[arg(long, short, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Connect to this peer for it, with /p2p/ID
    #[arg(long, value_name = "MULTIADDR")]
    pub peer: Vec<Multiaddr>,
    /// Leave the pull to the daemon and return at once
    #[arg(long)]
    pub detach: bool,
    /// Keep what is right in the file that is already at PATH, and pull the rest
    #[arg(long)]
    pub into_existing: bool,
    /// Of a folder, pull only what matches, such as `docs/**` or `**/*.bin`
    #[arg(long, value_name = "GLOB")]
    pub select: Vec<String>,
    /// Do not restore permissions and times of last change
    #[arg(long)]
    pub no_preserve: bool,
    /// Go on serving when done, until Ctrl-C (a daemon does so anyway)
    #[arg(long, conflicts_with = "detach")]
    pub seed: bool,
    /// Give up when nothing has arrived for so long: 90, 90s, 15m, 2h [default: wait]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Without a daemon, listen here instead of at the configured addresses
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<Multiaddr>,
}

/// Flags of `pin`.
#[derive(Debug, Clone, Args)]
pub struct PinArgs {
    /// The root: CID, or CID/path/in/it through folders of files
    pub cid: String,
    /// Connect to this peer for it, with /p2p/ID
    #[arg(long, value_name = "MULTIADDR")]
    pub peer: Vec<Multiaddr>,
    /// Give up when nothing has arrived for so long: 90, 90s, 15m, 2h [default: wait]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Without a daemon, listen here instead of at the configured addresses
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<Multiaddr>,
}

/// Flags of `ls`.
#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// A directory: CID, or CID/path/in/it. Each entry's CID, size with all that is below it, and name, which ends with
    /// a slash if it is known here to be a directory. Only the directory itself is pulled, and not kept
    pub cid: Option<String>,
    /// Connect to this peer for it, with /p2p/ID
    #[arg(long, value_name = "MULTIADDR", requires = "cid")]
    pub peer: Vec<Multiaddr>,
    /// Give up when nothing has arrived for so long: 90, 90s, 15m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s", requires = "cid")]
    pub timeout: Duration,
    /// Without a daemon, listen here instead of at the configured addresses
    #[arg(long, value_name = "MULTIADDR", requires = "cid")]
    pub listen: Vec<Multiaddr>,
}

/// Flags of `cat`.
#[derive(Debug, Clone, Args)]
pub struct CatArgs {
    /// What to print: CID, or CID/path/in/it
    pub cid: String,
    /// First byte
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub offset: u64,
    /// How many bytes at most [default: to the end]
    #[arg(long, value_name = "N")]
    pub length: Option<u64>,
    /// Connect to this peer for it, with /p2p/ID
    #[arg(long, value_name = "MULTIADDR")]
    pub peer: Vec<Multiaddr>,
    /// Give up when nothing has arrived for so long: 90, 90s, 15m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    pub timeout: Duration,
    /// Without a daemon, listen here instead of at the configured addresses
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<Multiaddr>,
}

/// Flags of `share`.
#[derive(Debug, Clone, Args)]
pub struct ShareArgs {
    /// Files, folders with all that is in them, and symbolic links (as such)
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// How the DAG is built.
    #[command(flatten)]
    pub options: ImportArgs,
    /// Without a daemon, listen here instead of at the configured addresses
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<Multiaddr>,
}

/// One root.
#[derive(Debug, Clone, Args)]
pub struct CidArgs {
    /// The root
    pub cid: String,
}

/// Flags of `stat`.
#[derive(Debug, Clone, Args)]
pub struct StatArgs {
    /// The root
    #[arg(required_unless_present = "memory")]
    pub cid: Option<String>,
    /// Show each share of the memory that the node takes, the page cache of its files included
    #[arg(long, conflicts_with = "cid")]
    pub memory: bool,
}

/// Flags of `rm`.
#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// The root
    pub cid: String,
    /// Delete the .part of an unfinished pull; a complete file is never deleted
    #[arg(long)]
    pub delete_partial: bool,
}

/// Flags of `jobs`.
#[derive(Debug, Clone, Args)]
pub struct JobsArgs {
    /// What to do with one of them.
    #[command(subcommand)]
    pub command: Option<JobCommand>,
}

/// What to do with one pull.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum JobCommand {
    /// Stop it for now
    Pause(JobArgs),
    /// Go on with it
    Resume(JobArgs),
    /// Give it up; what has arrived stays in the .part
    Cancel(JobArgs),
    /// Follow it until it ends
    Watch(JobArgs),
}

/// One pull.
#[derive(Debug, Clone, Copy, Args)]
pub struct JobArgs {
    /// Its number in `bitshoal jobs`
    pub id: u64,
}

/// Flags of `connect`.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// Its address
    #[arg(value_name = "MULTIADDR")]
    pub addr: Multiaddr,
}

/// Flags of `service`.
#[derive(Debug, Clone, Args)]
pub struct ServiceArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ServiceCommand,
    /// The service's name, for machines with several
    #[arg(long, value_name = "NAME", default_value = "Bitshoal", global = true)]
    pub name: String,
}

/// What to do with the service.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ServiceCommand {
    /// Have Windows start the daemon of this repo with the system (as an administrator)
    Install,
    /// Stop it and take it away (as an administrator); the repo stays
    Uninstall,
    /// What Windows starts
    Run,
}

/// Settings.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Print all settings that are in force
    Show,
}

/// Flags of `completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: clap_complete::Shell,
}

/// Seconds, or a number with `s`, `m` or `h`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, scale) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale)).filter(|&n| n > 0);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is not a time; write for example 90, 90s, 15m or 2h"))
}

/// Permissions as `chmod` takes them.
fn octal(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777 && !digits.starts_with('+'));
    mode.ok_or_else(|| format!("{text:?} is no mode; write for example 0644"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("bitshoal").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after() {
        for line in
            ["--repo /r --json ls", "ls --repo /r --json", "jobs pause 3 --repo /r --json", "--repo /r jobs --json"]
        {
            let cli = parse(line).unwrap();
            assert_eq!(cli.global.repo.as_deref(), Some(std::path::Path::new("/r")), "{line}");
            assert!(cli.global.json, "{line}");
        }
    }

    #[test]
    fn raw_leaves_is_a_flag_with_an_optional_value() {
        for (line, expected) in [
            ("add f", None),
            ("add --raw-leaves f", Some(true)),
            ("add --raw-leaves=false f --cid-version 0", Some(false)),
        ] {
            let Command::Add(args) = parse(line).unwrap().command else { panic!("{line}") };
            assert_eq!(args.options.raw_leaves, expected, "{line}");
            assert_eq!(args.paths, [PathBuf::from("f")]);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "add",
            "add --cid-version 2 f",
            "add --profile mine f",
            "add --mode 888 f",
            "add --mode 644 --preserve-mode f",
            "add --mtime-nsecs 5 f",
            "init --public --new-swarm-key",
            "init --swarm-key f --public",
            "daemon --listen nonsense",
            "get --detach --seed c",
            "get c --timeout 0",
            "get c --timeout soon",
            "jobs pause",
            "stat",
            "stat c --memory",
            "ls --timeout 5s",
            "demo --size big",
            "demo --readers 0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_table_of_commands_is_understood() {
        for line in [
            "demo --size 256MiB --readers 3 --dir /d --memory --keep",
            "init",
            "key gen",
            "daemon --listen /ip4/127.0.0.1/tcp/0 --listen /ip6/::1/tcp/0",
            "add a b --chunker size-1024 --profile unixfs-v0-2015 --only-hash",
            "add -r -w -H -n d --ignore *.tmp --ignore !keep.tmp --ignore-rules-path .gitignore",
            "add d --trickle --inline --inline-limit 64 --hash blake3 --preserve-mode --preserve-mtime",
            "add d --max-directory-links 0 --max-hamt-fanout 128 --mode 0644 --mtime -1 --mtime-nsecs 5",
            "get c -o p --peer /ip4/127.0.0.1/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp --detach",
            "get c --timeout 15m --into-existing",
            "share a",
            "pin c --timeout 5s",
            "ls",
            "ls c/a --timeout 5s",
            "cat c/a/b --offset 5 --length 10",
            "stat c",
            "stat --memory",
            "rm c --delete-partial",
            "verify c",
            "jobs",
            "jobs resume 1",
            "jobs cancel 1",
            "jobs watch 1",
            "id",
            "peers",
            "connect /dns4/host/tcp/4001",
            "health --quiet --log debug",
            "service install --name Second --repo /r",
            "service uninstall",
            "service run",
            "version",
            "config show",
            "completions bash",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }
}
