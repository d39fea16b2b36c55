//! Which resource manager can be reached through which node: soft state, told by every node to every other.
//!
//! A node tells its news on the connection that it made itself, and a node that loses the connection *it* made forgets
//! the other's sessions: two connections that come and go independently, on which messages may be lost besides. So
//! whoever makes a connection also asks for all sessions, and every second each node tells a digest of its own; who
//! knows otherwise asks.

use std::collections::{BTreeMap, BTreeSet};

use settle_base::{FixedMap, NodeId, fingerprint};
use settle_tx::BranchType;

use crate::{
    ConnId,
    message::{SessionsDigest, session_hash},
};

/// A session anywhere in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionKey {
    pub node: NodeId,
    pub conn: ConnId,
}

/// What a node tells the others of a resource manager's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    pub conn: ConnId,
    pub application: String,
    pub ip: String,
    pub port: u16,
    pub resources: Vec<String>,
}

/// Whom a second-phase call is for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The client that registered the branch.
    pub application: &'a str,
    pub ip: &'a str,
    pub port: u16,
    pub resource: &'a str,
    pub branch_type: BranchType,
}

/// How well a session fits; the best comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fit {
    SameClient,
    SameHost,
    SameApplication,
    OtherApplication,
}

#[derive(Debug)]
struct Entry {
    application: String,
    ip: String,
    port: u16,
    resources: BTreeSet<String>,
    hash: u64,
}

/// What is known of one node's gate.
#[derive(Clone, Copy, Default, Debug)]
struct Holder {
    /// The run that its sessions are of.
    run: u64,
    digest: SessionsDigest,
}

