//! Rules of peers whose log was damaged in its last batch, played against one peer message by message.

use bytes::Bytes;
use settle_base::{GroupId, GroupTime};
use settle_raft::{
    Body, ConfState, Config, Entry, EntryKind, HardState, Index, Message, PeerId, Raft, Ready, Restored, Role,
    SnapshotMeta, Term,
};

const GROUP: GroupId = GroupId(1);
/// For so many ticks a recovering peer says nothing about votes.
const SILENCE: u32 = 40;

/// p1 of `voters` in term 1, its log one entry long.
fn peer_of(voters: &[u64], recovering: Option<u64>) -> Raft {
    let restored = Restored {
        hard_state: HardState {
            term: 1,
            ..HardState::default()
        },
        snapshot: SnapshotMeta {
            conf: ConfState::of_voters(voters.iter().copied().map(PeerId)),
            ..SnapshotMeta::default()
        },
        entries: vec![Entry {
            term: 1,
            index: 1,
            kind: EntryKind::Normal,
            time: GroupTime::ZERO,
            data: Bytes::new(),
        }],
        recovering,
    };
    Raft::restore(Config::new(GROUP, PeerId(1), 1), restored).expect("an honest story")
}

/// The same after the silence.
fn patient(voters: &[u64], recovering: Option<u64>) -> Raft {
    let mut raft = peer_of(voters, recovering);
    let ticks = if recovering.is_some() { SILENCE } else { 0 };
    (0..ticks).for_each(|_| raft.tick());
    assert_eq!(raft.role(), Role::Follower, "whole peers come first");
    raft
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

fn pre_grant(id: u64, term: Term, recovering: Option<u64>) -> Message {
    from(
        id,
        term,
        Body::PreVoteReply {
            granted: true,
            commit: (0, 0),
            recovering,
        },
    )
}

fn grant(id: u64, term: Term, recovering: Option<u64>) -> Message {
    from(
        id,
        term,
        Body::VoteReply {
            granted: true,
            recovering,
        },
    )
}

fn ack(id: u64, term: Term, index: Index, recovering: Option<u64>) -> Message {
    from(
        id,
        term,
        Body::AppendReply {
            result: Ok(index),
            recovering,
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

/// p1, recovering itself or not, asks p2 and p3, both recovering; they grant the pre-vote.
fn candidate(recovering: Option<u64>) -> Raft {
    let mut raft = patient(&[1, 2, 3], recovering);
    raft.campaign();
    raft.step(pre_grant(2, 2, Some(22))).expect("an honest story");
    assert_eq!(raft.role(), Role::PreCandidate, "p3 may be the one that knows better");
    raft.step(pre_grant(3, 2, Some(33))).expect("an honest story");
    assert_eq!(raft.role(), Role::Candidate);
    persist_all(&mut raft);
    raft
}

fn leader(recovering: Option<u64>) -> Raft {
    let mut raft = candidate(recovering);
    raft.step(grant(2, 2, Some(22))).expect("an honest story");
    assert_eq!(
        raft.role(),
        Role::Candidate,
        "two of three are a quorum, but no whole one"
    );
    raft.step(grant(3, 2, Some(33))).expect("an honest story");
    assert!(raft.is_leader());
    persist_all(&mut raft);
    raft
}

fn sent_to(ready: &Ready, id: u64) -> Vec<&Body> {
    let after = ready.persist.iter().flat_map(|persist| &persist.after);
    let all = ready.messages.iter().chain(after);
    all.filter(|m| m.to == PeerId(id)).map(|m| &m.body).collect()
}

#[test]
fn a_recovering_voter_is_silent_for_a_while_and_then_says_what_its_grant_is_worth() {
    let mut raft = peer_of(&[1, 2, 3], Some(11));
    let vote = from(
        2,
        2,
        Body::Vote {
            last_index: 1,
            last_term: 1,
            force: false,
        },
    );
    (1..SILENCE).for_each(|_| raft.tick());
    raft.step(vote.clone()).unwrap();
    raft.campaign();
    assert_eq!((raft.term(), raft.role()), (1, Role::Follower));
    raft.tick();
    raft.step(vote).unwrap();
    let ready = raft.ready();
    let persist = ready.persist.as_ref().expect("the vote is kept like any other");
    assert_eq!(
        persist.hard_state.map(|state| (state.term, state.vote)),
        Some((2, PeerId(2)))
    );
    let granted = Body::VoteReply {
        granted: true,
        recovering: Some(11),
    };
    assert_eq!(sent_to(&ready, 2), [&granted]);
}

#[test]
fn grants_of_recovering_voters_elect_only_all_together() {
    leader(None);
}

#[test]
fn one_refusal_ends_an_election_by_all() {
    let mut raft = candidate(None);
    raft.step(grant(2, 2, Some(22))).unwrap();
    let refusal = Body::VoteReply {
        granted: false,
        recovering: Some(33),
    };
    raft.step(from(3, 2, refusal)).unwrap();
    assert_eq!(raft.role(), Role::Follower);
}

#[test]
fn a_recovering_candidate_is_not_elected_by_a_quorum_of_whole_voters() {
    let mut raft = patient(&[1, 2, 3, 4, 5], Some(11));
    raft.campaign();
    for id in 2..=4 {
        raft.step(pre_grant(id, 2, None)).unwrap();
    }
    assert_eq!(raft.role(), Role::PreCandidate);
    raft.step(pre_grant(5, 2, None)).unwrap();
    persist_all(&mut raft);
    for id in 2..=4 {
        raft.step(grant(id, 2, None)).unwrap();
    }
    assert_eq!(raft.role(), Role::Candidate);
    raft.step(grant(5, 2, None)).unwrap();
    assert!(raft.is_leader());
}

#[test]
fn a_recovering_peer_does_not_campaign_without_a_pre_vote() {
    let mut raft = patient(&[1, 2, 3], Some(11));
    let heartbeat = Body::Heartbeat {
        commit: 0,
        read_seq: 0,
        recover_to: None,
        rest: false,
    };
    raft.step(from(2, 1, heartbeat)).unwrap();
    raft.step(from(2, 1, Body::TimeoutNow)).unwrap();
    assert_eq!(raft.role(), Role::Follower);
}

#[test]
fn a_voter_that_lost_its_tail_between_its_two_grants_elects_nobody() {
    let mut raft = candidate(None);
    raft.step(grant(2, 2, Some(22))).unwrap();
    raft.step(grant(3, 2, Some(34))).unwrap();
    assert_eq!(
        raft.role(),
        Role::Follower,
        "between the two it may have voted in a later term and forgotten it"
    );
}

#[test]
fn who_was_voted_for_in_a_term_is_not_encouraged_to_campaign_in_it_again() {
    let mut raft = peer_of(&[1, 2, 3], None);
    let (last_index, last_term, force) = (1, 1, false);
    let vote = Body::Vote {
        last_index,
        last_term,
        force,
    };
    raft.step(from(2, 2, vote)).unwrap();
    persist_all(&mut raft);
    raft.ready();
    let pre_vote = Body::PreVote {
        last_index,
        last_term,
        commit: (0, 0),
        priority: 100,
    };
    raft.step(from(2, 2, pre_vote.clone())).unwrap();
    let answer = |granted| Body::PreVoteReply {
        granted,
        commit: (0, 0),
        recovering: None,
    };
    assert_eq!(
        sent_to(&raft.ready(), 2),
        [&answer(false)],
        "it may have led term 2 and have lost that"
    );
    raft.step(from(2, 3, pre_vote)).unwrap();
    assert_eq!(sent_to(&raft.ready(), 2), [&answer(true)]);
}

#[test]
fn recovering_voters_that_elected_a_leader_count_for_it_and_all_are_whole_with_its_first_entry() {
    let mut raft = leader(Some(11));
    assert!(raft.is_recovering());
    raft.step(ack(2, 2, 2, Some(22))).unwrap();
    assert_eq!(raft.commit(), 2, "its own copy and p2's");
    assert!(!raft.is_recovering(), "what it holds is confirmed by a quorum");
    (0..2).for_each(|_| raft.tick());
    let ready = raft.ready();
    let told = sent_to(&ready, 2).into_iter().find_map(|body| match body {
        Body::Heartbeat { recover_to, .. } => Some(*recover_to),
        _ => None,
    });
    assert_eq!(told, Some(Some((22, 2))), "and p2 is told that it is whole");
    raft.step(ack(2, 2, 2, None)).unwrap();
    assert!(!raft.status().progress[0].recovering);
    // Lanes may overtake each other.
    let late = Body::HeartbeatReply {
        read_seq: 0,
        recovering: Some(22),
        rested: false,
    };
    raft.step(from(2, 2, late)).unwrap();
    assert!(!raft.status().progress[0].recovering, "a late word of the same loss");
}

#[test]
fn a_voter_that_loses_its_tail_after_its_grant_counts_no_more() {
    let mut raft = leader(None);
    raft.step(ack(2, 2, 2, Some(23))).unwrap();
    assert_eq!(raft.commit(), 0);
    raft.step(ack(3, 2, 2, Some(33))).unwrap();
    assert_eq!(raft.commit(), 2);
}

#[test]
fn a_leader_for_whom_too_few_count_steps_down() {
    let mut raft = leader(None);
    for _ in 0..10 {
        assert!(raft.is_leader());
        for (id, number) in [(2, 24), (3, 34)] {
            let answer = Body::HeartbeatReply {
                read_seq: 0,
                recovering: Some(number),
                rested: false,
            };
            raft.step(from(id, 2, answer)).unwrap();
        }
        raft.tick();
    }
    assert_eq!(
        raft.role(),
        Role::Follower,
        "only an election by all can go on from here"
    );
}

#[test]
fn a_recovering_peer_commits_only_what_the_leader_has_shown_it_since() {
    let mut raft = peer_of(&[1, 2, 3], Some(11));
    let heartbeat = Body::Heartbeat {
        commit: 1,
        read_seq: 0,
        recover_to: None,
        rest: false,
    };
    raft.step(from(2, 2, heartbeat.clone())).unwrap();
    assert_eq!(
        raft.commit(),
        0,
        "the leader knows of an entry that was acked and lost, not of the older one below it"
    );
    let append = Body::Append {
        prev_index: 1,
        prev_term: 1,
        commit: 0,
        entries: vec![],
    };
    raft.step(from(2, 2, append)).unwrap();
    raft.step(from(2, 2, heartbeat)).unwrap();
    assert_eq!(raft.commit(), 1);
}

#[test]
fn a_recovering_group_of_one_goes_on_alone() {
    let mut raft = peer_of(&[1], Some(11));
    for _ in 0..2 * SILENCE {
        raft.tick();
        persist_all(&mut raft);
    }
    assert!(raft.is_leader() && !raft.is_recovering());
    assert_eq!(raft.commit(), 2);
}
