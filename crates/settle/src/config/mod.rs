//! The server's configuration: one TOML file, overridden by the environment, checked whole before anything starts.

mod certificates;
mod operators;
mod policy;
mod security;
mod table;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

pub use certificates::{Certificates, CertificatesError};
pub use operators::OperatorsFile;
pub use policy::{PolicyFile, PolicyFileError};
pub use security::{AuthSettings, TlsSettings, TxTls};
use settle_base::{ByteSize, ErrorCode, GroupId, NodeId, Retryable};
use settle_disk_file::DiskKind;
use settle_raft::PRIORITY_MAX;
use table::{KEYS, Key, Kind, nearest};
pub use table::{PLAINTEXT_WORDS, environment_name, reference};
use toml::Value;

/// A configuration that the server will not start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} is not TOML: {reason}")]
    Syntax { path: String, reason: String },
    #[error("unknown key `{name}` in {place}; did you mean `{nearest}`?")]
    UnknownKey {
        name: String,
        place: String,
        nearest: &'static str,
    },
    #[error("`{name}` = `{value}` in {place}: {reason}")]
    BadValue {
        name: &'static str,
        value: String,
        place: String,
        reason: String,
    },
    #[error("{reason}")]
    Contradiction { reason: String },
    #[error(transparent)]
    Policy(#[from] PolicyFileError),
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
}

impl ConfigError {
    pub fn code(&self) -> ErrorCode {
        match self {
            ConfigError::Read { .. } => ErrorCode::new("CF", 1),
            ConfigError::Syntax { .. } => ErrorCode::new("CF", 2),
            ConfigError::UnknownKey { .. } => ErrorCode::new("CF", 3),
            ConfigError::BadValue { .. } => ErrorCode::new("CF", 4),
            ConfigError::Contradiction { .. } => ErrorCode::new("CF", 5),
            ConfigError::Policy(error) => error.code(),
            ConfigError::Certificates(error) => error.code(),
        }
    }

    pub fn retryable(&self) -> Retryable {
        Retryable::No
    }
}

/// A cluster has at most so many servers: consensus takes 64 members, and one place stays free for a replacement.
const MAX_NODES: usize = 63;
/// An xid has room for 255.
const GROUPS_MAX: i64 = 64;

/// Another server of the cluster, or this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    pub address: String,
}

/// Everything the server was told, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub node: NodeId,
    pub data_dir: PathBuf,
    pub witness: bool,
    /// In order of node id, this server included. Never empty.
    pub peers: Vec<Peer>,
    pub auto_replace: bool,
    pub listen_tx: SocketAddr,
    pub listen_http: SocketAddr,
    pub listen_peer: SocketAddr,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub max_strangers: usize,
    pub max_strangers_per_address: usize,
    pub max_frame_bytes: usize,
    pub tls: TlsSettings,
    /// None: clients are what they say.
    pub auth: Option<AuthSettings>,
    /// Who may use the HTTP API. None: everybody who reaches it.
    pub operators: Option<PathBuf>,
    /// For the policy, the operators and the certificates. Zero is never.
    pub reload_every: Duration,
    pub tick: Duration,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    /// Zero is never.
    pub hibernate_after: Duration,
    /// In commands of a group.
    pub state_hash_every: u64,
    pub election_priority: u8,
    pub read_lag_max: u64,
    pub witness_log_max: u64,
    pub leader_moves_per_second: u32,
    pub slow_disk: Duration,
    pub snapshot_after_bytes: u64,
    pub snapshot_interval: Duration,
    pub log_memory_max: u64,
    pub snapshot_bytes_per_second: u64,
    pub snapshot_write_bytes_per_second: u64,
    pub snapshot_resume: Duration,
    /// 0 is never.
    pub stage_sample_every: u64,
    pub wal_segment_bytes: u64,
    pub tx: TxConfig,
    pub log_level: String,
    pub log_json: bool,
    pub disk: DiskKind,
}

