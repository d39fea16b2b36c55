//! Dead segments that become new ones.
//!
//! A segment whose last entry died is renamed into a spare, zeroed in small steps that nobody waits for, synced, and then
//! renamed into the next segment: its blocks are allocated and written already, so a sync has only data to write. Since
//! it is all zeros by then, what follows the last batch stays zeros, which recovery takes for no damage. A crash leaves a
//! spare of unknown contents; it is zeroed again.
//!
//! The last spare is not for use: its space is what a start on a full disk has for its copy (`unproven.rs`). Opening makes
//! one when there is none.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use settle_storage::{Completion, Disk, DiskError, DiskErrorKind, DiskRead, FileName, Op, Token};

use crate::{WalOptions, format::SPARE_PREFIX};

pub(crate) fn is_spare(name: &FileName) -> bool {
    name.as_str().starts_with(SPARE_PREFIX)
}

fn spare_name(number: u64) -> FileName {
    FileName::new(&format!("{SPARE_PREFIX}{number:016x}")).expect("hex digits make a valid name")
}

#[derive(Default)]
pub(crate) struct Spares {
    /// Not known to be zeros, and their lengths.
    dirty: VecDeque<(FileName, u64)>,
    /// The first of `dirty` is being zeroed: up to here, by this operation.
    step: Option<Step>,
    ready: VecDeque<(FileName, u64)>,
    /// Could not be zeroed, and is the last one: nothing but its space is of worth.
    unfit: Option<FileName>,
    /// Of those that are too many.
    removing: BTreeMap<u64, FileName>,
    named: u64,
    zeros: Bytes,
}

struct Step {
    token: u64,
    zeroed: u64,
    is_sync: bool,
}

impl Spares {
    /// What an earlier process left, and one that was made just now.
    pub(crate) fn new(found: Vec<(FileName, u64)>, made: Option<(FileName, u64)>) -> Spares {
        let last = found.iter().chain(&made).filter_map(|(name, _)| {
            let digits = name.as_str().strip_prefix(SPARE_PREFIX)?;
            u64::from_str_radix(digits, 16).ok()
        });
        Spares {
            named: last.max().map_or(0, |last| last + 1),
            ready: made.into_iter().collect(),
            dirty: found.into(),
            ..Spares::default()
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.dirty.len() + self.ready.len() + usize::from(self.unfit.is_some())
    }

    /// Makes one, to be the last. `None` when the disk has no room for it either.
    ///
    /// # Errors
    /// When the disk fails otherwise.
    pub(crate) fn make(disk: &mut impl DiskRead, len: u64) -> Result<Option<(FileName, u64)>, DiskError> {
        let (file, reserve) = (spare_name(0), len);
        let create = Op::Create {
            file: file.clone(),
            reserve,
        };
        match disk.run(create) {
            Err(error) if error.kind == DiskErrorKind::NoSpace => Ok(None),
            done => done.map(|()| Some((file, len))),
        }
    }

    /// A name that no file has.
    pub(crate) fn next_name(&mut self) -> FileName {
        self.named += 1;
        spare_name(self.named)
    }

    pub(crate) fn add(&mut self, name: FileName, len: u64) {
        self.dirty.push_back((name, len));
    }

    /// A zeroed file of `len` bytes, if it is not the last spare.
    pub(crate) fn take(&mut self, len: u64) -> Option<FileName> {
        if self.count() <= 1 {
            return None;
        }
        let at = self.ready.iter().position(|(_, of)| *of == len)?;
        self.ready.remove(at).map(|(name, _)| name)
    }

    /// One more step, if none is under way. Also gives up what is too much, and all but one when the disk is full.
    pub(crate) fn go_on(&mut self, options: &WalOptions, is_full: bool, next_token: &mut u64, disk: &mut impl Disk) {
        if self.count() > 1
            && let Some(file) = self.unfit.take()
        {
            self.remove(file, next_token, disk);
        }
        let max = if is_full { 1 } else { options.spares_max };
        let is_busy = usize::from(self.step.is_some());
        while self.dirty.len() > is_busy && self.count() > max {
            let (file, _) = self.dirty.pop_back().expect("it was just seen");
            self.remove(file, next_token, disk);
        }
        while self.count() > max && self.ready.len() > 1 {
            let (file, _) = self.ready.pop_back().expect("it was just seen");
            self.remove(file, next_token, disk);
        }
        if self.step.is_none() && !self.dirty.is_empty() {
            self.submit_step(0, options, next_token, disk);
        }
    }

    fn submit_step(&mut self, zeroed: u64, options: &WalOptions, next_token: &mut u64, disk: &mut impl Disk) {
        let (file, len) = self.dirty.front().expect("there is one to be zeroed").clone();
        let token = *next_token;
        *next_token += 1;
        let is_sync = zeroed >= len;
        self.step = Some(Step { token, zeroed, is_sync });
        if is_sync {
            return disk.submit(Token(token), Op::Sync { file });
        }
        if self.zeros.len() != options.spare_step_bytes {
            self.zeros = vec![0; options.spare_step_bytes].into();
        }
        let offset = zeroed;
        let data = self.zeros.slice(..self.zeros.len().min((len - zeroed) as usize));
        disk.submit(Token(token), Op::Write { file, offset, data });
    }

    /// Whether the completion was of a spare.
    pub(crate) fn complete(
        &mut self,
        completion: &Completion,
        options: &WalOptions,
        next_token: &mut u64,
        disk: &mut impl Disk,
    ) -> bool {
        let token = completion.token.0;
        if self.removing.remove(&token).is_some() {
            return true;
        }
        let Some(step) = self.step.take_if(|step| step.token == token) else {
            return false;
        };
        if completion.result.is_err() {
            let (file, _) = self.dirty.pop_front().expect("it was being zeroed");
            match self.count() {
                0 => self.unfit = Some(file),
                // A spare is worth no trouble.
                _ => self.remove(file, next_token, disk),
            }
        } else if step.is_sync {
            let spare = self.dirty.pop_front().expect("it was being zeroed");
            self.ready.push_back(spare);
        } else {
            let zeroed = step.zeroed + options.spare_step_bytes as u64;
            self.submit_step(zeroed, options, next_token, disk);
        }
        true
    }

    fn remove(&mut self, file: FileName, next_token: &mut u64, disk: &mut impl Disk) {
        let token = *next_token;
        *next_token += 1;
        self.removing.insert(token, file.clone());
        disk.submit(Token(token), Op::Remove { file });
    }
}
