use std::fmt;

use settle_base::GroupId;

use crate::names::Name;

/// Bits of an id that number transactions (or branches) within one group.
const SEQ_BITS: u32 = 55;
const SEQ_MASK: u64 = (1 << SEQ_BITS) - 1;

/// The id of a global transaction: 8 bits of group, then 55 bits of sequence; always a positive `i64`, because Seata's
/// clients parse it as a Java `long` (`org.apache.seata.common.XID`).
///
/// Sequences are dense, start at the group's first one and are assigned when `Begin` is applied, so they are unique across restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(i64);

/// The id of a branch; the same form as [`Tid`] with a sequence of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchId(i64);

macro_rules! id {
    ($name:ident) => {
        impl $name {
            /// # Panics
            /// When `seq` is 0 or needs more than 55 bits.
            pub fn new(group: u8, seq: u64) -> $name {
                assert!(
                    seq != 0 && seq <= SEQ_MASK,
                    "a sequence has 1 to 55 bits, got {seq}"
                );
                $name(((u64::from(group) << SEQ_BITS) | seq) as i64)
            }

            /// `None` when `id` is not of this form: not positive, or of sequence 0.
            pub fn try_from_i64(id: i64) -> Option<$name> {
                (id > 0 && id as u64 & SEQ_MASK != 0).then_some($name(id))
            }

            pub fn as_i64(self) -> i64 {
                self.0
            }

            /// The group that owns it.
            pub fn group(self) -> GroupId {
                GroupId(self.0.unsigned_abs() >> SEQ_BITS)
            }

            /// Its place among the group's ids, from 1.
            pub fn seq(self) -> u64 {
                self.0.unsigned_abs() & SEQ_MASK
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.group(), self.seq())
            }
        }
    };
}

id!(Tid);
id!(BranchId);

impl BranchId {
    /// Bounds for ranges of ids; no branch has them.
    pub(crate) const MIN: BranchId = BranchId(i64::MIN);
    pub(crate) const MAX: BranchId = BranchId(i64::MAX);

    /// Stands for the state machine of the saga `tid`: the one call of its second phase goes to no branch. It is the
    /// negated id of the transaction, so that no two sagas share one.
    pub fn saga_of(tid: Tid) -> BranchId {
        BranchId(-tid.0)
    }

    /// See [`BranchId::saga_of`].
    pub fn is_saga(self) -> bool {
        self.0 < 0
    }

    /// The id that a resource manager is told and answers with; that of every saga's call is -1
    /// (`SagaCore.doGlobalCommit`).
    pub fn on_the_wire(self) -> i64 {
        if self.is_saga() { -1 } else { self.0 }
    }

    /// As [`BranchId::try_from_i64`], and [`BranchId::saga_of`] any transaction: what our own formats may hold.
    pub fn try_from_own(id: i64) -> Option<BranchId> {
        match id {
            ..0 => Tid::try_from_i64(id.checked_neg()?).map(BranchId::saga_of),
            _ => BranchId::try_from_i64(id),
        }
    }
}

impl Tid {
    /// Before all ids; no transaction has it.
    pub(crate) const MIN: Tid = Tid(0);

    /// The last id that a group could give: behind all that it has given.
    ///
    /// # Panics
    /// When the group is not one of 0..=255.
    pub fn last_of(group: GroupId) -> Tid {
        Tid::new(
            u8::try_from(group.0).expect("a group of transactions has 8 bits"),
            SEQ_MASK,
        )
    }

    /// The id in an xid of the form `host:port:id`: the last `:`-segment. `None` when that is no transaction id.
    pub fn from_xid(xid: &str) -> Option<Tid> {
        let (_, id) = xid.rsplit_once(':')?;
        id.parse().ok().and_then(Tid::try_from_i64)
    }
}

/// What clients call a transaction: `host:port:id`. The first two are shared by all that were begun through one server, so
/// that each costs no text of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Xid {
    prefix: Name,
    tid: Tid,
}

impl Xid {
    pub(crate) fn new(prefix: Name, tid: Tid) -> Xid {
        Xid { prefix, tid }
    }