#[derive(Clone, Debug)]
pub struct TxConfig {
    /// `host:port` as it is written into new xids.
    pub advertise: String,
    /// Numbers from 1 up.
    pub groups: u64,
    /// Those that do not use the first group.
    pub service_groups: BTreeMap<String, GroupId>,
    pub reply_hold_rm: Duration,
    pub reply_hold_tm: Duration,
    pub call_timeout: Duration,
    pub retry_min: Duration,
    pub retry_max: Duration,
    pub stuck_after: Duration,
    pub max_sessions: usize,
    pub max_in_flight: usize,
    pub max_in_flight_per_connection: usize,
    pub max_resources_per_connection: usize,
    pub max_calls_per_client: usize,
    pub max_open: usize,
    pub max_branches: usize,
    pub max_lock_bytes: u64,
    pub max_lock_key_bytes: usize,
    pub max_application_data_bytes: usize,
    /// 0 is never.
    pub lose_decide_every: u64,
    pub lock_held_alert: Duration,
    /// 0: no history is kept.
    pub history_max: u64,
    pub history_age: Duration,
}

impl Config {
    /// Reads `path` (none: defaults only) and the `SETTLE_…` variables of `environment`.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let mut values = Values::default();
        if let Some(path) = path {
            let shown = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                path: shown.clone(),
                source,
            })?;
            values.read_file(&shown, &text)?;
        }
        values.read_environment(environment)?;
        build(&values)
    }

    /// How many peers a majority takes.
    pub fn is_single_node(&self) -> bool {
        self.peers.len() == 1
    }
}

/// Values that were set, by key, with the place that set them.
#[derive(Default)]
struct Values {
    set: BTreeMap<&'static str, (Value, String)>,
}

impl Values {
    fn read_file(&mut self, path: &str, text: &str) -> Result<(), ConfigError> {
        let syntax = |reason: String| ConfigError::Syntax {
            path: path.to_owned(),
            reason,
        };
        let root: toml::Table = text.parse().map_err(|e: toml::de::Error| syntax(e.to_string()))?;
        for (section, content) in root {
            let unknown = |name: String| ConfigError::UnknownKey {
                nearest: nearest(&name),
                name,
                place: path.to_owned(),
            };
            let Value::Table(content) = content else {
                return Err(unknown(section));
            };
            for (name, value) in content {
                let name = format!("{section}.{name}");
                let Some(key) = KEYS.iter().find(|key| key.name == name) else {
                    return Err(unknown(name));
                };
                self.set.insert(key.name, (value, path.to_owned()));
            }
        }
        Ok(())
    }

