//! Single rules at a single peer, played against it message by message.

use bytes::Bytes;
use settle_base::{GroupId, GroupTime};
use settle_raft::{
    Body, ConfState, Config, Entry, EntryKind, HardState, Index, Message, PeerId, ProposeError, Raft, Ready, Reject,
    RestoreError, Restored, Role, SnapshotMeta, StepError, Term,
};

const GROUP: GroupId = GroupId(1);

fn entry(term: Term, index: Index) -> Entry {
    Entry {
        term,
        index,
        kind: EntryKind::Normal,
        time: GroupTime::ZERO,
        data: Bytes::from_static(b"data"),
    }
}

fn restored(term: Term, terms: &[Term]) -> Restored {
    Restored {
        hard_state: HardState {
            term,
            ..HardState::default()
        },
        snapshot: SnapshotMeta {
            conf: ConfState::of_voters([1, 2, 3].map(PeerId)),
            ..SnapshotMeta::default()
        },
        entries: terms.iter().zip(1..).map(|(&term, index)| entry(term, index)).collect(),
        recovering: None,
    }
}

fn peer(term: Term, terms: &[Term]) -> Raft {
    Raft::restore(Config::new(GROUP, PeerId(1), 1), restored(term, terms)).expect("an honest story")
}

fn from(id: u64, term: Term, body: Body) -> Message {
    Message {
        group: GROUP,
        from: PeerId(id),
        to: PeerId(1),
        term,
        body,
    }
}

fn append(term: Term, prev: (Term, Index), commit: Index, entries: Vec<Entry>) -> Message {
    from(
        2,
        term,
        Body::Append {
            prev_index: prev.1,
            prev_term: prev.0,
            commit,
            entries,
        },
    )
}

fn ack(id: u64, term: Term, index: Index) -> Message {
    from(
        id,
        term,
        Body::AppendReply {
            result: Ok(index),
            recovering: None,
        },
    )
}

fn persist_all(raft: &mut Raft) -> Ready {
    let ready = raft.ready();
    if let Some(persist) = &ready.persist {
        raft.on_persisted(persist.seq);
    }
    ready
}

/// p1 leads `term + 1`, everything durable.
fn leader(term: Term, terms: &[Term]) -> Raft {
    let mut raft = peer(term, terms);
    raft.campaign();
    raft.step(from(
        2,
        term + 1,
        Body::PreVoteReply {
            granted: true,
            commit: (0, 0),
            recovering: None,
        },
    ))
    .expect("an honest story");
    persist_all(&mut raft);
    raft.step(from(
        2,
        term + 1,
        Body::VoteReply {
            granted: true,
            recovering: None,
        },
    ))
    .expect("an honest story");
    assert!(raft.is_leader());
    persist_all(&mut raft);
    raft
}

#[test]
fn a_candidate_counts_its_own_vote_only_once_it_is_durable() {
    let mut raft = peer(0, &[]);
    raft.campaign();
    raft.step(from(
        2,
        1,
        Body::PreVoteReply {
            granted: true,
            commit: (0, 0),
            recovering: None,
        },
    ))
    .unwrap();
    let persist = raft.ready().persist.expect("the vote is written");
    assert_eq!(
        persist.hard_state.map(|state| (state.term, state.vote)),
        Some((1, PeerId(1)))
    );
    assert_eq!(persist.after.len(), 2, "the requests wait for the write");
    raft.step(from(
        2,
        1,
        Body::VoteReply {
            granted: true,
            recovering: None,
        },
    ))
    .unwrap();
    assert_eq!(raft.role(), Role::Candidate);
    raft.on_persisted(persist.seq);
    assert_eq!(raft.role(), Role::Leader);
}

#[test]
fn a_leader_counts_its_own_entry_only_once_it_is_durable_but_sends_it_before() {
    let mut raft = leader(0, &[]);
    raft.step(ack(2, 1, 1)).unwrap();
    raft.ready();
    raft.propose(Bytes::from_static(b"x"), GroupTime::ZERO, None).unwrap();
    let ready = raft.ready();
    assert!(
        ready
            .messages
            .iter()
            .any(|m| matches!(&m.body, Body::Append { entries, .. } if entries.len() == 1))
    );
    raft.step(ack(2, 1, 2)).unwrap();
    assert_eq!(raft.commit(), 1, "one durable copy of two");
    raft.on_persisted(ready.persist.unwrap().seq);
    assert_eq!(raft.commit(), 2);
}