    /// `None` when that is no text of an xid.
    pub(crate) fn parse(text: &str) -> Option<Xid> {
        let (prefix, _) = text.rsplit_once(':')?;
        let xid = Xid::new(prefix.into(), Tid::from_xid(text)?);
        (xid == *text).then_some(xid)
    }

    /// `host:port`.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn tid(&self) -> Tid {
        self.tid
    }
}

impl PartialEq<str> for Xid {
    fn eq(&self, text: &str) -> bool {
        let id = text.strip_prefix(&*self.prefix).and_then(|rest| rest.strip_prefix(':'));
        // A number may be written in several ways, and an xid in one.
        id.is_some_and(|id| !id.starts_with(['0', '+']) && id.parse() == Ok(self.tid.0))
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.prefix, self.tid)
    }
}

impl fmt::Debug for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The identity of one client request, for answering a repetition with the first answer.
///
/// `origin` is the random run id of the gate that proposes, `seq` that gate's counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReqId {
    pub origin: u64,
    pub seq: u64,
}

/// The parts of a Seata client id `application:ip:port`, by which phase-two calls are routed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientId<'a> {
    pub application: &'a str,
    pub ip: &'a str,
    pub port: u16,
}

impl<'a> ClientId<'a> {
    /// The application ends at the first colon and the port begins at the last, so that an IPv6 address stays whole.
    pub fn parse(client: &'a str) -> Option<ClientId<'a>> {
        let (application, rest) = client.split_once(':')?;
        let (ip, port) = rest.rsplit_once(':')?;
        let port = port.parse().ok()?;
        Some(ClientId { application, ip, port })
    }
}

impl fmt::Display for ClientId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.application, self.ip, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_positive_i64_that_gives_back_its_group_and_sequence() {
        for (group, seq) in [(1, 1), (255, SEQ_MASK), (7, 1 << 54)] {
            let tid = Tid::new(group, seq);
            assert!(tid.as_i64() > 0);
            assert_eq!((tid.group(), tid.seq()), (GroupId(u64::from(group)), seq));
            assert_eq!(Tid::try_from_i64(tid.as_i64()), Some(tid));
            assert_eq!(Tid::from_xid(&format!("10.0.0.1:8091:{tid}")), Some(tid));
        }
        for bad in [0, -1, i64::MIN, 1 << SEQ_BITS] {
            assert_eq!(Tid::try_from_i64(bad), None, "{bad}");
        }
        let saga = BranchId::saga_of(Tid::new(7, 9));
        assert_eq!((saga.group(), saga.seq(), saga.on_the_wire()), (GroupId(7), 9, -1));
        assert_eq!(BranchId::try_from_own(saga.as_i64()), Some(saga));
        assert_eq!(BranchId::try_from_i64(saga.as_i64()), None, "no branch has such an id");
        assert_eq!(BranchId::try_from_own(i64::MIN), None);
        for bad in ["", "1", "a:b:c", "h:1:-5", "h:1:99999999999999999999", "h:1:"] {
            assert_eq!(Tid::from_xid(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_xid_is_one_text_and_no_other() {
        let xid = Xid::new("10.0.0.1:8091".into(), Tid::new(1, 7));
        let text = xid.to_string();
        assert_eq!(text, format!("10.0.0.1:8091:{}", xid.tid()));
        assert_eq!(Xid::parse(&text), Some(xid.clone()));
        let (prefix, id) = text.rsplit_once(':').expect("it has colons");
        for other in [
            format!("{prefix}:0{id}"),
            format!("{prefix}:+{id}"),
            format!("{prefix}:{id}0"),
            format!("10.0.0.2:8091:{id}"),
            format!("x{text}"),
            id.to_owned(),
            format!("{prefix}{id}"),
        ] {
            assert!(xid != *other, "{other}");
        }
        assert_eq!(Xid::parse(&format!("{prefix}:+{id}")), None);
    }

    #[test]
    fn a_client_id_keeps_an_ipv6_address_whole() {
        let client = ClientId::parse("orders:fe80::1:5060").expect("it is well formed");
        assert_eq!(
            (client.application, client.ip, client.port),
            ("orders", "fe80::1", 5060)
        );
        assert_eq!(ClientId::parse("orders:5060"), None);
    }
}
