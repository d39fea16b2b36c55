use std::{collections::BTreeMap, time::Duration};

use settle_base::{ByteSize, GroupId};
use settle_tx::DriverConfig;

/// Everything about the gate that an operator may set. Every limit has an error of its own ([`crate::GateError`]).
#[derive(Clone, Debug)]
pub struct GateConfig {
    /// What stands before the id in an xid: the advertised `host:port`. Clients use it for load balancing.
    pub xid_prefix: String,
    /// The groups that this cluster's transactions live in.
    pub groups: Vec<GroupId>,
    /// Which group a client's service group uses; names not listed use the first of `groups`.
    pub service_groups: BTreeMap<String, GroupId>,

    /// How long a resource manager's request is held while it cannot be decided. Below the client's 15 s.
    pub reply_hold_rm: Duration,
    /// How long a transaction manager's request is held while it cannot be decided. Below the client's 30 s.
    pub reply_hold_tm: Duration,
    /// How long a decided commit or rollback waits for the branches' second phase before it is answered with the
    /// decision alone. Below the 20 s of seata-go.
    pub phase_two_wait: Duration,
    /// A command not applied after this time is proposed again; the pause doubles up to `re_propose_max`.
    pub re_propose_after: Duration,
    pub re_propose_max: Duration,
    /// How long a resource manager's answer to a call is kept for proposing when its group has no leader.
    pub fact_hold: Duration,
    /// How long a resource manager may take over a second-phase call.
    pub call_timeout: Duration,

    pub max_sessions: usize,
    pub max_resources_per_session: usize,
    /// Requests not answered yet, on this node.
    pub max_in_flight: usize,
    pub max_in_flight_per_session: usize,
    /// Bytes of commands proposed and not applied yet, on this node.
    pub max_pending_bytes: ByteSize,
    pub max_branches_per_transaction: usize,
    pub max_open_transactions: u64,
    /// Row keys held by the open transactions of one group.
    pub max_lock_bytes: ByteSize,
    /// One branch's lock-key string.
    pub max_lock_key_bytes: ByteSize,
    /// One branch's application data.
    pub max_application_data_bytes: ByteSize,
    /// An application id, service group, transaction name, client version.
    pub max_name_bytes: usize,
    pub max_resource_bytes: usize,
    /// Second-phase calls that this node has outstanding with its own resource managers. Those that timed out do not
    /// count; as many of them are remembered for their late answers. The driver limits the calls of one client, see
    /// [`DriverConfig::max_calls_per_client`].
    pub max_calls: usize,

    /// Tell the front door of every transaction that ends, with its details, on every node.
    pub tell_ended: bool,

    /// A transaction that has held row locks for so long is told of, once.
    pub lock_held_alert: Duration,

    /// The driver of phase two, at work on the node that leads a group.
    pub driver: DriverConfig,

    /// For tests only: breaks a promise. One in so many commits that arrive here is answered as committed and never
    /// proposed; 0 is none.
    pub lose_decide_every: u64,
}

impl Default for GateConfig {
    fn default() -> GateConfig {
        GateConfig {
            xid_prefix: "127.0.0.1:8091".to_owned(),
            groups: vec![GroupId(1)],
            service_groups: BTreeMap::new(),
            reply_hold_rm: Duration::from_secs(12),
            reply_hold_tm: Duration::from_secs(25),
            phase_two_wait: Duration::from_secs(15),
            re_propose_after: Duration::from_millis(500),
            re_propose_max: Duration::from_secs(4),
            fact_hold: Duration::from_secs(60),
            call_timeout: Duration::from_secs(15),
            max_sessions: 10_000,
            max_resources_per_session: 1_024,
            max_in_flight: 65_536,
            max_in_flight_per_session: 8_192,
            max_pending_bytes: ByteSize::mib(64),
            max_branches_per_transaction: 1_000,
            max_open_transactions: 1_000_000,
            max_lock_bytes: ByteSize::mib(1_024),
            max_lock_key_bytes: ByteSize::mib(1),
            max_application_data_bytes: ByteSize::mib(1),
            max_name_bytes: 256,
            max_resource_bytes: 1_024,
            max_calls: 16_384,
            tell_ended: false,
            lock_held_alert: Duration::from_secs(600),
            driver: DriverConfig::default(),
            lose_decide_every: 0,
        }
    }
}

impl GateConfig {
    /// The group that begins the transactions of a service group.
    pub fn group_of(&self, service_group: &str) -> GroupId {
        match self.service_groups.get(service_group) {
            Some(group) => *group,
            None => self.groups[0],
        }
    }
}
