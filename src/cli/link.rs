//! Whom a command talks to: the daemon of the repo if it lives, else a node that this process opens itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::config::Config;
use crate::daemon::{Host, Mode, Running};
use crate::repo::Repo;
use crate::rpc::Service;
use crate::rpc::client::Client;
use crate::stop::Stop;
use crate::transfer::api::Failure;

/// How long a command waits for whoever holds the repo, who may be a daemon that does not answer yet.
const STARTING_PATIENCE: Duration = Duration::from_secs(5);

/// How often it looks.
const STARTING_POLL: Duration = Duration::from_millis(50);

/// What a command needs when no daemon runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Need {
    /// Only a daemon can do it.
    Daemon,
    /// The index and the files.
    Offline,
    /// A node of its own, at these addresses or the configured ones. With `any_port` it matters little which: where a
    /// configured port is taken, any free one will do.
    Online {
        /// What `--listen` says; empty for the configured addresses.
        listen: Vec<Multiaddr>,
        /// Whether other ports do.
        any_port: bool,
    },
}

/// A service, and what has to be closed after it.
pub(super) struct Link {
    pub(super) service: Arc<dyn Service>,
    local: Option<Running>,
}

impl Link {
    /// Finds or opens what `need` asks for.
    pub(super) async fn open(host: &dyn Host, repo: &Repo, need: Need, stop: &mut Stop) -> Result<Self, Failure> {
        tokio::select! {
            biased;
            () = stop.next() => Err(interrupted("")),
            opened = Self::find(host, repo, need) => opened,
        }
    }

    async fn find(host: &dyn Host, repo: &Repo, need: Need) -> Result<Self, Failure> {
        let until = Instant::now() + STARTING_PATIENCE;
        loop {
            if let Some(daemon) = daemon_of(repo).await? {
                return Ok(Self { service: Arc::new(daemon), local: None });
            }
            if need == Need::Daemon {
                let message =
                    format!("no daemon runs in {0}: start one with `bitshoal --repo {0} daemon`", repo.dir().display());
                return Err(Failure::new("no-daemon", message));
            }
            match open_local(host, repo, &repo.config()?, need.clone()).await {
                Err(failure) if failure.code == "repo-in-use" && Instant::now() < until => {
                    tokio::time::sleep(STARTING_POLL).await;
                }
                opened => return opened.map(|node| Self { service: node.service.clone(), local: Some(node) }),
            }
        }
    }

    /// Whether a daemon is at the other end.
    pub(super) const fn is_daemon(&self) -> bool {
        self.local.is_none()
    }

    /// Stops what was opened.
    pub(super) async fn close(self, stop: &mut Stop) {
        drop(self.service);
        if let Some(running) = self.local {
            running.stop(stop).await;
        }
    }
}

/// The daemon of this repo, if it lives.
async fn daemon_of(repo: &Repo) -> Result<Option<Client>, Failure> {
    match repo.endpoint()? {
        Some(endpoint) => Client::find(endpoint).await,
        None => Ok(None),
    }
}

async fn open_local(host: &dyn Host, repo: &Repo, config: &Config, need: Need) -> Result<Running, Failure> {
    let Need::Online { listen, any_port } = need else { return host.open(repo, config, Mode::Offline).await };
    let any_port = any_port && listen.is_empty();
    let listen = (!listen.is_empty()).then_some(listen);
    match host.open(repo, config, Mode::Online { listen }).await {
        Err(failure) if any_port && failure.code == "port-taken" => {
            let listen = config.listen.iter().map(with_any_port).collect();
            host.open(repo, config, Mode::Online { listen: Some(listen) }).await
        }
        opened => opened,
    }
}

fn with_any_port(address: &Multiaddr) -> Multiaddr {
    let free = |part| match part {
        Protocol::Tcp(_) => Protocol::Tcp(0),
        Protocol::Udp(_) => Protocol::Udp(0),
        other => other,
    };
    address.iter().map(free).collect()
}

/// That the user has ended a command, and what becomes of its work.
pub(super) fn interrupted(consequence: &str) -> Failure {
    Failure::new("interrupted", format!("interrupted{consequence}"))
}
