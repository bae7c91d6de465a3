//! The settings of a repo: what `node.toml` says, over the defaults.
//!
//! Owns the names, the defaults and the bounds of every setting, and the text of a fresh `node.toml` (the file
//! `configs/node.toml`; a test keeps both the same). Plain values only: the daemon makes each layer's own `Options` from
//! them, and no layer below reads this. A `Config` that exists is within its bounds: they are checked while parsing, so
//! that an error can name the line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use libp2p::Multiaddr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::budget::BUDGET_BYTES_MIN;

/// Everything that `node.toml` can set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Private or open.
    pub swarm: Swarm,
    /// The swarm key's file, relative to the repo.
    pub swarm_key_file: PathBuf,
    /// Addresses to listen at.
    pub listen: Vec<Multiaddr>,
    /// Addresses to tell others instead of the interfaces' own.
    pub announce: Vec<Multiaddr>,
    /// Peers to stay connected with.
    pub peers: Vec<Multiaddr>,
    /// Whether members of a private swarm tell each other whom they know.
    pub meet: bool,
    /// Encryptions offered on TCP.
    pub security: Security,
    /// QUIC in an open swarm.
    pub quic: bool,
    /// Most connections at a time.
    #[serde(deserialize_with = "connections")]
    pub connections_max: u32,
    /// Bytes a second to all peers together; 0 for no limit.
    pub up: ByteRate,
    /// Bytes a second from all peers together; 0 for no limit.
    pub down: ByteRate,
    /// What reading and writing may leave in memory.
    #[serde(deserialize_with = "cache")]
    pub cache_bytes: ByteSize,
    /// How served files are read.
    pub reader: Reader,
    /// How pulled files are written.
    pub writer: Writer,
    /// How the space of a pulled file is taken.
    pub preallocate: Preallocate,
    /// Bytes between two points at which a pull is durable.
    #[serde(deserialize_with = "epoch_bytes")]
    pub epoch_bytes: ByteSize,
    /// Seconds between two such points.
    #[serde(deserialize_with = "epoch_seconds")]
    pub epoch_seconds: u64,
    /// What the daemon logs: a level or tracing directives.
    pub log: String,
    /// The local RPC.
    pub rpc: Rpc,
}

/// Settings of the local RPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rpc {
    /// A loopback address; port 0 takes a free one.
    #[serde(deserialize_with = "loopback")]
    pub listen: SocketAddr,
}

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Swarm {
    /// Only holders of the swarm key.
    Private,
    /// Anybody.
    Public,
}

/// Encryptions offered on TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Security {
    /// TLS 1.3, then Noise.
    Both,
    /// TLS 1.3 alone.
    Tls,
    /// Noise alone.
    Noise,
}

/// How served files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reader {
    /// What is best on this system.
    Auto,
    /// Mapped windows.
    Mmap,
    /// Positioned reads.
    Pread,
    /// Unbuffered reads.
    Direct,
}

/// How pulled files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writer {
    /// Through the page cache.
    Buffered,
    /// Past it.
    Direct,
}

/// How the space of a pulled file is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preallocate {
    /// As leaves arrive.
    Sparse,
    /// All before the first leaf.
    Full,
}

/// The port that a node listens at when nothing else is said (Kubo's).
const PORT: u16 = 4001;

impl Default for Config {
    fn default() -> Self {
        let listen = [
            format!("/ip4/0.0.0.0/tcp/{PORT}"),
            format!("/ip6/::/tcp/{PORT}"),
            format!("/ip4/0.0.0.0/udp/{PORT}/quic-v1"),
            format!("/ip6/::/udp/{PORT}/quic-v1"),
        ];
        Self {
            swarm: Swarm::Private,
            swarm_key_file: PathBuf::from("swarm.key"),
            listen: listen.iter().map(|text| text.parse().expect("constant addresses are well formed")).collect(),
            announce: Vec::new(),
            peers: Vec::new(),
            meet: true,
            security: Security::Both,
            quic: true,
            connections_max: 900,
            up: ByteRate(0),
            down: ByteRate(0),
            cache_bytes: ByteSize(256 << 20),
            reader: Reader::Auto,
            writer: Writer::Buffered,
            preallocate: Preallocate::Sparse,
            epoch_bytes: ByteSize(64 << 20),
            epoch_seconds: 5,
            log: "info".to_owned(),
            rpc: Rpc::default(),
        }
    }
}

impl Default for Rpc {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 0)) }
    }
}

/// Why there is no `Config`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file says something that is not understood.
    #[error(
        "{}, line {line}{}: {reason}. Correct the line, or put a # before it to have the default",
        path.display(), key.as_ref().map(|key| format!(", key {key}")).unwrap_or_default()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key, with its table, when the line has one.
        key: Option<String>,
        /// What is wrong with it.
        reason: String,
    },
}