#[test]
fn an_entry_of_an_old_term_is_committed_only_by_one_of_the_own_term() {
    let mut raft = leader(2, &[1, 2]);
    raft.step(ack(2, 3, 2)).unwrap();
    assert_eq!(
        raft.commit(),
        0,
        "a quorum holds entry 2 of term 2, which another leader may still replace"
    );
    raft.step(ack(2, 3, 3)).unwrap();
    assert_eq!(raft.commit(), 3);
}

#[test]
fn an_ack_of_a_write_under_way_waits_for_exactly_that_write() {
    let mut raft = peer(1, &[]);
    raft.step(append(1, (0, 0), 0, vec![entry(1, 1)])).unwrap();
    let first = raft.ready().persist.unwrap();
    assert_eq!(first.after.len(), 1, "the ack travels with its write");
    raft.step(append(1, (0, 0), 0, vec![entry(1, 1)])).unwrap();
    let again = raft.ready();
    assert!(
        again.persist.is_none() && again.messages.is_empty(),
        "nothing new to write, nothing durable to ack"
    );
    raft.on_persisted(first.seq);
    let messages = raft.ready().messages;
    assert!(
        matches!(
            messages[..],
            [Message {
                body: Body::AppendReply { result: Ok(1), .. },
                ..
            }]
        ),
        "{messages:?}"
    );
}

#[test]
fn a_write_of_overwritten_entries_makes_nothing_durable() {
    let mut raft = peer(1, &[]);
    raft.step(append(1, (0, 0), 0, vec![entry(1, 1), entry(1, 2)])).unwrap();
    let old = raft.ready().persist.unwrap();
    raft.step(from(
        3,
        2,
        Body::Append {
            prev_index: 1,
            prev_term: 1,
            commit: 0,
            entries: vec![entry(2, 2)],
        },
    ))
    .unwrap();
    let new = raft.ready().persist.unwrap();
    assert_eq!(new.truncate_after, Some(1));
    raft.on_persisted(old.seq);
    assert_eq!(raft.status().durable_index, 1);
    raft.on_persisted(new.seq);
    assert_eq!(raft.status().durable_index, 2);
}

#[test]
fn a_group_of_one_commits_right_after_its_own_write() {
    let mut alone = restored(0, &[]);
    alone.snapshot.conf = ConfState::of_voters([PeerId(1)]);
    let mut raft = Raft::restore(Config::new(GROUP, PeerId(1), 1), alone).unwrap();
    raft.campaign();
    persist_all(&mut raft);
    assert!(raft.is_leader());
    persist_all(&mut raft);
    assert_eq!(raft.commit(), 1);
    raft.read_index(5).unwrap();
    assert_eq!(raft.ready().reads.len(), 1, "nobody has to be asked");
}

#[test]
fn proposals_are_refused_beyond_the_limit_but_one_large_entry_always_passes() {
    let mut config = Config::new(GROUP, PeerId(1), 1);
    config.max_uncommitted_bytes = 100;
    config.max_append_bytes = 10;
    let mut raft = Raft::restore(config, restored(0, &[])).unwrap();
    raft.campaign();
    raft.step(from(
        2,
        1,
        Body::PreVoteReply {
            granted: true,
            commit: (0, 0),
            recovering: None,
        },
    ))
    .unwrap();
    persist_all(&mut raft);
    raft.step(from(
        2,
        1,
        Body::VoteReply {
            granted: true,
            recovering: None,
        },
    ))
    .unwrap();
    persist_all(&mut raft);
    raft.step(ack(2, 1, 1)).unwrap();
    persist_all(&mut raft);
    let large = Bytes::from(vec![0; 1_000]);
    raft.propose(large.clone(), GroupTime::ZERO, Some(1))
        .expect("the only entry in flight is always taken");
    let refused = raft.propose(large.clone(), GroupTime::ZERO, None);
    assert!(matches!(refused, Err(ProposeError::Full { .. })), "{refused:?}");
    let wrong = raft.propose(large, GroupTime::ZERO, Some(9));
    assert_eq!(wrong, Err(ProposeError::TermChanged { expected: 9, term: 1 }));
    let sent = raft.ready().messages;
    assert!(
        sent.iter()
            .any(|m| matches!(&m.body, Body::Append { entries, .. } if entries.len() == 1)),
        "{sent:?}"
    );
}