    fn read_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        for (variable, text) in environment {
            if !variable.starts_with("SETTLE_") {
                continue;
            }
            let place = format!("the environment ({variable})");
            let Some(key) = KEYS.iter().find(|key| environment_name(key.name) == variable) else {
                let name = variable["SETTLE_".len()..]
                    .to_lowercase()
                    .replacen('_', ".", 1)
                    .replace('_', "-");
                return Err(ConfigError::UnknownKey {
                    nearest: nearest(&name),
                    name,
                    place,
                });
            };
            let value = match key.kind {
                Kind::List => Value::Array(
                    text.split(',')
                        .filter(|s| !s.is_empty())
                        .map(|s| Value::String(s.into()))
                        .collect(),
                ),
                Kind::Integer => text.parse().map(Value::Integer).unwrap_or(Value::String(text)),
                Kind::Bool => text.parse().map(Value::Boolean).unwrap_or(Value::String(text)),
                _ => Value::String(text),
            };
            self.set.insert(key.name, (value, place));
        }
        Ok(())
    }

    fn get<T>(&self, name: &'static str, read: impl Fn(&Value) -> Result<T, String>) -> Result<T, ConfigError> {
        let key = KEYS
            .iter()
            .find(|key| key.name == name)
            .expect("only keys of the table are asked for");
        let (value, place) = match self.set.get(name) {
            Some((value, place)) => (value.clone(), place.clone()),
            None => (default_of(key), "the defaults".to_owned()),
        };
        read(&value).map_err(|reason| {
            let value = match &value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            ConfigError::BadValue {
                name,
                value,
                place,
                reason,
            }
        })
    }

    fn text(&self, name: &'static str) -> Result<String, ConfigError> {
        self.get(name, |value| {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| "write a text in quotes".to_owned())
        })
    }

    fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, name: &'static str) -> Result<T, ConfigError> {
        self.get(name, |value| {
            value
                .as_str()
                .ok_or("write a text in quotes")?
                .parse()
                .map_err(|e: T::Err| e.to_string())
        })
    }

    fn integer(&self, name: &'static str, low: i64, high: i64) -> Result<i64, ConfigError> {
        self.get(name, |value| match value.as_integer() {
            Some(n) if (low..=high).contains(&n) => Ok(n),
            _ => Err(format!("write a whole number from {low} to {high}")),
        })
    }

    fn count(&self, name: &'static str) -> Result<usize, ConfigError> {
        Ok(self.integer(name, 1, 1_000_000_000)? as usize)
    }

    fn boolean(&self, name: &'static str) -> Result<bool, ConfigError> {
        self.get(name, |value| {
            value.as_bool().ok_or_else(|| "write true or false".to_owned())
        })
    }

    fn size(&self, name: &'static str, low: ByteSize, high: ByteSize) -> Result<u64, ConfigError> {
        self.get(name, |value| {
            let size: ByteSize = value
                .as_str()
                .ok_or("write a size in quotes, e.g. \"64MiB\"")?
                .parse()
                .map_err(|e: settle_base::ParseByteSizeError| e.to_string())?;
            if size < low || size > high {
                return Err(format!("it must lie between {low} and {high}"));
            }
            Ok(size.bytes())
        })
    }

    fn duration(&self, name: &'static str, low: Duration, high: Duration) -> Result<Duration, ConfigError> {
        self.get(name, |value| {
            let duration = parse_duration(value.as_str().unwrap_or(""))
                .ok_or("write a whole number and a unit in quotes, e.g. \"500ms\", \"12s\", \"10m\" or \"24h\"")?;
            if duration < low || duration > high {
                return Err(format!("it must lie between {low:?} and {high:?}"));
            }
            Ok(duration)
        })
    }

    fn choice(&self, name: &'static str) -> Result<String, ConfigError> {
        let key = KEYS
            .iter()
            .find(|key| key.name == name)
            .expect("only keys of the table are asked for");
        let Kind::Choice(words) = key.kind else {
            unreachable!("asked as a choice")
        };
        self.get(name, |value| match value.as_str() {
            Some(word) if words.contains(&word) => Ok(word.to_owned()),
            _ => Err(format!("write one of: {}", words.join(", "))),
        })
    }
}

fn default_of(key: &Key) -> Value {
    let text = format!("v = {}", key.default);
    let mut table: toml::Table = text.parse().expect("every default of the table is TOML");
    table.remove("v").expect("it was just written")
}

