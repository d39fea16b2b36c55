//! Which resource manager can be reached through which node: soft state, told by every node to every other.

use std::collections::{BTreeMap, BTreeSet};

use settle_base::{FixedMap, NodeId, fingerprint};
use settle_tx::BranchType;

use crate::ConnId;

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
    count_of: BTreeMap<NodeId, usize>,
}

impl Directory {
    /// Adds a session or replaces what was known of it. A session without resources can serve nothing and is left out.
    /// False when `limit` sessions of that node are known already.
    pub fn put(&mut self, node: NodeId, info: SessionInfo, limit: usize) -> bool {
        let key = SessionKey { node, conn: info.conn };
        self.remove(key);
        if info.resources.is_empty() {
            return true;
        }
        let count = self.count_of.entry(node).or_default();
        if *count >= limit {
            return false;
        }
        *count += 1;
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
        };
        self.entries.insert(key, entry);
        true
    }

    pub fn remove(&mut self, key: SessionKey) {
        let Some(entry) = self.entries.remove(&key) else { return };
        *self
            .count_of
            .get_mut(&key.node)
            .expect("every node with entries is counted") -= 1;
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
        let keys: Vec<SessionKey> = self.keys_of(node).collect();
        for key in keys {
            self.remove(key);
        }
        let left = self.count_of.remove(&node);
        assert!(matches!(left, None | Some(0)), "a node without entries counts none");
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

    /// The session to call: the registering client; else its application on its host; else its application anywhere;
    /// else, for AT alone, whoever serves the resource, since undo logs are the database's. Within a class, `here` goes
    /// before other nodes, and a higher `attempt` takes the next one. (Seata: `ChannelManager.getChannel`.)
    pub fn choose(&self, wanted: Wanted<'_>, here: NodeId, attempt: u32) -> Option<SessionKey> {
        let serving = self.by_resource.get(wanted.resource)?;
        let same_client = self
            .by_client
            .get(&client_hash(wanted.application, wanted.ip, wanted.port));
        if let Some(key) = same_client
            && serving.contains(key)
            && fit(&self.entries[key], wanted) == Some(Fit::SameClient)
        {
            return Some(*key);
        }
        let mut best = Fit::OtherApplication;
        let mut found: Vec<SessionKey> = Vec::new();
        for key in serving {
            let Some(fit) = fit(&self.entries[key], wanted) else {
                continue;
            };
            if fit < best {
                best = fit;
                found.clear();
            }
            if fit == best {
                found.push(*key);
            }
        }
        if found.is_empty() {
            return None;
        }
        found.sort_by_key(|key| (key.node != here, *key));
        let turn = attempt.saturating_sub(1) as usize % found.len();
        Some(found[turn])
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
        return (wanted.branch_type == BranchType::At).then_some(Fit::OtherApplication);
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
            assert!(directory.put(node, info, 100));
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
    fn this_node_goes_first_and_a_further_attempt_takes_the_next_session() {
        let known = directory(&[
            (NodeId(0), 1, "stock", "10.0.0.1", 1, "db"),
            (HERE, 2, "stock", "10.0.0.1", 2, "db"),
        ]);
        let chosen = |attempt| known.choose(wanted(BranchType::Tcc), HERE, attempt);
        assert_eq!(chosen(1), Some(key(HERE, 2)));
        assert_eq!(chosen(2), Some(key(NodeId(0), 1)));
        assert_eq!(chosen(3), Some(key(HERE, 2)));
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
        assert!(!known.put(THERE, info.clone(), 1));
        assert!(known.put(HERE, info, 1), "the limit is per node");
    }
}