#[test]
fn a_lie_is_an_error_that_changes_nothing() {
    let snapshot = |index, term, voters: &[u64]| {
        let conf = ConfState {
            voters: voters.iter().copied().map(PeerId).collect(),
            ..ConfState::default()
        };
        from(
            2,
            9,
            Body::Snapshot {
                meta: SnapshotMeta {
                    index,
                    term,
                    conf,
                    ..SnapshotMeta::default()
                },
            },
        )
    };
    let to = |to, group| Message {
        group: GroupId(group),
        to: PeerId(to),
        ..ack(2, 9, 1)
    };
    let bad_change = Entry {
        kind: EntryKind::ConfChange,
        ..entry(9, 4)
    };
    let lies = [
        to(2, 1),
        to(1, 2),
        from(0, 9, Body::TimeoutNow),
        from(1, 9, Body::TimeoutNow),
        from(2, 0, Body::TimeoutNow),
        from(2, u64::MAX, Body::TimeoutNow),
        from(
            3,
            2,
            Body::Heartbeat {
                commit: 0,
                read_seq: 0,
                recover_to: None,
                rest: false,
            },
        ),
        from(
            2,
            9,
            Body::Heartbeat {
                commit: 99,
                read_seq: 0,
                recover_to: None,
                rest: false,
            },
        ),
        from(
            2,
            9,
            Body::PreVoteReply {
                granted: false,
                commit: (u64::MAX, 1),
                recovering: None,
            },
        ),
        from(
            2,
            9,
            Body::PreVoteReply {
                granted: false,
                commit: (3, 10),
                recovering: None,
            },
        ),
        from(
            2,
            9,
            Body::PreVote {
                last_index: 2,
                last_term: 2,
                commit: (3, 2),
                priority: 100,
            },
        ),
        from(
            2,
            9,
            Body::Vote {
                last_index: 4,
                last_term: 9,
                force: false,
            },
        ),
        from(
            2,
            9,
            Body::PreVote {
                last_index: 4,
                last_term: 0,
                commit: (0, 0),
                priority: 100,
            },
        ),
        append(9, (2, 3), 0, vec![entry(9, 5)]),
        append(9, (2, 3), 0, vec![entry(1, 4)]),
        append(9, (2, 3), 0, vec![entry(10, 4)]),
        append(9, (10, 3), 0, vec![]),
        append(9, (0, 3), 0, vec![]),
        append(9, (0, u64::MAX), 0, vec![]),
        append(9, (1, 1), 0, vec![entry(9, 2)]),
        append(9, (5, 2), 0, vec![]),
        append(9, (2, 3), 0, vec![bad_change]),
        snapshot(0, 0, &[1]),
        snapshot(9, 10, &[1]),
        snapshot(9, 9, &[]),
        snapshot(9, 9, &[2, 1]),
    ];
    for lie in lies {
        let mut raft = peer(2, &[1, 2, 2]);
        raft.step(append(2, (2, 3), 2, vec![])).unwrap();
        let before = raft.status();
        let error = raft.step(lie.clone());
        assert!(error.is_err(), "{lie:?} was believed");
        assert_eq!(raft.status(), before, "{lie:?}");
    }
}

#[test]
fn a_leader_does_not_believe_answers_to_what_it_never_sent() {
    let mut raft = leader(0, &[]);
    let reject = Reject {
        prev_index: 9,
        hint_index: 9,
        hint_term: 1,
    };
    let lies = [
        ack(2, 1, 9),
        from(
            2,
            1,
            Body::AppendReply {
                result: Err(reject),
                recovering: None,
            },
        ),
        from(
            2,
            1,
            Body::HeartbeatReply {
                read_seq: 7,
                recovering: None,
                rested: false,
            },
        ),
        from(
            2,
            1,
            Body::Heartbeat {
                commit: 0,
                read_seq: 0,
                recover_to: None,
                rest: false,
            },
        ),
    ];
    let before = raft.status();
    for lie in lies {
        raft.step(lie.clone()).expect_err(&format!("{lie:?} was believed"));
        assert_eq!(raft.status(), before);
    }
    assert!(matches!(
        raft.step(append(1, (0, 0), 0, vec![])),
        Err(StepError::TwoLeaders { .. })
    ));
}