/// A whole number and `ms`, `s`, `m` or `h`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..split].parse().ok()?;
    let millis = match text[split..].trim_start() {
        "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

fn build(values: &Values) -> Result<Config, ConfigError> {
    const MS: fn(u64) -> Duration = Duration::from_millis;
    const S: fn(u64) -> Duration = Duration::from_secs;
    // Two such texts must fit into one command of the log.
    const TEXT_MAX: ByteSize = ByteSize::mib(3);
    let gib = |n: u64| ByteSize(n << 30);

    let node = NodeId(values.integer("node.id", 1, 65_535)? as u32);
    let listen_tx: SocketAddr = values.parsed("listen.tx")?;
    let listen_http: SocketAddr = values.parsed("listen.http")?;
    let listen_peer: SocketAddr = values.parsed("listen.peer")?;
    let tls = security::tls(values)?;
    let names = [
        ("listen.tx", listen_tx, tls.tx != TxTls::Off, "listen.tx-plaintext"),
        ("listen.http", listen_http, tls.http, "listen.http-plaintext"),
        ("listen.peer", listen_peer, tls.peer, "listen.peer-plaintext"),
    ];
    for (name, address, is_tls, words) in names {
        let is_trusted = values.text(words)? == PLAINTEXT_WORDS;
        if !address.ip().is_loopback() && !is_tls && !is_trusted {
            return Err(ConfigError::BadValue {
                name,
                value: address.to_string(),
                place: "the configuration".to_owned(),
                reason: format!(
                    "it is reachable from other machines and has no TLS; if that is meant, set \
                     {words} = \"{PLAINTEXT_WORDS}\""
                ),
            });
        }
    }

    let advertise = match values.text("tx.advertise")? {
        text if text.is_empty() => listen_tx.to_string(),
        text => text,
    };
    let config = Config {
        node,
        data_dir: values.text("node.data-dir")?.into(),
        witness: values.boolean("node.witness")?,
        peers: peers(values, node, listen_peer)?,
        auto_replace: values.boolean("cluster.auto-replace")?,
        listen_tx,
        listen_http,
        listen_peer,
        max_connections: values.count("listen.max-connections")?,
        max_connections_per_address: values.count("listen.max-connections-per-address")?,
        max_strangers: values.count("listen.max-strangers")?,
        max_strangers_per_address: values.count("listen.max-strangers-per-address")?,
        max_frame_bytes: values.size("listen.max-frame", ByteSize::kib(4), gib(1))? as usize,
        tls,
        auth: security::auth(values)?,
        operators: Some(values.text("auth.operators")?)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        reload_every: values.duration("auth.reload-every", MS(0), S(86_400))?,
        tick: values.duration("raft.tick", MS(1), MS(50))?,
        heartbeat_interval: values.duration("raft.heartbeat-interval", MS(1), S(10))?,
        election_timeout: values.duration("raft.election-timeout", MS(10), S(60))?,
        hibernate_after: values.duration("raft.hibernate-after", MS(0), S(86_400))?,
        state_hash_every: values.integer("raft.state-hash-every", 0, i64::from(u32::MAX))? as u64,
        election_priority: values.integer("raft.election-priority", 0, i64::from(PRIORITY_MAX))? as u8,
        read_lag_max: values.integer("raft.read-lag-max", 0, i64::MAX)? as u64,
        witness_log_max: values.size("raft.witness-log-max", ByteSize::kib(64), gib(64))?,
        leader_moves_per_second: values.integer("raft.leader-moves-per-second", 0, 1_000)? as u32,
        slow_disk: values.duration("raft.slow-disk", MS(10), S(600))?,
        snapshot_after_bytes: values.size("raft.snapshot-after", ByteSize::kib(64), gib(16))?,
        snapshot_interval: values.duration("raft.snapshot-interval", S(1), S(30 * 86_400))?,
        log_memory_max: values.size("raft.log-memory-max", ByteSize::kib(64), gib(256))?,
        snapshot_bytes_per_second: values.size("raft.snapshot-bytes-per-second", ByteSize::kib(64), gib(64))?,
        snapshot_write_bytes_per_second: values.size(
            "raft.snapshot-write-bytes-per-second",
            ByteSize::kib(64),
            gib(64),
        )?,
        snapshot_resume: values.duration("raft.snapshot-resume", S(1), S(3_600))?,
        stage_sample_every: values.integer("raft.stage-sample-every", 0, 1_000_000_000)? as u64,
        wal_segment_bytes: values.size("wal.segment", ByteSize::kib(64), gib(4))?,
        tx: TxConfig {
            advertise,
            groups: values.integer("tx.groups", 1, GROUPS_MAX)? as u64,
            service_groups: service_groups(values)?,
            reply_hold_rm: values.duration("tx.reply-hold-rm", MS(100), S(600))?,
            reply_hold_tm: values.duration("tx.reply-hold-tm", MS(100), S(600))?,
            call_timeout: values.duration("tx.call-timeout", MS(100), S(600))?,
            retry_min: values.duration("tx.retry-min", MS(10), S(600))?,
            retry_max: values.duration("tx.retry-max", MS(10), S(3_600))?,
            stuck_after: values.duration("tx.stuck-after", S(1), S(86_400))?,
            max_sessions: values.count("tx.max-sessions")?,
            max_in_flight: values.count("tx.max-in-flight")?,
            max_in_flight_per_connection: values.count("tx.max-in-flight-per-connection")?,
            max_resources_per_connection: values.count("tx.max-resources-per-connection")?,
            max_calls_per_client: values.count("tx.max-calls-per-client")?,
            max_open: values.integer("tx.max-open", 1, settle_tx::SESSIONS_MAX as i64)? as usize,
            max_branches: values.integer("tx.max-branches", 1, i64::from(settle_tx::BRANCHES_MAX))? as usize,
            max_lock_bytes: values.size(
                "tx.max-lock-bytes",
                ByteSize::mib(1),
                ByteSize(settle_tx::LOCK_BYTES_MAX),
            )?,
            max_lock_key_bytes: values.size("tx.max-lock-key", ByteSize::kib(1), TEXT_MAX)? as usize,
            max_application_data_bytes: values.size("tx.max-application-data", ByteSize::kib(1), TEXT_MAX)? as usize,
            lose_decide_every: values.integer("test.lose-decide-every", 0, 1_000_000_000)? as u64,
            lock_held_alert: values.duration("tx.lock-held-alert", S(1), S(30 * 86_400))?,
            history_max: match values.size("tx.history-max", ByteSize(0), gib(1_024))? {
                bytes if bytes > 0 && bytes < ByteSize::mib(16).bytes() => {
                    return Err(ConfigError::Contradiction {
                        reason: "tx.history-max must be 0B, or at least 16MiB".to_owned(),
                    });
                }
                bytes => bytes,
            },
            history_age: values.duration("tx.history-age", S(60), S(3_660 * 86_400))?,
        },
        log_level: values.text("log.level")?,
        log_json: values.choice("log.format")? == "json",
        disk: match values.choice("test.disk")?.as_str() {
            "lossy" => DiskKind::Lossy,
            "lossy-without-sync" => DiskKind::LossyWithoutSync,
            _ => DiskKind::Real,
        },
    };
    check_relations(&config)?;
    Ok(config)
}

fn check_relations(config: &Config) -> Result<(), ConfigError> {
    let contradiction = |reason: &str| {
        Err(ConfigError::Contradiction {
            reason: reason.to_owned(),
        })
    };
    if config.tick * 2 > config.heartbeat_interval {
        return contradiction("raft.heartbeat-interval must be at least two of raft.tick");
    }
    if config.heartbeat_interval * 3 > config.election_timeout {
        return contradiction("raft.election-timeout must be at least three of raft.heartbeat-interval");
    }
    if config.tx.retry_min > config.tx.retry_max {
        return contradiction("tx.retry-min is longer than tx.retry-max");
    }
    let groups = config.tx.groups;
    if let Some((name, group)) = config.tx.service_groups.iter().find(|(_, group)| group.0 > groups) {
        return contradiction(&format!(
            "tx.service-groups gives `{name}` group {group}, but tx.groups is {groups}"
        ));
    }
    Ok(())
}

fn service_groups(values: &Values) -> Result<BTreeMap<String, GroupId>, ConfigError> {
    values.get("tx.service-groups", |value| {
        let form = || "write a list, e.g. [\"orders=1\", \"stock=2\"], each name once".to_owned();
        let mut groups = BTreeMap::new();
        for item in value.as_array().ok_or_else(form)? {
            let (name, number) = item.as_str().and_then(|text| text.rsplit_once('=')).ok_or_else(form)?;
            let number = number.trim().parse::<u64>().ok().filter(|number| *number > 0);
            let before = groups.insert(name.trim().to_owned(), GroupId(number.ok_or_else(form)?));
            if name.trim().is_empty() || before.is_some() {
                return Err(form());
            }
        }
        Ok(groups)
    })
}

fn peers(values: &Values, node: NodeId, listen_peer: SocketAddr) -> Result<Vec<Peer>, ConfigError> {
    let mut peers = values.get("cluster.peers", |value| {
        let list = value
            .as_array()
            .ok_or("write a list, e.g. [\"1@10.0.0.1:7070\", \"2@10.0.0.2:7070\"]")?;
        list.iter()
            .map(|item| {
                item.as_str()
                    .and_then(parse_peer)
                    .ok_or("write each as `id@host:port`".to_owned())
            })
            .collect::<Result<Vec<_>, _>>()
    })?;
    if peers.is_empty() {
        peers.push(Peer {
            node,
            address: listen_peer.to_string(),
        });
    }
    peers.sort_by_key(|peer| peer.node);
    if peers.len() > MAX_NODES {
        return Err(ConfigError::Contradiction {
            reason: format!(
                "cluster.peers names {} servers; at most {MAX_NODES} make a cluster",
                peers.len()
            ),
        });
    }
    if let Some(pair) = peers.windows(2).find(|pair| pair[0].node == pair[1].node) {
        return Err(ConfigError::Contradiction {
            reason: format!("cluster.peers names node {} twice", pair[0].node),
        });
    }
    if !peers.iter().any(|peer| peer.node == node) {
        return Err(ConfigError::Contradiction {
            reason: format!("cluster.peers does not name this server (node.id = {node})"),
        });
    }
    Ok(peers)
}

fn parse_peer(text: &str) -> Option<Peer> {
    let (id, address) = text.split_once('@')?;
    let id: u32 = id.parse().ok().filter(|id| (1..=65_535).contains(id))?;
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    (!host.is_empty()).then(|| Peer {
        node: NodeId(id),
        address: address.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut values = Values::default();
        values.read_file("settle.toml", text)?;
        values.read_environment(environment.iter().map(|(k, v)| (k.to_string(), v.to_string())))?;
        build(&values)
    }

    #[test]
    fn the_reference_file_sets_every_key_to_its_default() {
        let from_reference = load(&reference(), &[]).expect("the reference is a good configuration");
        let from_nothing = load("", &[]).expect("the defaults are a good configuration");
        assert_eq!(format!("{from_reference:?}"), format!("{from_nothing:?}"));
        for key in KEYS {
            assert!(reference().contains(key.about), "{}", key.name);
        }
    }

    #[test]
    fn the_reference_in_the_documentation_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/settle.toml");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, reference()).expect("docs/ is there");
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(written, reference(), "run `UPDATE_EXPECT=1 cargo test -p settle`");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let error = load("[tx]\nreply-hold-mr = \"12s\"", &[]).expect_err("a typing error");
        assert_eq!(error.code().to_string(), "CF0003");
        assert!(error.to_string().contains("did you mean `tx.reply-hold-rm`"), "{error}");
        let error = load("node-id = 1", &[]).expect_err("no section");
        assert_eq!(error.code().to_string(), "CF0003");
        let error = load("", &[("SETTLE_TX_REPLY_HOLD", "12s")]).expect_err("a typing error");
        assert!(error.to_string().contains("did you mean `tx.reply-hold-"), "{error}");
    }

    #[test]
    fn a_value_without_its_unit_or_out_of_range_is_refused_by_name() {
        for text in [
            "[tx]\nreply-hold-rm = 12",
            "[tx]\nreply-hold-rm = \"12\"",
            "[raft]\ntick = \"80ms\"",
            "[node]\nid = 0",
            "[wal]\nsegment = \"8\"",
            "[log]\nformat = \"xml\"",
            "[tx]\nmax-open = 1000001",
            "[tx]\nmax-lock-key = \"4MiB\"",
            "[listen]\ntx = \"localhost\"",
        ] {
            let error = load(text, &[]).expect_err(text);
            assert_eq!(error.code().to_string(), "CF0004", "{text}: {error}");
        }
        assert_eq!(load("[tx", &[]).expect_err("no TOML").code().to_string(), "CF0002");
    }

    #[test]
    fn service_groups_go_to_groups_that_there_are_and_each_to_one() {
        let config = load("[tx]\ngroups = 3\nservice-groups = [\"orders=3\", \"a=b=2\"]", &[]);
        let config = config.expect("a good configuration");
        assert_eq!(config.tx.service_groups["orders"], GroupId(3));
        assert_eq!(config.tx.service_groups["a=b"], GroupId(2), "a name may hold anything");
        for (text, code) in [
            ("groups = 0", "CF0004"),
            ("groups = 65", "CF0004"),
            ("service-groups = [\"orders\"]", "CF0004"),
            ("service-groups = [\"orders=0\"]", "CF0004"),
            ("service-groups = [\"=1\"]", "CF0004"),
            ("service-groups = [\"orders=1\", \"orders=1\"]", "CF0004"),
            ("groups = 2\nservice-groups = [\"orders=3\"]", "CF0005"),
        ] {
            let error = load(&format!("[tx]\n{text}"), &[]).expect_err(text);
            assert_eq!(error.code().to_string(), code, "{text}: {error}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let config = load(
            "[node]\nid = 1",
            &[("SETTLE_NODE_ID", "2"), ("SETTLE_CLUSTER_PEERS", "1@a:1,2@b:2")],
        );
        let config = config.expect("a good configuration");
        assert_eq!(config.node, NodeId(2));
        assert_eq!(config.peers.len(), 2);
    }

    #[test]
    fn an_address_beyond_loopback_needs_the_words() {
        let error = load("[listen]\ntx = \"0.0.0.0:8091\"", &[]).expect_err("plaintext for everybody");
        assert!(error.to_string().contains(PLAINTEXT_WORDS), "{error}");
        let text = format!("[listen]\ntx = \"0.0.0.0:8091\"\ntx-plaintext = \"{PLAINTEXT_WORDS}\"");
        load(&text, &[]).expect("said in words");
        for other in ["http = \"0.0.0.0:7091\"", "peer = \"0.0.0.0:7070\""] {
            load(&format!("{text}\n{other}"), &[]).expect_err("that is said of another");
        }
        let by_tls = "[listen]\ntx = \"0.0.0.0:8091\"\n[tls]\ntx = \"on\"\ncertificate = \"a\"\nkey = \"b\"";
        load(by_tls, &[]).expect("it has TLS");
        load(&by_tls.replace("tx = \"0", "peer = \"0"), &[]).expect_err("that one has none");
    }

    #[test]
    fn contradictions_between_keys_are_refused() {
        for text in [
            "[raft]\nelection-timeout = \"150ms\"",
            "[cluster]\npeers = [\"2@a:1\"]",
            "[cluster]\npeers = [\"1@a:1\", \"1@b:1\"]",
            "[tx]\nretry-min = \"61s\"",
            "[auth]\nclients = \"required\"",
            "[auth]\npolicy = \"policy.toml\"",
            "[tls]\ntx = \"on\"",
            "[tls]\ncertificate = \"a\"",
            "[tls]\ntx = \"mutual\"\ncertificate = \"a\"\nkey = \"b\"",
            "[tls]\ntx = \"on\"\ncertificate = \"a\"\nkey = \"b\"\nclient-authorities = \"c\"",
            "[tls]\npeer = \"mutual\"\ncertificate = \"a\"\nkey = \"b\"",
        ] {
            assert_eq!(load(text, &[]).expect_err(text).code().to_string(), "CF0005", "{text}");
        }
    }
}