impl Config {
    /// The text of a fresh `node.toml` for a private swarm: every default, commented.
    pub const TEMPLATE: &'static str = include_str!("../configs/node.toml");

    /// The text of a fresh `node.toml` for `swarm`.
    #[must_use]
    pub fn template(swarm: Swarm) -> String {
        match swarm {
            Swarm::Private => Self::TEMPLATE.to_owned(),
            Swarm::Public => Self::TEMPLATE.replacen("#swarm = \"private\"", "swarm = \"public\"", 1),
        }
    }

    /// Reads a `node.toml`.
    ///
    /// # Errors
    /// [`ConfigError`], with the line and the key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        Self::parse(path, &text)
    }

    /// Parses the text of the `node.toml` at `path`, which only errors use.
    ///
    /// # Errors
    /// [`ConfigError::Malformed`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let (line, key) = locate(text, at);
            // One line: the sentence is shown after "error:" and goes through JSON.
            let reason = error.message().trim_end_matches('.').replace('\n', ", ");
            ConfigError::Malformed { path: path.to_path_buf(), line, key, reason }
        })
    }
}

/// The line (from 1) of byte `at`, and the key that it belongs to: of the line itself or, within an array over several
/// lines, of the nearest line above that has one.
fn locate(text: &str, at: usize) -> (usize, Option<String>) {
    let line = text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1;
    let above: Vec<&str> = text.lines().take(line).map(str::trim).collect();
    let key = above.iter().rev().filter(|line| !line.starts_with('#')).find_map(|line| {
        let (key, _) = line.split_once('=')?;
        let key = key.trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.\"".contains(c);
        (!key.is_empty() && key.chars().all(plain)).then_some(key)
    });
    let table = above.iter().rev().find_map(|line| line.strip_prefix('[')?.strip_suffix(']').map(str::trim));
    let key = key.map(|key| table.map_or_else(|| key.to_owned(), |table| format!("{table}.{key}")));
    (line, key)
}

fn connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    within(u32::deserialize(deserializer)?, 1, 1_000_000)
}

fn cache<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    within(ByteSize::deserialize(deserializer)?, ByteSize(BUDGET_BYTES_MIN), ByteSize(1 << 40))
}

fn epoch_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    within(ByteSize::deserialize(deserializer)?, ByteSize(2 << 20), ByteSize(1 << 30))
}

fn epoch_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    within(u64::deserialize(deserializer)?, 1, 60)
}

fn loopback<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let addr = SocketAddr::deserialize(deserializer)?;
    if addr.ip().is_loopback() {
        return Ok(addr);
    }
    Err(serde::de::Error::custom(format!(
        "{addr} is not a loopback address, and whoever reaches the RPC owns the node"
    )))
}

fn within<T: PartialOrd + std::fmt::Display, E: serde::de::Error>(value: T, min: T, max: T) -> Result<T, E> {
    if value >= min && value <= max {
        return Ok(value);
    }
    Err(E::custom(format!("{value} is not between {min} and {max}")))
}

/// A number of bytes that people write as `1GiB`, `256MiB` or `4G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// The least limit, in bytes a second.
const RATE_MIN: u64 = 4096;

/// Names of the units, each 1024 times the one before. A bare letter means the same (`4G` is 4 GiB).
const BINARY: [&str; 5] = ["", "KiB", "MiB", "GiB", "TiB"];

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let scale: Option<u64> = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => Some(1),
            "k" | "kib" => Some(1 << 10),
            "m" | "mib" => Some(1 << 20),
            "g" | "gib" => Some(1 << 30),
            "t" | "tib" => Some(1 << 40),
            "kb" => Some(1_000),
            "mb" => Some(1_000_000),
            "gb" => Some(1_000_000_000),
            "tb" => Some(1_000_000_000_000),
            _ => None,
        };
        let bytes = number.parse::<u64>().ok().zip(scale).and_then(|(number, scale)| number.checked_mul(scale));
        bytes
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a size; write for example 1048576, \"256MiB\" or \"4G\""))
    }
}

/// Bytes a second, 0 for no limit. Reads what [`ByteSize`] reads, with or without `/s`, and bits: `50Mbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate(pub u64);

impl ByteRate {
    /// The limit; none for 0.
    #[must_use]
    pub const fn limit(self) -> Option<u64> {
        if self.0 == 0 { None } else { Some(self.0) }
    }
}