#[test]
fn a_log_that_contradicts_itself_is_not_restored() {
    let restore = |restored| Raft::restore(Config::new(GROUP, PeerId(1), 1), restored).map(drop);
    assert!(matches!(
        restore(restored(1, &[1, 2])),
        Err(RestoreError::Entries { found: 2, .. })
    ));
    assert!(matches!(
        restore(restored(2, &[2, 1])),
        Err(RestoreError::Entries { found: 2, .. })
    ));
    let mut beyond = restored(1, &[1]);
    beyond.hard_state.commit = 2;
    assert!(matches!(
        restore(beyond.clone()),
        Err(RestoreError::CommitBeyondLog { commit: 2, last: 1, .. })
    ));
    beyond.recovering = Some(1);
    assert_eq!(restore(beyond), Ok(()), "a damaged tail may hold what was committed");
}

#[test]
fn a_leader_that_takes_back_what_it_sent_is_not_believed() {
    let mut raft = peer(5, &[1]);
    let sent = vec![entry(1, 2), entry(1, 3)];
    raft.step(append(5, (1, 1), 0, sent)).unwrap();
    let before = raft.status();
    let other = append(5, (1, 1), 0, vec![entry(2, 2)]);
    assert!(matches!(
        raft.step(other),
        Err(StepError::ContradictsItself { index: 2, term: 5, .. })
    ));
    let meta = SnapshotMeta {
        index: 2,
        term: 2,
        conf: ConfState::of_voters([1, 2, 3].map(PeerId)),
        ..SnapshotMeta::default()
    };
    assert!(matches!(
        raft.step(from(2, 5, Body::Snapshot { meta })),
        Err(StepError::BadSnapshot { .. })
    ));
    assert_eq!(raft.status(), before);
    raft.ready();
    // What it had not spoken of, and what the next leader has, may still be another.
    raft.step(append(6, (1, 1), 0, vec![entry(6, 2)])).unwrap();
    assert_eq!((raft.last_index(), raft.term_at(2)), (2, Some(6)));
    raft.ready();
}

#[test]
fn an_entry_is_not_older_than_the_one_that_is_kept_before_it() {
    let at = |term, index, time| Entry {
        time: GroupTime(time),
        ..entry(term, index)
    };
    let mut kept = restored(2, &[1]);
    kept.entries.push(at(2, 2, 1_000));
    let mut raft = Raft::restore(Config::new(GROUP, PeerId(1), 1), kept).expect("an honest story");
    // Entry 2 is known, and stays as it is whatever the message says of its time.
    let lie = append(2, (1, 1), 0, vec![at(2, 2, 0), at(2, 3, 1)]);
    assert!(matches!(raft.step(lie), Err(StepError::BadEntries { found: 3, .. })));
    raft.step(append(2, (1, 1), 0, vec![at(2, 2, 0), at(2, 3, 1_000)]))
        .unwrap();
}

#[test]
fn one_message_does_not_use_up_the_terms() {
    let mut raft = leader(0, &[]);
    let reply = |term| {
        let body = Body::HeartbeatReply {
            read_seq: 0,
            recovering: None,
            rested: false,
        };
        from(2, term, body)
    };
    assert!(matches!(
        raft.step(reply(1 << 60)),
        Err(StepError::BadNumber { number, .. }) if number == 1 << 60
    ));
    assert!(raft.is_leader());
    raft.step(reply(1 << 32)).expect("it may have been cut off for long");
    assert_eq!(raft.term(), 1 << 32);
}

#[test]
fn a_peer_that_claims_damage_again_and_again_fills_no_log() {
    let mut raft = leader(0, &[]);
    let claim = |number| {
        let body = Body::HeartbeatReply {
            read_seq: 0,
            recovering: Some(number),
            rested: false,
        };
        from(2, 1, body)
    };
    for number in 1..1_000 {
        raft.step(claim(number)).unwrap();
    }
    assert_eq!(raft.last_index(), 2, "one barrier");
    // Once that one is committed, a new damage needs a new one: it may have recovered in between.
    persist_all(&mut raft);
    raft.step(ack(3, 1, 2)).unwrap();
    assert_eq!(raft.commit(), 2);
    raft.step(claim(1_000)).unwrap();
    assert_eq!(raft.last_index(), 3);
}

