use std::collections::BTreeMap;

use settle_base::Index;

use crate::{Reply, ReqId, TxError};

/// Results kept per origin; when there are more, the oldest sequence goes and everything up to it counts as settled.
pub(crate) const RESULTS_MAX: usize = 65_536;
/// Origins kept; when there are more, the one that was used longest ago goes.
pub(crate) const ORIGINS_MAX: usize = 256;

/// The results of requests that may be asked again.
#[derive(Default)]
pub(crate) struct Dedup {
    pub(crate) origins: BTreeMap<u64, Origin>,
    results: u64,
}

#[derive(Default)]
pub(crate) struct Origin {
    pub last_used: Index,
    /// Requests below are settled: one that still arrives is a late copy and must not be done.
    pub floor: u64,
    pub results: BTreeMap<u64, Result<Reply, TxError>>,
}

/// What is known of a request.
pub(crate) enum Seen {
    New,
    Again(Result<Reply, TxError>),
    Settled,
}

impl Dedup {
    pub fn look_up(&mut self, req: ReqId, settled_below: u64, index: Index) -> Seen {
        if !self.origins.contains_key(&req.origin) && self.origins.len() == ORIGINS_MAX {
            self.forget_oldest_origin();
        }
        let origin = self.origins.entry(req.origin).or_default();
        origin.last_used = index;
        origin.floor = origin.floor.max(settled_below);
        while let Some(oldest) = origin
            .results
            .first_entry()
            .filter(|oldest| *oldest.key() < origin.floor)
        {
            drop(oldest.remove());
            self.results -= 1;
        }
        if req.seq < origin.floor {
            return Seen::Settled;
        }
        match origin.results.get(&req.seq) {
            Some(result) => Seen::Again(result.clone()),
            None => Seen::New,
        }
    }

    pub fn store(&mut self, req: ReqId, result: Result<Reply, TxError>) {
        let origin = self
            .origins
            .get_mut(&req.origin)
            .expect("the request was looked up before it was done");
        let earlier = origin.results.insert(req.seq, result);
        assert!(earlier.is_none(), "request {req:?} was done twice");
        self.results += 1;
        if origin.results.len() > RESULTS_MAX {
            let (seq, _) = origin.results.pop_first().expect("it is not empty");
            origin.floor = seq + 1;
            self.results -= 1;
        }
    }

    pub fn results(&self) -> u64 {
        self.results
    }

    /// Takes in an origin of a snapshot.
    pub fn load(&mut self, id: u64, origin: Origin) {
        self.results += origin.results.len() as u64;
        self.origins.insert(id, origin);
    }

    fn forget_oldest_origin(&mut self) {
        let oldest = self
            .origins
            .iter()
            .min_by_key(|(id, origin)| (origin.last_used, **id))
            .map(|(id, _)| *id);
        if let Some(origin) = oldest.and_then(|id| self.origins.remove(&id)) {
            self.results -= origin.results.len() as u64;
        }
    }
}
