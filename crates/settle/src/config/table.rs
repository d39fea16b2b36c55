//! Every configuration key, once: its default, its kind and what it means. The reader, the environment override, the
//! check for typing errors and the reference file are all made from this table.

/// What a key's value looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A duration with its unit: `500ms`, `12s`, `10m`, `24h`.
    Duration,
    /// A size with its unit: `64KiB`, `8MiB`.
    Size,
    Integer,
    Text,
    Bool,
    /// A list of texts.
    List,
    /// `host:port`.
    Address,
    /// One of these words.
    Choice(&'static [&'static str]),
}

pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    pub kind: Kind,
    /// As it is written in the file.
    pub default: &'static str,
    pub about: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        about,
    }
}

pub const PLAINTEXT_WORDS: &str = "this network is trusted";

#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("node.id", Kind::Integer, "1", "This server's id in the cluster, 1 to 65535. It stays the same when the disk is replaced."),
    key("node.data-dir", Kind::Text, "\"settle-data\"", "Where the log, the snapshots and the identity of this server are kept. One server per directory."),
    key("node.witness", Kind::Bool, "false", "Keeps the logs but no state: this server votes and stores, but serves no transactions. Witnesses have to be a minority, and a data directory stays what it was made for."),
    key("cluster.peers", Kind::List, "[]", "All servers of the cluster as `id@host:port` of their peer address, this one included. Empty: a cluster of one."),
    key("cluster.auto-replace", Kind::Bool, "false", "Whether a server that comes back with an empty disk is taken in again by itself. Otherwise an operator says so: `settle ctl node replace`."),
    key("listen.tx", Kind::Address, "\"127.0.0.1:8091\"", "Where Seata clients connect."),
    key("listen.http", Kind::Address, "\"127.0.0.1:7091\"", "HTTP API, health and metrics."),
    key("listen.peer", Kind::Address, "\"127.0.0.1:7070\"", "Where the other servers connect."),
    key("listen.tx-plaintext", Kind::Text, "\"\"", "An address other than loopback without TLS is refused for `listen.tx` unless this says `this network is trusted`."),
    key("listen.http-plaintext", Kind::Text, "\"\"", "The same for `listen.http`."),
    key("listen.peer-plaintext", Kind::Text, "\"\"", "The same for `listen.peer`."),
    key("listen.max-connections", Kind::Integer, "10000", "Client connections; one more is closed at once."),
    key("listen.max-connections-per-address", Kind::Integer, "10000", "Client connections from one address; one more is closed at once. Clients behind one proxy or NAT share an address; so do all of an IPv6 network of 64 bits."),
    key("listen.max-strangers", Kind::Integer, "1024", "Connections of `listen.tx` that have not registered yet, and as many of `listen.peer` that have not said which server they are; one more is closed at once."),
    key("listen.max-strangers-per-address", Kind::Integer, "256", "Of those from one address."),
    key("listen.max-frame", Kind::Size, "\"8MiB\"", "The largest frame read from a client, before and after decompression."),
    key("tls.tx", Kind::Choice(&["off", "on", "mutual"]), "\"off\"", "TLS for Seata clients. `mutual`: they have to show a certificate of `tls.client-authorities`. Java's clients have no TLS in any version; give them a proxy that has."),
    key("tls.peer", Kind::Choice(&["off", "mutual"]), "\"off\"", "TLS between the servers, the same on all. Each has to show a certificate of `tls.peer-authorities` for its host in `cluster.peers`."),
    key("tls.http", Kind::Choice(&["off", "on"]), "\"off\"", "TLS for the HTTP API, with the same certificate. `settle ctl` is told by `--authorities` whom to trust."),
    key("tls.certificate", Kind::Text, "\"\"", "PEM of this server's certificate and what leads to its authority. For the other servers it has to be good as a client's too."),
    key("tls.key", Kind::Text, "\"\"", "PEM of its key."),
    key("tls.client-authorities", Kind::Text, "\"\"", "PEM of who signs clients' certificates."),
    key("tls.peer-authorities", Kind::Text, "\"\"", "PEM of who signs the servers' certificates. Nobody else's certificates should be signed by it."),
    key("auth.clients", Kind::Choice(&["none", "required"]), "\"none\"", "Whether Seata clients have to authenticate when they register: by Seata's access key and signature, or by the name in their certificate. Nothing but a registration is read of one that has not."),
    key("auth.policy", Kind::Text, "\"\"", "The file that says who may connect, and what each application may use; docs/securing.md shows one. Needed when clients have to authenticate."),
    key("auth.operators", Kind::Text, "\"\"", "The file that says who may use the HTTP API, by the token that each shows; docs/securing.md shows one. Empty: everybody who reaches it. `/healthz` and `/readyz` ask nobody."),
    key("auth.reload-every", Kind::Duration, "\"10s\"", "How often the policy, the operators and the certificates are looked at for changes, which take effect without a restart; 0s is never. Two looks have to find the same. A connection that would not be admitted any more is closed."),
    key("auth.signature-age", Kind::Duration, "\"5m\"", "How old a signature may be by this server's clock. Whoever overhears one may use it for so long."),
    key("auth.signature-ahead", Kind::Duration, "\"30s\"", "How far ahead of this server's clock a signature's time may be."),
    key("auth.unsigned-resource-managers", Kind::Choice(&["refuse", "beside-a-transaction-manager"]), "\"refuse\"", "Java's resource managers sign nothing, in no version of Seata. Refused, or taken for what they say when a transaction manager of the same application has authenticated from the same address and is connected to this server."),
    key("auth.register-within", Kind::Duration, "\"10s\"", "How long a connection may last that has not registered."),
    key("auth.max-registration", Kind::Size, "\"64KiB\"", "The largest message read of a client that has not registered, before and after decompression."),
    key("raft.tick", Kind::Duration, "\"50ms\"", "The unit of the two timeouts below; at most 50ms."),
    key("raft.heartbeat-interval", Kind::Duration, "\"100ms\"", "How often a leader speaks when there is nothing to say."),
    key("raft.election-timeout", Kind::Duration, "\"500ms\"", "How long a silent leader is waited for; the real wait is drawn between once and twice this."),
    key("raft.hibernate-after", Kind::Duration, "\"10s\"", "A group rests when nothing has happened in it for so long: it costs nothing until something does. 0s is never."),
    key("raft.state-hash-every", Kind::Integer, "65536", "After so many commands of a group its replicas compare their states, and one that differs from a majority is rebuilt; 0 is never. Only state machines whose hash costs nothing are compared: that of the transactions is not one."),
    key("raft.election-priority", Kind::Integer, "100", "How willing this server is to lead, 0 to 100; 0 is only when no other can. Servers of the highest priority share the leaderships."),
    key("raft.read-lag-max", Kind::Integer, "65536", "A read at a server that does not lead is refused at once when it would have to wait until so many entries more are applied."),
    key("raft.witness-log-max", Kind::Size, "\"256MiB\"", "What a witness keeps of a group's log for a server that is behind; beyond it only another full server can bring that one up to date."),
    key("raft.leader-moves-per-second", Kind::Integer, "5", "Leaderships that a server which leads more than its share gives away in a second; 0 leaves them where they are."),
    key("raft.slow-disk", Kind::Duration, "\"2s\"", "A leader whose oldest write has waited for the disk for so long hands leadership over."),
    key("raft.snapshot-after", Kind::Size, "\"64MiB\"", "How much log of a group is kept before its state is saved and the log cut."),
    key("raft.snapshot-interval", Kind::Duration, "\"1h\"", "A group's state is also saved when the oldest log since the last time is this old."),
    key("raft.log-memory-max", Kind::Size, "\"512MiB\"", "When the logs of all groups since their last snapshots are larger together, the largest are saved early."),
    key("raft.snapshot-bytes-per-second", Kind::Size, "\"32MiB\"", "What this server sends of snapshots to other servers in a second. At the default writers keep their throughput meanwhile; at 128MiB they kept about half of it."),
    key("raft.snapshot-write-bytes-per-second", Kind::Size, "\"24MiB\"", "What this server writes of its own snapshots in a second, and twice what its logs grow by meanwhile; while the logs take more than half of log-memory-max, as much as the disk takes."),
    key("raft.snapshot-resume", Kind::Duration, "\"60s\"", "How long a snapshot's transfer that stands still, as when a connection broke, may go on from where it was."),
    key("raft.stage-sample-every", Kind::Integer, "1000", "One proposal in so many is kept with the time that each stage took, for `GET /v1/node/proposals` and the log at debug; 0 keeps none."),
    key("wal.segment", Kind::Size, "\"64MiB\"", "The size of one file of the log."),
    key("tx.advertise", Kind::Text, "\"\"", "The `host:port` written into new xids; empty: the address of `listen.tx`. A name that clients resolve keeps xids good over a change of address."),
    key("tx.groups", Kind::Integer, "1", "Transaction groups, 1 to 64, each with a log and a leader of its own, so that the load spreads over the servers. The same on every server, and fixed when the cluster is founded."),
    key("tx.service-groups", Kind::List, "[]", "Which group begins the transactions of a service group, as `name=number`; one that is not listed uses the first group. The same on every server. Not asked for one that `settle ctl tx service-groups` has moved. Row locks are kept by group: applications that change the same tables in AT mode belong in one."),
    key("tx.reply-hold-rm", Kind::Duration, "\"12s\"", "How long a resource manager's request is held while nothing can be decided, then dropped unanswered. Below the client's 15s."),
    key("tx.reply-hold-tm", Kind::Duration, "\"25s\"", "The same for a transaction manager. Below the client's 30s."),
    key("tx.call-timeout", Kind::Duration, "\"15s\"", "How long a phase-two call may stay unanswered before it is made again."),
    key("tx.retry-min", Kind::Duration, "\"1s\"", "The first wait before a failed phase-two call is made again; it doubles from there."),
    key("tx.retry-max", Kind::Duration, "\"60s\"", "The longest such wait."),
    key("tx.stuck-after", Kind::Duration, "\"10m\"", "A branch that has failed for so long is reported as stuck. It is still tried."),
    key("tx.max-sessions", Kind::Integer, "10000", "Registered clients on this server."),
    key("tx.max-in-flight", Kind::Integer, "65536", "Requests accepted and not yet answered."),
    key("tx.max-in-flight-per-connection", Kind::Integer, "8192", "Of those: of one client connection."),
    key("tx.max-resources-per-connection", Kind::Integer, "1024", "Resources that one client connection may register."),
    key("tx.max-calls-per-client", Kind::Integer, "256", "Phase-two calls that one application may have unanswered for one resource; others wait, so that one that hangs does not hold up the rest."),
    key("tx.max-open", Kind::Integer, "1000000", "Transactions begun and not yet ended, in the group."),
    key("tx.max-branches", Kind::Integer, "1000", "Branches of one transaction."),
    key("tx.max-lock-bytes", Kind::Size, "\"1GiB\"", "Memory of all row locks of the group."),
    key("tx.max-lock-key", Kind::Size, "\"1MiB\"", "The lock keys of one branch."),
    key("tx.max-application-data", Kind::Size, "\"1MiB\"", "The application data of one branch."),
    key("tx.lock-held-alert", Kind::Duration, "\"10m\"", "A transaction that holds row locks for so long after its begin is told of, once, in the log and by a metric."),
    key("tx.history-max", Kind::Size, "\"512MiB\"", "What this server keeps on its disk of transactions that have ended, for `settle ctl tx history`: branches, times, failures. The oldest goes first. 0B keeps nothing."),
    key("tx.history-age", Kind::Duration, "\"168h\"", "How long it keeps them, if there is room."),
    key("log.level", Kind::Text, "\"info\"", "`error`, `warn`, `info`, `debug`, or a filter such as `info,settle_node=debug`."),
    key("log.format", Kind::Choice(&["text", "json"]), "\"text\"", "One line of text or one JSON object for each event."),
    key("test.disk", Kind::Choice(&["real", "lossy", "lossy-without-sync"]), "\"real\"", "For tests only. `lossy` keeps what is not synced in memory, so that a kill loses it as a power cut would; `lossy-without-sync` also makes a sync do nothing."),
    key("test.lose-decide-every", Kind::Integer, "0", "For tests only: breaks a promise, so that what looks for broken ones can be seen to find it. One in so many commits that arrive at this server is answered as committed and never decided, so that its time rolls it back; 0 is none."),
];