impl Entry {
    fn info(&self, conn: ConnId) -> SessionInfo {
        SessionInfo {
            conn,
            application: self.application.clone(),
            ip: self.ip.clone(),
            port: self.port,
            resources: self.resources.iter().cloned().collect(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Directory {
    entries: BTreeMap<SessionKey, Entry>,
    by_client: FixedMap<u64, SessionKey>,
    by_resource: FixedMap<String, BTreeSet<SessionKey>>,
    holders: BTreeMap<NodeId, Holder>,
    /// Nodes that a connection is up with and nothing comes from: a call through one of them may wait for long.
    silent: BTreeSet<NodeId>,
}

impl Directory {
    pub fn fell_silent(&mut self, node: NodeId) {
        self.silent.insert(node);
    }

    pub fn speaks_again(&mut self, node: NodeId) {
        self.silent.remove(&node);
    }

    /// The node's gate is of this run: what is known of another one is over.
    pub fn see_run(&mut self, node: NodeId, run: u64) {
        if self.run_of(node) != Some(run) {
            self.remove_node(node);
            let digest = SessionsDigest::default();
            self.holders.insert(node, Holder { run, digest });
        }
    }

    /// The run of the node's gate, when it has told of its sessions.
    pub fn run_of(&self, node: NodeId) -> Option<u64> {
        self.holders.get(&node).map(|holder| holder.run)
    }

    /// Stands for the node's sessions as they are known here.
    pub fn digest_of(&self, node: NodeId) -> SessionsDigest {
        self.holders.get(&node).map(|holder| holder.digest).unwrap_or_default()
    }

    /// Adds a session or replaces what was known of it. A session without resources can serve nothing and is left out.
    /// False when `limit` sessions of that node are known already.
    pub fn put(&mut self, node: NodeId, run: u64, mut info: SessionInfo, limit: usize) -> bool {
        self.see_run(node, run);
        let key = SessionKey { node, conn: info.conn };
        self.remove(key);
        if info.resources.is_empty() {
            return true;
        }
        let holder = self.holders.get_mut(&node).expect("its run was just seen");
        if holder.digest.sessions >= limit as u64 {
            return false;
        }
        info.resources.sort_unstable();
        info.resources.dedup();
        let hash = session_hash(&info);
        holder.digest.sessions += 1;
        holder.digest.hash = holder.digest.hash.wrapping_add(hash);
        self.by_client
            .insert(client_hash(&info.application, &info.ip, info.port), key);
        let resources: BTreeSet<String> = info.resources.into_iter().collect();
        for resource in &resources {
            self.by_resource.entry(resource.clone()).or_default().insert(key);
        }
        let entry = Entry {
            application: info.application,
            ip: info.ip,
            port: info.port,
            resources,
            hash,
        };
        self.entries.insert(key, entry);
        true
    }

    pub fn remove(&mut self, key: SessionKey) {
        let Some(entry) = self.entries.remove(&key) else { return };
        let holder = self
            .holders
            .get_mut(&key.node)
            .expect("every node with entries has a holder");
        holder.digest.sessions -= 1;
        holder.digest.hash = holder.digest.hash.wrapping_sub(entry.hash);
        let hash = client_hash(&entry.application, &entry.ip, entry.port);
        if self.by_client.get(&hash) == Some(&key) {
            self.by_client.remove(&hash);
        }
        for resource in &entry.resources {
            let keys = self
                .by_resource
                .get_mut(resource)
                .expect("every resource of an entry is indexed");
            keys.remove(&key);
            if keys.is_empty() {
                self.by_resource.remove(resource);
            }
        }
    }

    pub fn remove_node(&mut self, node: NodeId) {
        self.silent.remove(&node);
        let keys: Vec<SessionKey> = self.keys_of(node).collect();
        for key in keys {
            self.remove(key);
        }
        let left = self.holders.remove(&node).map(|holder| holder.digest);
        assert!(
            left.is_none_or(|left| left == SessionsDigest::default()),
            "a node without entries has an empty digest"
        );
    }

    pub fn sessions_of(&self, node: NodeId) -> impl Iterator<Item = SessionInfo> {
        self.keys_of(node).map(|key| self.entries[&key].info(key.conn))
    }

    pub fn iter(&self) -> impl Iterator<Item = (NodeId, SessionInfo)> {
        self.entries.iter().map(|(key, entry)| (key.node, entry.info(key.conn)))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The session to call. All that may be called are in a row: the registering client, its application on its host,
    /// its application anywhere, and, for AT alone, whoever else serves the resource, since undo logs are the
    /// database's; among equals, those of `here` first. (Seata: `ChannelManager.getChannel`.) The first attempt takes
    /// the first, and each further one the next, around and around: an attempt follows a failure, and the same session
    /// may fail for ever. Those of nodes that are silent are chosen only when there are no others.
    pub fn choose(&self, wanted: Wanted<'_>, here: NodeId, attempt: u32) -> Option<SessionKey> {
        let serving = self.by_resource.get(wanted.resource)?;
        if attempt <= 1
            && let Some(key) = self
                .by_client
                .get(&client_hash(wanted.application, wanted.ip, wanted.port))
            && serving.contains(key)
            && !self.silent.contains(&key.node)
            && fit(&self.entries[key], wanted) == Some(Fit::SameClient)
        {
            return Some(*key);
        }
        let fitting = serving.iter().filter_map(|key| {
            let fit = fit(&self.entries[key], wanted)?;
            Some((self.silent.contains(&key.node), fit, key.node != here, *key))
        });
        if attempt <= 1 {
            return fitting.min().map(|(.., key)| key);
        }
        let mut row: Vec<_> = fitting.collect();
        row.sort_unstable();
        let heard = row.partition_point(|(is_silent, ..)| !is_silent);
        if heard > 0 {
            row.truncate(heard);
        }
        let turn = (attempt - 1) as usize % row.len().max(1);
        row.get(turn).map(|(.., key)| *key)
    }

    fn keys_of(&self, node: NodeId) -> impl Iterator<Item = SessionKey> {
        let from = SessionKey { node, conn: ConnId(0) };
        let to = SessionKey {
            node,
            conn: ConnId(u64::MAX),
        };
        self.entries.range(from..=to).map(|(key, _)| *key)
    }
}

fn fit(entry: &Entry, wanted: Wanted<'_>) -> Option<Fit> {
    if entry.application != wanted.application {
        let may_be_another =
            wanted.branch_type == BranchType::At || settle_base::mutant!("tcc_call_to_another_application");
        return may_be_another.then_some(Fit::OtherApplication);
    }
    if entry.ip != wanted.ip {
        return Some(Fit::SameApplication);
    }
    Some(if entry.port == wanted.port {
        Fit::SameClient
    } else {
        Fit::SameHost
    })
}

/// A collision only costs the short cut: the caller compares the entry itself.
fn client_hash(application: &str, ip: &str, port: u16) -> u64 {
    fingerprint(application.as_bytes()).rotate_left(21) ^ fingerprint(ip.as_bytes()).rotate_left(7) ^ u64::from(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: NodeId = NodeId(1);
    const THERE: NodeId = NodeId(2);
    const RUN: u64 = 7;

    fn directory(sessions: &[(NodeId, u64, &str, &str, u16, &str)]) -> Directory {
        let mut directory = Directory::default();
        for &(node, conn, application, ip, port, resource) in sessions {
            let info = SessionInfo {
                conn: ConnId(conn),
                application: application.to_owned(),
                ip: ip.to_owned(),
                port,
                resources: vec![resource.to_owned()],
            };
            assert!(directory.put(node, RUN, info, 100));
        }
        directory
    }

    fn wanted(branch_type: BranchType) -> Wanted<'static> {
        Wanted {
            application: "stock",
            ip: "10.0.0.1",
            port: 50_000,
            resource: "db",
            branch_type,
        }
    }

    fn key(node: NodeId, conn: u64) -> SessionKey {
        SessionKey {
            node,
            conn: ConnId(conn),
        }
    }

    #[test]
    fn channels_are_chosen_in_the_order_client_host_application_other_application() {
        let mut known = directory(&[
            (HERE, 1, "other", "10.0.0.9", 1, "db"),
            (HERE, 2, "stock", "10.0.0.2", 2, "db"),
            (HERE, 3, "stock", "10.0.0.1", 3, "db"),
            (THERE, 4, "stock", "10.0.0.1", 50_000, "db"),
            (HERE, 5, "stock", "10.0.0.1", 50_000, "another db"),
        ]);
        for (node, conn) in [(THERE, 4), (HERE, 3), (HERE, 2), (HERE, 1)] {
            assert_eq!(known.choose(wanted(BranchType::At), HERE, 1), Some(key(node, conn)));
            known.remove(key(node, conn));
        }
        assert_eq!(known.choose(wanted(BranchType::At), HERE, 1), None);
    }

    #[test]
    fn another_application_is_never_called_for_tcc_or_xa() {
        let known = directory(&[(HERE, 1, "other", "10.0.0.1", 50_000, "db")]);
        assert_eq!(known.choose(wanted(BranchType::Tcc), HERE, 1), None);
        assert_eq!(known.choose(wanted(BranchType::Xa), HERE, 1), None);
        assert_eq!(known.choose(wanted(BranchType::At), HERE, 1), Some(key(HERE, 1)));
    }

    #[test]
    fn further_attempts_go_through_all_that_may_be_called_the_best_first_and_around() {
        let known = directory(&[
            (HERE, 1, "other", "10.0.0.1", 50_000, "db"),
            (THERE, 2, "stock", "10.0.0.1", 50_000, "db"),
            (NodeId(0), 3, "stock", "10.0.0.2", 1, "db"),
            (HERE, 4, "stock", "10.0.0.2", 2, "db"),
        ]);
        let chosen = |branch_type| {
            let key = |attempt| known.choose(wanted(branch_type), HERE, attempt).expect("some serve it");
            (1..=6).map(|attempt| key(attempt).conn.0).collect::<Vec<_>>()
        };
        assert_eq!(chosen(BranchType::Tcc), [2, 4, 3, 2, 4, 3]);
        assert_eq!(chosen(BranchType::At), [2, 4, 3, 1, 2, 4]);
        assert_eq!(
            known.choose(
                Wanted {
                    resource: "x",
                    ..wanted(BranchType::At)
                },
                HERE,
                2
            ),
            None
        );
        let others = directory(&[(HERE, 1, "other", "10.0.0.1", 50_000, "db")]);
        assert_eq!(others.choose(wanted(BranchType::Tcc), HERE, 2), None);
    }

    #[test]
    fn another_run_of_a_node_takes_the_sessions_of_the_one_before_away() {
        let mut known = directory(&[
            (THERE, 1, "stock", "10.0.0.1", 1, "db"),
            (THERE, 2, "stock", "10.0.0.1", 2, "db"),
        ]);
        let info = known.sessions_of(THERE).next().expect("two are known");
        let before = known.digest_of(THERE);
        assert!(known.put(THERE, RUN + 1, info.clone(), 100));
        assert_eq!((known.len(), known.run_of(THERE)), (1, Some(RUN + 1)));
        assert_ne!(known.digest_of(THERE), before);
        known.remove(key(THERE, 1));
        assert_eq!(known.digest_of(THERE), SessionsDigest::default());
    }

    #[test]
    fn a_lost_node_takes_its_sessions_along_and_no_other() {
        let mut known = directory(&[
            (HERE, 1, "stock", "10.0.0.1", 1, "db"),
            (THERE, 1, "stock", "10.0.0.1", 50_000, "db"),
        ]);
        known.remove_node(THERE);
        assert_eq!(known.choose(wanted(BranchType::Tcc), HERE, 1), Some(key(HERE, 1)));
        assert_eq!(known.len(), 1);
    }

    #[test]
    fn a_node_cannot_fill_the_directory_beyond_the_limit() {
        let mut known = directory(&[(THERE, 1, "stock", "10.0.0.1", 1, "db")]);
        let info = SessionInfo {
            conn: ConnId(2),
            ..known.sessions_of(THERE).next().expect("one is known")
        };
        assert!(!known.put(THERE, RUN, info.clone(), 1));
        assert!(known.put(HERE, RUN, info, 1), "the limit is per node");
    }
}
