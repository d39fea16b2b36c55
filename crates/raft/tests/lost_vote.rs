//! A candidate is paused while the grants that it needs wait in its sockets; some of the voters that gave them forget
//! them in crashes with torn tails. Then everybody goes on, in any order. No term has two leaders, whoever wins
//! (the checks of `cluster` at each step), and the group heals.

mod cluster;

use cluster::Cluster;
use settle_base::Prng;
use settle_raft::{Body, Message, Raft, Role};

const SEEDS: u64 = 300;
const ELECTION_TICKS: u32 = 6;
const CANDIDATE: u64 = 1;

#[derive(Default, Debug)]
struct Coverage {
    /// The paused candidate won the term with a grant that its giver had forgotten.
    won_by_forgotten_grant: u64,
    /// Another peer was elected before the candidate led its term, or instead.
    others_elected: u64,
    elections_by_all: u64,
}

struct Story {
    cluster: Cluster,
    prng: Prng,
    voters: u64,
    /// Received by the candidate's node, and not read.
    unread: Vec<Message>,
    is_paused: bool,
}

impl Story {
    fn others(&self) -> std::ops::RangeInclusive<u64> {
        2..=self.voters
    }

    fn work(&mut self, id: u64) {
        while self.cluster.pump(id).is_some() {
            while self.cluster.persist(id) {}
        }
    }

    fn deliver(&mut self, is_chosen: impl Fn(&Message) -> bool) {
        let (chosen, left) = std::mem::take(&mut self.cluster.network)
            .into_iter()
            .partition(|message| is_chosen(message));
        self.cluster.network = left;
        let chosen: Vec<Message> = chosen;
        chosen.into_iter().for_each(|message| self.cluster.deliver(message));
    }

    /// The candidate has asked, and some have granted; it has not read that. `None`: it got no pre-votes.
    fn begin(seed: u64) -> Option<Story> {
        let voters = 3 + seed % 3;
        let ids: Vec<u64> = (1..=voters).collect();
        let mut story = Story {
            cluster: Cluster::new(&ids, &[], seed, |config| config.election_ticks = ELECTION_TICKS),
            prng: Prng::from_parts(&[0x105e, seed]),
            voters,
            unread: Vec::new(),
            is_paused: true,
        };
        story.cluster.raft(voters).campaign();
        story.cluster.settle();
        for other in 1..voters {
            story.cluster.cut.extend([(other, voters), (voters, other)]);
            (0..ELECTION_TICKS).for_each(|_| story.cluster.raft(other).tick());
        }
        story.cluster.raft(CANDIDATE).campaign();
        story.work(CANDIDATE);
        story.deliver(|message| message.from.0 == CANDIDATE);
        story.others().for_each(|id| story.work(id));
        story.deliver(|message| message.to.0 == CANDIDATE);
        story.work(CANDIDATE);
        if story.cluster.raft(CANDIDATE).role() != Role::Candidate {
            return None;
        }
        // Whether the old leader hears of it is open.
        if story.prng.percent(50) {
            story.cluster.cut.clear();
        }
        story.deliver(|message| message.from.0 == CANDIDATE);
        story.others().for_each(|id| story.work(id));
        let network = std::mem::take(&mut story.cluster.network);
        story.unread = network.into_iter().filter(|m| m.to.0 == CANDIDATE).collect();
        story.cluster.cut.clear();
        Some(story)
    }

    /// Fewer than a quorum of the voters forget their grants. Returns how many.
    fn forget(&mut self) -> u64 {
        let granted = |message: &Message| matches!(message.body, Body::VoteReply { granted: true, .. });
        let mut givers: Vec<u64> = self.unread.iter().filter(|m| granted(m)).map(|m| m.from.0).collect();
        let most = (self.voters / 2).min(givers.len() as u64);
        let count = self.prng.below(most + 1);
        for _ in 0..count {
            let at = self.prng.below(givers.len() as u64) as usize;
            let id = givers.swap_remove(at);
            self.cluster.crash(id);
            self.cluster.rot(id, 1 + self.prng.below(2) as usize);
            self.cluster.restart(id, true);
        }
        count
    }

    fn step(&mut self) {
        let id = 1 + self.prng.below(self.voters);
        if self.is_paused && id == CANDIDATE {
            self.is_paused = !self.prng.percent(1);
            return;
        }
        match self.prng.below(100) {
            0..40 => self.deliver_any(),
            40..60 => drop(self.cluster.pump(id)),
            60..78 => drop(self.cluster.persist(id)),
            78..82 => drop(self.cluster.apply(id)),
            82..98 => self.cluster.raft(id).tick(),
            _ => self.cluster.raft(id).campaign(),
        }
        self.cluster.check(id);
    }

    fn deliver_any(&mut self) {
        let late = if self.is_paused { 0 } else { self.unread.len() };
        let all = late + self.cluster.network.len();
        if all == 0 {
            return;
        }
        let at = self.prng.below(all as u64) as usize;
        if at < late {
            let message = self.unread.remove(at);
            return self.cluster.deliver(message);
        }
        let message = self.cluster.network.remove(at - late);
        if message.to.0 != CANDIDATE {
            return self.cluster.deliver(message);
        }
        if self.is_paused {
            return self.cluster.network.push(message);
        }
        // Nothing of an earlier run of a peer arrives after something of a later one.
        while let Some(earlier) = self.unread.iter().position(|unread| unread.from == message.from) {
            let unread = self.unread.remove(earlier);
            self.cluster.deliver(unread);
        }
        self.cluster.deliver(message);
    }

    fn heal(&mut self) {
        for _ in 0..200 {
            self.cluster.settle();
            let is_whole = (1..=self.voters).all(|id| !self.cluster.raft(id).is_recovering());
            if is_whole && self.cluster.leader().is_some() {
                return;
            }
            (1..=self.voters).for_each(|id| self.cluster.raft(id).tick());
        }
        panic!("the group does not heal");
    }
}

fn run(seed: u64, coverage: &mut Coverage) {
    let Some(mut story) = Story::begin(seed) else { return };
    let term = story.cluster.raft(CANDIDATE).term();
    let forgotten = story.forget();
    let elections = story.cluster.promises.elections;
    let mut is_won = false;
    for _ in 0..3_000 {
        story.step();
        let raft: &Raft = story.cluster.nodes[&CANDIDATE].view();
        is_won |= raft.is_leader() && raft.term() == term;
    }
    story.is_paused = false;
    story.heal();
    coverage.won_by_forgotten_grant += u64::from(is_won && forgotten > 0);
    coverage.others_elected += u64::from(story.cluster.promises.elections > elections + u64::from(is_won));
    coverage.elections_by_all += story.cluster.promises.elections_by_all;
}

#[test]
fn a_lost_vote_and_a_paused_candidate_make_no_two_leaders_of_one_term() {
    let mut coverage = Coverage::default();
    for seed in 0..SEEDS {
        let one = std::panic::catch_unwind(|| {
            let mut coverage = Coverage::default();
            run(seed, &mut coverage);
            coverage
        });
        let one = one.unwrap_or_else(|_| panic!("seed {seed} failed"));
        coverage.won_by_forgotten_grant += one.won_by_forgotten_grant;
        coverage.others_elected += one.others_elected;
        coverage.elections_by_all += one.elections_by_all;
    }
    println!("{coverage:?}");
    for count in [
        coverage.won_by_forgotten_grant,
        coverage.others_elected,
        coverage.elections_by_all,
    ] {
        assert!(count > SEEDS / 20, "what never happens is not tested: {coverage:?}");
    }
}
