//! Our side: a repo and its daemon, set up for one kind of connection.

use std::path::Path;

use crate::content::Recipe;
use crate::peers::Link;
use crate::support::{Daemon, Repo};

/// After how long without a byte a pull has failed.
const QUIET_MAX: &str = "60s";

/// What connections are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// TCP with whichever security the other side likes.
    Tcp,
    Tls,
    Noise,
    Quic,
    Private,
    PrivateQuic,
}

impl Wire {
    /// Those of the matrix.
    pub(crate) const ALL: [Self; 5] = [Self::Tls, Self::Noise, Self::Quic, Self::Private, Self::PrivateQuic];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Tls => "TCP+TLS",
            Self::Noise => "TCP+Noise",
            Self::Quic => "QUIC",
            Self::Private => "private",
            Self::PrivateQuic => "private QUIC",
        }
    }
}

/// A running node of ours.
pub(crate) struct Ours {
    pub(crate) repo: Repo,
    pub(crate) daemon: Daemon,
    wire: Wire,
}

impl Ours {
    /// A node that offers this kind of connection only.
    pub(crate) fn start(folder: &Path, name: &str, wire: Wire) -> Self {
        let repo = match wire {
            Wire::Private | Wire::PrivateQuic => Repo::new(folder, name),
            Wire::Tcp | Wire::Tls | Wire::Noise | Wire::Quic => Repo::init(folder, name, &["--public"]),
        };
        let setting = match wire {
            Wire::Tls => "security = \"tls\"",
            Wire::Noise => "security = \"noise\"",
            Wire::Tcp | Wire::Quic | Wire::Private | Wire::PrivateQuic => "",
        };
        let file = repo.path.join("node.toml");
        let settings = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{setting}\n{settings}")).unwrap();
        let listen = match wire {
            Wire::Quic | Wire::PrivateQuic => "/ip4/127.0.0.1/udp/0/quic-v1",
            Wire::Tcp | Wire::Tls | Wire::Noise | Wire::Private => "/ip4/127.0.0.1/tcp/0",
        };
        let daemon = repo.daemon_at(listen, &[]);
        Self { repo, daemon, wire }
    }

    /// What a far side has to be told to speak with it.
    pub(crate) fn link(&self) -> Link {
        let key = self.repo.path.join("swarm.key");
        match self.wire {
            Wire::Tcp => Link::default(),
            Wire::Tls => Link { security: Some("tls"), ..Link::default() },
            Wire::Noise => Link { security: Some("noise"), ..Link::default() },
            Wire::Quic => Link { transport: Some("quic"), ..Link::default() },
            Wire::Private => Link { swarm_key: Some(key), ..Link::default() },
            Wire::PrivateQuic => Link { transport: Some("quic"), swarm_key: Some(key), ..Link::default() },
        }
    }

    /// Imports a path and returns its CID.
    pub(crate) fn add(&self, path: &Path, recipe: Recipe) -> String {
        let flags = recipe.ours();
        let mut arguments = vec!["add"];
        arguments.extend(flags.iter().map(String::as_str));
        arguments.push(path.to_str().unwrap());
        self.repo.ask(&arguments).last().unwrap()["cid"].as_str().unwrap().to_owned()
    }

    /// Pulls from a peer.
    pub(crate) fn get(&self, cid: &str, to: &Path, from: &str) {
        self.repo.ask(&["get", cid, "-o", to.to_str().unwrap(), "--peer", from, "--timeout", QUIET_MAX]);
    }
}
