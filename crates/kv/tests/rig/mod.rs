//! One replica of a region, and a log for it.
#![allow(dead_code, reason = "each test uses its part of it")]

use bytes::Bytes;
use settle_base::{GroupId, GroupTime, Index, PeerId};
use settle_kv::{Command, Effect, Op, Put, Query, Region, Reply, Request, Space};
use settle_machine::{ApplyError, EntryMeta, Members, StateMachine, Ticket};
use settle_storage::{Keeps, MemEngine, MemView};

pub struct Rig {
    pub region: Region<MemEngine>,
    pub index: Index,
    pub time: u64,
    pub number: u64,
}

pub const FIRST: GroupId = GroupId(1);

pub fn engine() -> MemEngine {
    MemEngine::new(Keeps::Nothing, 1 << 30)
}

impl Rig {
    pub fn new() -> Rig {
        Rig::of(Region::new(engine(), Space(1), FIRST, true))
    }

    pub fn of(mut region: Region<MemEngine>) -> Rig {
        region.members_changed(&members(&[1, 2, 3]));
        Rig {
            index: region.standing().index,
            time: region.standing().time.0,
            region,
            number: 0,
        }
    }

    pub fn entry(&mut self) -> EntryMeta {
        self.index += 1;
        EntryMeta {
            index: self.index,
            term: 1,
            time: GroupTime(self.time),
            version: 1,
        }
    }

    pub fn try_apply(&mut self, command: &Command) -> Result<Vec<Effect<MemView>>, ApplyError> {
        let (entry, mut effects) = (self.entry(), Vec::new());
        let bytes = command.encode();
        self.region.apply(entry, &bytes, &mut effects)?;
        Ok(effects)
    }

    pub fn apply(&mut self, command: &Command) -> Vec<Effect<MemView>> {
        self.try_apply(command).expect("a command of a region")
    }

    pub fn ask_at(&mut self, version: u64, op: Op) -> Reply {
        self.number += 1;
        let number = self.number;
        self.ask_as(version, 1, number, op)
    }

    pub fn ask_as(&mut self, version: u64, session: u64, number: u64, op: Op) -> Reply {
        let ticket = Ticket { session, number };
        let is_remembered = true;
        let requests = vec![Request {
            ticket,
            is_remembered,
            op,
        }];
        let effects = self.apply(&Command::Requests { version, requests });
        match effects.last() {
            Some(Effect::Replied { reply, .. }) => reply.clone(),
            other => panic!("a request is answered: {other:?}"),
        }
    }

    pub fn ask(&mut self, op: Op) -> Reply {
        self.ask_at(self.version(), op)
    }

    pub fn version(&self) -> u64 {
        self.region.descriptor().epoch.version
    }

    pub fn get(&self, key: &str) -> Option<Bytes> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        match self.region.read(self.version(), &Query::Get { key }) {
            Ok(Reply::Found(found)) => found.map(|found| found.value),
            other => panic!("{other:?}"),
        }
    }

    /// A split; gives the child.
    pub fn split(&mut self, at: &str, child: GroupId, space: Space) -> Rig {
        let (epoch, at) = (self.region.descriptor().epoch, Bytes::copy_from_slice(at.as_bytes()));
        let effects = self.apply(&Command::Split { epoch, at, child });
        let Some(Effect::Split { image, .. }) = effects.into_iter().next_back() else {
            panic!("it can be split");
        };
        let mut born = Region::new(self.region.engine().clone(), space, child, false);
        born.load(&mut image.chunks()).expect("an image");
        let mut rig = Rig::of(born);
        // The child knows what its parent's sessions asked.
        (rig.index, rig.number) = (5, self.number);
        rig
    }
}

pub fn members(voters: &[u64]) -> Members {
    Members {
        voters: voters.iter().copied().map(PeerId).collect(),
        learners: Vec::new(),
        is_joint: false,
        encoded: Bytes::from(format!("{voters:?}")),
    }
}

pub fn put(key: &str, value: &str, ttl_ms: Option<u64>) -> Op {
    Op::Put(Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ttl_ms,
    })
}