/// The reference configuration: every key with its default, commented.
pub fn reference() -> String {
    let mut text = String::from(
        "# Every key of `settle server --config FILE` with its default. Generated by `settle config`; do not edit.\n\
         # An environment variable overrides the file: SETTLE_TX_REPLY_HOLD_RM for tx.reply-hold-rm.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (in_section, name) = key.name.split_once('.').expect("every key of the table has a section");
        if in_section != section {
            section = in_section;
            text.push_str(&format!("\n[{section}]\n"));
        }
        text.push_str(&format!("# {}\n", key.about));
        if let Kind::Choice(words) = key.kind {
            text.push_str(&format!("# One of: {}.\n", words.join(", ")));
        }
        text.push_str(&format!("{name} = {}\n", key.default));
    }
    text
}

/// The environment variable that overrides `name`.
pub fn environment_name(name: &str) -> String {
    format!("SETTLE_{}", name.replace(['.', '-'], "_").to_uppercase())
}

/// The known key that `name` was probably meant to be.
pub fn nearest(name: &str) -> &'static str {
    KEYS.iter()
        .map(|key| key.name)
        .min_by_key(|known| edit_distance(name, known))
        .expect("the table is not empty")
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_of_a_typing_error_is_the_one_meant() {
        assert_eq!(nearest("tx.replyhold-rm"), "tx.reply-hold-rm");
        assert_eq!(nearest("node.datadir"), "node.data-dir");
        assert_eq!(nearest("raft.electoin-timeout"), "raft.election-timeout");
    }

    #[test]
    fn no_key_stands_twice_and_each_has_a_section() {
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
        assert!(names.iter().all(|name| name.split('.').count() == 2));
    }
}
