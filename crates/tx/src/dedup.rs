use std::collections::BTreeMap;

use settle_base::{GroupTime, fingerprint};
use settle_machine::SharedMap;

use crate::{Reply, ReqId, TxError, dedup_codec::put_result, encoding::put_u64};

/// Results kept per origin; when there are more, the oldest sequence goes and everything up to it counts as settled.
pub(crate) const RESULTS_MAX: usize = 65_536;
/// Origins kept, at most.
pub(crate) const ORIGINS_MAX: usize = 256;
/// An origin gives its place to a new one after so long without a command. Gates re-propose for seconds, so what such
/// an origin asked is long settled; a younger one is never forgotten, or a repetition would be done twice.
const ORIGIN_UNUSED_MS: u64 = 60 * 60 * 1_000;

/// The results of requests that may be asked again.
#[derive(Default)]
pub(crate) struct Dedup {
    pub(crate) origins: BTreeMap<u64, Origin>,
    results: u64,
    buffer: Vec<u8>,
}

#[derive(Clone, Default)]
pub(crate) struct Origin {
    pub last_used: GroupTime,
    /// Requests below are settled: one that still arrives is a late copy and must not be done.
    pub floor: u64,
    results: SharedMap<u64, Kept>,
    /// The sum of the results' digests.
    digest: u64,
}

#[derive(Clone)]
struct Kept {
    result: Result<Reply, TxError>,
    digest: u64,
}

/// What is known of a request.
pub(crate) enum Seen {
    New,
    Again(Result<Reply, TxError>),
    Settled,
    /// There is no room to remember a request of this origin, so it must not be done.
    NoRoom,
}

impl Dedup {
    pub fn look_up(&mut self, req: ReqId, settled_below: u64, now: GroupTime) -> Seen {
        let is_full = !self.origins.contains_key(&req.origin) && self.origins.len() == ORIGINS_MAX;
        if is_full && !self.forget_unused_origin(now) {
            return Seen::NoRoom;
        }
        let origin = self.origins.entry(req.origin).or_default();
        origin.last_used = now;
        origin.floor = origin.floor.max(settled_below);
        while origin.results().next().is_some_and(|(seq, _)| seq < origin.floor) {
            origin.forget_oldest();
            self.results -= 1;
        }
        if req.seq < origin.floor {
            return Seen::Settled;
        }
        match origin.results.get(&req.seq) {
            Some(kept) => Seen::Again(kept.result.clone()),
            None => Seen::New,
        }
    }

    pub fn store(&mut self, req: ReqId, result: Result<Reply, TxError>) {
        let origin = self
            .origins
            .get_mut(&req.origin)
            .expect("the request was looked up before it was done");
        origin.keep(req.seq, result, &mut self.buffer);
        self.results += 1;
        if origin.results.len() > RESULTS_MAX {
            origin.floor = origin.forget_oldest() + 1;
            self.results -= 1;
        }
    }

    pub fn results(&self) -> u64 {
        self.results
    }

    /// A hash of everything that is kept. It reads the origins, of which there are few, and none of their results.
    pub fn digest(&self) -> u64 {
        self.origins.iter().fold(0, |digest, (id, origin)| {
            let fields = [*id, origin.last_used.0, origin.floor, origin.digest].map(u64::to_le_bytes);
            digest.wrapping_add(fingerprint(fields.as_flattened()))
        })
    }

    /// # Panics
    /// When the digests are not those of the results.
    pub fn check(&self) {
        for (id, origin) in &self.origins {
            let mut again = Origin::default();
            for (seq, result) in origin.results() {
                again.keep(seq, result.clone(), &mut Vec::new());
            }
            assert_eq!(again.digest, origin.digest, "the digest of origin {id}");
        }
    }

    /// Takes in an origin of a snapshot.
    pub fn load(&mut self, id: u64, origin: Origin) {
        self.results += origin.results.len() as u64;
        self.origins.insert(id, origin);
    }

    /// False when every origin was used within the last hour.
    fn forget_unused_origin(&mut self, now: GroupTime) -> bool {
        let (id, last_used) = self
            .origins
            .iter()
            .map(|(id, origin)| (*id, origin.last_used))
            .min_by_key(|(id, last_used)| (*last_used, *id))
            .expect("a full table is not empty");
        if now.0.saturating_sub(last_used.0) <= ORIGIN_UNUSED_MS {
            return false;
        }
        let origin = self.origins.remove(&id).expect("it was just seen");
        self.results -= origin.results.len() as u64;
        true
    }
}

impl Origin {
    /// Oldest first.
    pub fn results(&self) -> impl Iterator<Item = (u64, &Result<Reply, TxError>)> {
        self.results.iter().map(|(seq, kept)| (*seq, &kept.result))
    }

    pub fn result_count(&self) -> u64 {
        self.results.len() as u64
    }

    /// `buffer` is for encoding.
    pub fn keep(&mut self, seq: u64, result: Result<Reply, TxError>, buffer: &mut Vec<u8>) {
        buffer.clear();
        put_u64(buffer, seq);
        put_result(buffer, &result);
        let digest = fingerprint(buffer);
        self.digest = self.digest.wrapping_add(digest);
        let earlier = self.results.insert(seq, Kept { result, digest });
        assert!(earlier.is_none(), "request {seq} was done twice");
    }

    fn forget_oldest(&mut self) -> u64 {
        let (seq, kept) = self.results.pop_first().expect("there is one");
        self.digest = self.digest.wrapping_sub(kept.digest);
        seq
    }
}