#[test]
fn a_read_that_is_withdrawn_makes_room_and_is_never_answered() {
    let config = Config {
        max_pending_reads: 1,
        ..Config::new(GROUP, PeerId(1), 1)
    };
    let mut raft = Raft::restore(config, restored(1, &[1])).expect("an honest story");
    raft.step(append(1, (1, 1), 0, vec![])).unwrap();
    raft.read_index(7).unwrap();
    assert!(raft.read_index(8).is_err(), "one at a time");
    raft.withdraw_read(7);
    raft.read_index(8).unwrap();
    for (ctx, index) in [(7, 1), (8, 1)] {
        raft.step(from(2, 1, Body::ReadIndexReply { ctx, index })).unwrap();
    }
    let reads = raft.ready().reads;
    assert_eq!(reads.iter().map(|read| read.ctx).collect::<Vec<_>>(), [8]);
}

#[test]
fn a_read_that_is_withdrawn_is_not_told_as_dropped_or_behind_either() {
    let config = Config {
        max_read_lag: 5,
        ..Config::new(GROUP, PeerId(1), 1)
    };
    let mut raft = Raft::restore(config, restored(1, &[1])).expect("an honest story");
    raft.step(append(1, (1, 1), 0, vec![])).unwrap();
    for ctx in [7, 8] {
        raft.read_index(ctx).unwrap();
        raft.step(from(2, 1, Body::ReadIndexReply { ctx, index: 100 })).unwrap();
    }
    raft.withdraw_read(7);
    let behind = raft.ready().reads_behind;
    assert_eq!(behind.iter().map(|read| read.ctx).collect::<Vec<_>>(), [8]);
    for ctx in [9, 10] {
        raft.read_index(ctx).unwrap();
    }
    // Who would have answered is gone.
    raft.step(from(
        3,
        2,
        Body::Vote {
            last_index: 9,
            last_term: 1,
            force: true,
        },
    ))
    .unwrap();
    raft.withdraw_read(9);
    assert_eq!(raft.ready().reads_dropped, [10]);
}

#[test]
fn what_a_machine_that_is_held_has_not_applied_comes_once_more_and_no_more_than_the_limit_waits() {
    let config = Config {
        max_held_bytes: 3 * entry(1, 1).size(),
        ..Config::new(GROUP, PeerId(1), 1)
    };
    let mut raft = Raft::restore(config, restored(1, &[])).expect("an honest story");
    let indexes = |raft: &mut Raft| {
        persist_all(raft);
        let committed = raft.ready().committed;
        committed.iter().map(|entry| entry.index).collect::<Vec<_>>()
    };
    raft.step(append(1, (0, 0), 3, vec![entry(1, 1), entry(1, 2), entry(1, 3)]))
        .unwrap();
    assert_eq!(indexes(&mut raft), [1, 2, 3]);
    raft.on_applied(1);
    raft.hold_apply(true);
    raft.step(append(1, (1, 3), 5, vec![entry(1, 4), entry(1, 5)])).unwrap();
    assert_eq!(indexes(&mut raft), [0; 0]);
    assert_eq!(
        (raft.commit(), raft.last_index()),
        (5, 5),
        "the append that crosses the limit is taken"
    );
    let sent = raft.ready().messages.len();
    raft.step(append(1, (1, 5), 6, vec![entry(1, 6)])).unwrap();
    assert_eq!(
        (raft.last_index(), raft.ready().messages.len()),
        (5, sent),
        "neither taken nor acked"
    );
    raft.hold_apply(false);
    assert_eq!(
        raft.ready()
            .committed
            .iter()
            .map(|entry| entry.index)
            .collect::<Vec<_>>(),
        [2, 3, 4, 5]
    );
    raft.on_applied(5);
    raft.step(append(1, (1, 5), 6, vec![entry(1, 6)])).unwrap();
    assert_eq!(indexes(&mut raft), [6]);
}
