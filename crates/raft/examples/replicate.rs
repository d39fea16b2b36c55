//! Three replicas in memory, for a profiler: commits and applies a million writes at all three. It reads no clock and
//! says nothing; measure it from outside:
//!
//! ```text
//! cargo build --release -p settle-raft --example replicate
//! perf stat target/release/examples/replicate
//! ```

use settle_base::{GroupId, GroupTime};
use settle_raft::{ConfState, Config, Message, PeerId, Raft, Ready, Restored, SnapshotMeta};

const WRITES: u64 = 1_000_000;
/// Writes that share their appends.
const BATCH: u64 = 64;
/// So many applied entries are kept before a replica compacts its log.
const LOG_MAX: u64 = 4_096;

fn main() {
    let mut group = [1, 2, 3].map(replica);
    group[0].campaign();
    run(&mut group);
    assert!(group[0].is_leader(), "nothing is lost here");
    let data = bytes::Bytes::from(vec![7; 100]);
    let mut proposed = 0;
    while proposed < WRITES {
        for _ in 0..BATCH.min(WRITES - proposed) {
            let taken = group[0].propose(data.clone(), GroupTime(proposed), None);
            taken.expect("it leads");
            proposed += 1;
        }
        run(&mut group);
    }
    // The writes and the first entry of the leader's term.
    assert_eq!(group.each_ref().map(Raft::applied), [WRITES + 1; 3]);
}

fn replica(id: u64) -> Raft {
    let restored = Restored {
        snapshot: SnapshotMeta {
            conf: ConfState::of_voters([1, 2, 3].map(PeerId)),
            ..SnapshotMeta::default()
        },
        ..Restored::default()
    };
    Raft::restore(Config::new(GroupId(1), PeerId(id), 1), restored).expect("an empty log can be restored")
}

/// Writes, sends and applies until nothing is left to do.
fn run(group: &mut [Raft; 3]) {
    let mut network: Vec<Message> = Vec::new();
    loop {
        for raft in group.iter_mut() {
            while raft.has_ready() {
                take(raft, &mut network);
            }
        }
        if network.is_empty() {
            return;
        }
        for message in network.drain(..) {
            let to = message.to.0 as usize - 1;
            group[to].step(message).expect("honest peers send valid messages");
        }
    }
}

fn take(raft: &mut Raft, network: &mut Vec<Message>) {
    let Ready {
        persist,
        messages,
        committed,
        ..
    } = raft.ready();
    network.extend(messages);
    if let Some(persist) = persist {
        raft.on_persisted(persist.seq);
        network.extend(persist.after);
    }
    let Some(last) = committed.last() else { return };
    raft.on_applied(last.index);
    if last.index - raft.first_index() > LOG_MAX {
        let meta = SnapshotMeta {
            index: last.index,
            term: last.term,
            conf: raft.conf().clone(),
            time: last.time,
            context: Default::default(),
        };
        raft.compact(&meta, LOG_MAX / 2);
    }
}
