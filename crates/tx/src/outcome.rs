use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use settle_base::{GroupTime, fingerprint};

use crate::{Global, GlobalStatus};

/// What is known of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<'a> {
    Open(&'a Global),
    Ended(GlobalStatus),
    /// It was begun and has ended, longer ago than outcomes are kept.
    Evicted,
    /// It was never begun (as far as this replica has applied).
    Unknown,
}

impl Outcome<'_> {
    /// The standing status; `Finished` when it is not known (any more), as Seata answers.
    pub fn status(&self) -> GlobalStatus {
        match self {
            Outcome::Open(global) => global.status,
            Outcome::Ended(status) => *status,
            Outcome::Evicted | Outcome::Unknown => GlobalStatus::Finished,
        }
    }

    /// See [`GlobalStatus::commit_answer`].
    pub fn commit_answer(&self) -> Option<GlobalStatus> {
        self.status().commit_answer()
    }

    /// See [`GlobalStatus::rollback_answer`].
    pub fn rollback_answer(&self) -> Option<GlobalStatus> {
        self.status().rollback_answer()
    }
}

pub(crate) const CHUNK_LEN: usize = 4_096;
/// Ends are dated to the minute, so that a chunk changes its place in the eviction order at most once a minute.
const MINUTE_MS: u64 = 60_000;
/// A chunk's statuses and its places in two trees.
const CHUNK_BYTES: u64 = CHUNK_LEN as u64 + 96;

/// The outcomes of ended transactions: one byte per sequence, in chunks that go when their newest end is too old, or
/// when there are too many (the chunk with the oldest newest end first).
#[derive(Default)]
pub(crate) struct Outcomes {
    chunks: BTreeMap<u64, OutcomeChunk>,
    by_age: BTreeSet<(u64, u64)>,
    /// A commutative hash of all kept outcomes and of the chunks' ages, so that hashing the state reads none of them.
    digest: u64,
}

#[derive(Clone)]
pub(crate) struct OutcomeChunk {
    /// 0, or the status that the sequence ended with. Shared with snapshots, copied when one is written to.
    pub statuses: Arc<[u8; CHUNK_LEN]>,
    pub newest_end_minute: u64,
}

impl Outcomes {
    pub fn record(&mut self, seq: u64, status: GlobalStatus, now: GroupTime) {
        assert!(status.is_ended(), "{status} is no outcome");
        let (index, at) = place(seq);
        let minute = now.0 / MINUTE_MS;
        let by_age = &mut self.by_age;
        let digest = &mut self.digest;
        let chunk = self.chunks.entry(index).or_insert_with(|| {
            by_age.insert((minute, index));
            *digest = digest.wrapping_add(digest_of_age(minute, index));
            OutcomeChunk {
                statuses: Arc::new([0; CHUNK_LEN]),
                newest_end_minute: minute,
            }
        });
        if chunk.newest_end_minute != minute {
            assert!(chunk.newest_end_minute < minute, "group time never falls");
            by_age.remove(&(chunk.newest_end_minute, index));
            by_age.insert((minute, index));
            let earlier = digest_of_age(chunk.newest_end_minute, index);
            *digest = digest.wrapping_sub(earlier).wrapping_add(digest_of_age(minute, index));
            chunk.newest_end_minute = minute;
        }
        let slot = &mut Arc::make_mut(&mut chunk.statuses)[at];
        assert_eq!(*slot, 0, "sequence {seq} has ended before");
        *slot = status.as_u8();
        self.digest = self.digest.wrapping_add(digest_of(seq, status.as_u8()));
    }

    pub fn get(&self, seq: u64) -> Option<GlobalStatus> {
        let (index, at) = place(seq);
        let status = self.chunks.get(&index)?.statuses[at];
        GlobalStatus::try_from(status).ok().filter(|status| status.is_ended())
    }

    /// Forgets what is older than `retention_ms`, and the oldest while there is more than `bytes_max`; the newest
    /// chunk stays.
    pub fn evict(&mut self, now: GroupTime, retention_ms: u64, bytes_max: u64) {
        while let Some(&(minute, index)) = self.by_age.first() {
            // An end is at most a minute after the start of its minute.
            let is_old = (minute + 1).saturating_mul(MINUTE_MS).saturating_add(retention_ms) <= now.0;
            let is_too_much = self.bytes() > bytes_max && self.chunks.len() > 1;
            if !is_old && !is_too_much {
                break;
            }
            self.by_age.remove(&(minute, index));
            let chunk = self.chunks.remove(&index).expect("both tables hold the same chunks");
            self.digest = self.digest.wrapping_sub(digest_of_chunk(index, &chunk));
        }
    }

    pub fn bytes(&self) -> u64 {
        self.chunks.len() as u64 * CHUNK_BYTES
    }

    /// Changes when any kept outcome or the age of any chunk does.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn chunks(&self) -> impl DoubleEndedIterator<Item = (u64, &OutcomeChunk)> {
        self.chunks.iter().map(|(index, chunk)| (*index, chunk))
    }

    /// Takes in a chunk of a snapshot; false when it is there already or holds what is no outcome.
    pub fn load(&mut self, index: u64, newest_end_minute: u64, statuses: &[u8; CHUNK_LEN]) -> bool {
        let is_outcome = |code: &u8| *code == 0 || GlobalStatus::try_from(*code).is_ok_and(GlobalStatus::is_ended);
        if self.chunks.contains_key(&index) || !statuses.iter().all(is_outcome) {
            return false;
        }
        let chunk = OutcomeChunk {
            statuses: Arc::new(*statuses),
            newest_end_minute,
        };
        self.digest = self.digest.wrapping_add(digest_of_chunk(index, &chunk));
        self.by_age.insert((newest_end_minute, index));
        self.chunks.insert(index, chunk);
        true
    }

    /// # Panics
    /// When the tables disagree.
    pub fn check(&self) {
        assert_eq!(self.chunks.len(), self.by_age.len());
        let digests = self.chunks.iter().map(|(index, chunk)| {
            assert!(
                self.by_age.contains(&(chunk.newest_end_minute, *index)),
                "chunk {index} has no age"
            );
            digest_of_chunk(*index, chunk)
        });
        assert_eq!(
            digests.fold(0, u64::wrapping_add),
            self.digest,
            "the digest is that of the outcomes"
        );
    }
}

fn place(seq: u64) -> (u64, usize) {
    (seq / CHUNK_LEN as u64, (seq % CHUNK_LEN as u64) as usize)
}

fn digest_of(seq: u64, status: u8) -> u64 {
    let mut bytes = [0; 9];
    bytes[..8].copy_from_slice(&seq.to_le_bytes());
    bytes[8] = status;
    fingerprint(&bytes)
}

fn digest_of_age(minute: u64, index: u64) -> u64 {
    fingerprint([minute, index].map(u64::to_le_bytes).as_flattened())
}

fn digest_of_chunk(index: u64, chunk: &OutcomeChunk) -> u64 {
    let first = index.wrapping_mul(CHUNK_LEN as u64);
    let kept = chunk.statuses.iter().enumerate().filter(|(_, status)| **status != 0);
    let age = digest_of_age(chunk.newest_end_minute, index);
    kept.fold(age, |digest, (at, status)| {
        digest.wrapping_add(digest_of(first.wrapping_add(at as u64), *status))
    })
}