impl std::str::FromStr for ByteRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.trim();
        let bare = bare.strip_suffix("/s").unwrap_or(bare);
        let bits = [("kbit", 125), ("Mbit", 125_000), ("Gbit", 125_000_000)].into_iter().find_map(|(unit, scale)| {
            let number: u64 = bare.strip_suffix(unit)?.trim().parse().ok()?;
            number.checked_mul(scale)
        });
        let bytes = bits.or_else(|| bare.parse::<ByteSize>().ok().map(|size| size.0));
        match bytes {
            Some(bytes) if bytes == 0 || bytes >= RATE_MIN => Ok(Self(bytes)),
            Some(_) => Err(format!("{text:?} is less than {RATE_MIN} bytes a second, with which nothing would get on")),
            None => Err(format!("{text:?} is no rate; write for example \"50Mbit\", \"6MiB/s\", or 0 for no limit")),
        }
    }
}

impl std::fmt::Display for ByteRate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            bytes => write!(f, "{}/s", ByteSize(bytes)),
        }
    }
}

impl Serialize for ByteRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl std::fmt::Display for ByteSize {
    /// The largest unit that keeps it exact.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mut value, mut unit) = (self.0, 0);
        while value > 0 && value.is_multiple_of(1024) && unit + 1 < BINARY.len() {
            value /= 1024;
            unit += 1;
        }
        write!(f, "{value}{}", BINARY.get(unit).unwrap_or(&""))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of bytes or a text such as \"256MiB\"")
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<ByteSize, E> {
                u64::try_from(value).map(ByteSize).map_err(|_| E::custom("a size cannot be negative"))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(value))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/repo/node.toml"), text).map_err(|error| error.to_string())
    }

    /// The template with every commented setting made real: settings follow the `#` at once, prose after a space.
    fn uncommented() -> String {
        let lines = Config::TEMPLATE.lines().map(|line| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => setting,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_template_shows_every_default_and_changes_none() {
        assert_eq!(parse(Config::TEMPLATE), Ok(Config::default()));
        assert_eq!(parse(&uncommented()), Ok(Config::default()));
        let shown: toml::Table = uncommented().parse().unwrap();
        let all = toml::Table::try_from(Config::default()).unwrap();
        assert_eq!(shown.keys().collect::<Vec<_>>(), all.keys().collect::<Vec<_>>());
        assert_eq!(shown["rpc"], all["rpc"]);
    }

    #[test]
    fn the_public_template_differs_in_the_swarm_alone() {
        let public = parse(&Config::template(Swarm::Public)).unwrap();
        assert_eq!(public, Config { swarm: Swarm::Public, ..Config::default() });
    }

    #[test]
    fn what_is_shown_parses_to_the_same() {
        let config = Config { cache_bytes: ByteSize(100_000_000), quic: false, ..Config::default() };
        assert_eq!(parse(&toml::to_string(&config).unwrap()), Ok(config));
    }

    #[test]
    fn errors_name_file_line_key_and_remedy() {
        let cases = [
            ("\nlistne = []\n", 2, "key listne", "unknown field"),
            ("# x\n\ncache_bytes = \"lots\"\n", 3, "key cache_bytes", "is not a size"),
            ("cache_bytes = 1024\n", 1, "key cache_bytes", "is not between 16MiB and"),
            ("epoch_seconds = 0\n", 1, "key epoch_seconds", "is not between 1 and 60"),
            ("connections_max = 0\n", 1, "key connections_max", "is not between 1 and"),
            ("epoch_bytes = \"1MiB\"\n", 1, "key epoch_bytes", "is not between 2MiB and 1GiB"),
            ("quic = true\n[rpc]\nlisten = \"0.0.0.0:5001\"\n", 3, "key rpc.listen", "not a loopback address"),
            ("security = \"none\"\n", 1, "key security", "unknown variant"),
            ("peers = [\n  \"/ip4/127.0.0.1/tcp/1\",\n  \"nonsense\",\n]\n", 3, "key peers", "multiaddr"),
            ("quic = \n", 1, "key quic", ""),
        ];
        for (text, line, key, reason) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("/repo/node.toml, line {line}, {key}: ")), "{error}");
            assert!(error.contains(reason), "{error}");
            assert!(error.contains("put a # before it"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("12", 12),
            ("1GiB", 1 << 30),
            ("256MiB", 256 << 20),
            ("4G", 4 << 30),
            ("2 kB", 2000),
            ("3tib", 3 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1", "1.5G", "1XB", "99999999999T"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(ByteSize(256 << 20).to_string(), "256MiB");
        assert_eq!(ByteSize(1500).to_string(), "1500");
        assert_eq!(ByteSize(0).to_string(), "0");
    }
}
