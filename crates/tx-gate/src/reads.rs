//! Questions to one group that must be answered from a state no older than the question. One read asked of the group
//! serves all that wait for it.

use std::{collections::BTreeMap, time::Duration};

use settle_base::Mono;

/// Reads asked and not answered, at most.
const OUT_MAX: usize = 64;
/// A lost read is asked again after this pause, so that a group without a leader is not asked without end.
const PAUSE: Duration = Duration::from_millis(50);
/// A read that nobody said was lost is given up after this.
const LOST_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Asked<Q> {
    at: Mono,
    queries: Vec<Q>,
}

#[derive(Debug)]
pub(crate) struct Reads<Q> {
    waiting: Vec<Q>,
    out: BTreeMap<u64, Asked<Q>>,
    last_token: u64,
    not_before: Mono,
}

impl<Q> Reads<Q> {
    pub fn new() -> Reads<Q> {
        Reads {
            waiting: Vec::new(),
            out: BTreeMap::new(),
            last_token: 0,
            not_before: Mono::ZERO,
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len() + self.out.values().map(|asked| asked.queries.len()).sum::<usize>()
    }

    pub fn add(&mut self, query: Q) {
        self.waiting.push(query);
    }

    /// The token of a read to ask for now, if there is need for one.
    pub fn ask(&mut self, now: Mono) -> Option<u64> {
        if self.waiting.is_empty() || now < self.not_before || self.out.len() >= OUT_MAX {
            return None;
        }
        self.last_token += 1;
        self.out.insert(
            self.last_token,
            Asked {
                at: now,
                queries: std::mem::take(&mut self.waiting),
            },
        );
        Some(self.last_token)
    }

    /// The queries that may be answered now.
    pub fn ready(&mut self, token: u64) -> Vec<Q> {
        self.out.remove(&token).map_or(Vec::new(), |asked| asked.queries)
    }

    pub fn dropped(&mut self, token: u64, now: Mono) {
        if let Some(asked) = self.out.remove(&token) {
            self.waiting.extend(asked.queries);
            self.not_before = now + PAUSE;
        }
    }

    /// Gives up lost reads and takes out the queries that are over.
    pub fn expire(&mut self, now: Mono, mut is_over: impl FnMut(&Q) -> bool) -> Vec<Q> {
        while let Some((token, asked)) = self.out.first_key_value()
            && now.since(asked.at) >= LOST_AFTER
        {
            let token = *token;
            self.dropped(token, now);
        }
        let mut over = Vec::new();
        let lists = self.out.values_mut().map(|asked| &mut asked.queries);
        for list in lists.chain([&mut self.waiting]) {
            over.extend(list.extract_if(.., |query| is_over(query)));
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono::from_millis(millis)
    }

    #[test]
    fn one_read_serves_all_that_waited_and_none_that_came_after() {
        let mut reads = Reads::new();
        reads.add("a");
        reads.add("b");
        let token = reads.ask(at(0)).expect("two wait");
        reads.add("c");
        assert_eq!(reads.ready(token), ["a", "b"]);
        assert_eq!(reads.ready(token), [] as [&str; 0]);
        assert_eq!(reads.len(), 1);
    }

    #[test]
    fn a_dropped_read_is_asked_again_but_not_at_once() {
        let mut reads = Reads::new();
        reads.add("a");
        let token = reads.ask(at(0)).expect("one waits");
        reads.dropped(token, at(10));
        assert_eq!(reads.ask(at(10)), None);
        let again = reads.ask(at(60)).expect("the pause is over");
        assert_eq!(reads.ready(token), [] as [&str; 0], "the lost read serves nobody");
        assert_eq!(reads.ready(again), ["a"]);
    }

    #[test]
    fn a_read_that_is_never_answered_is_given_up_and_its_queries_end_with_their_hold() {
        let mut reads = Reads::new();
        reads.add("a");
        reads.ask(at(0));
        assert!(reads.expire(at(2_000), |_| false).is_empty());
        assert!(reads.ask(at(2_060)).is_some());
        assert_eq!(reads.expire(at(2_100), |_| true), ["a"]);
        assert_eq!(reads.len(), 0);
    }
}
