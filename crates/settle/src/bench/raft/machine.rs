//! What the bench replicates: a table of registers in pages that a snapshot shares with the running machine.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_machine::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};

/// One command of a client: kind, register, client, number, value.
pub const COMMAND_BYTES: usize = 128;
const HEAD_BYTES: usize = 1 + 4 + 8 + 4;
const VALUE_BYTES: usize = COMMAND_BYTES - HEAD_BYTES;
pub const PUT: u8 = 1;
pub const FILL: u8 = 2;

/// Registers of a page; the machine has as many pages as were filled, at least one.
const REGISTERS: usize = 36;
const PAGE_BYTES: usize = REGISTERS * VALUE_BYTES;
/// Pages that share one reference count, so that freezing a large machine touches few of them.
const CHAPTER_PAGES: usize = 256;
/// Pages of one chunk of a snapshot: a little below 64 KiB.
const CHUNK_PAGES: usize = 16;
/// More than any machine at hand holds.
const PAGES_MAX: usize = 4 << 20;

type Page = [u8; PAGE_BYTES];
type Chapter = Vec<Arc<Page>>;

/// A command that writes `value` (cut or filled to its place) to a register.
pub fn put_command(out: &mut BytesMut, register: u32, client: u64, number: u32) {
    out.put_u8(PUT);
    out.put_u32_le(register);
    out.put_u64_le(client);
    out.put_u32_le(number);
    let mut word = (u64::from(number) ^ client).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in 0..VALUE_BYTES.div_ceil(8) {
        word = word.wrapping_mul(0xd129_0d3a_1f5c_4b57).rotate_left(17);
        out.put_slice(&word.to_le_bytes()[..(VALUE_BYTES - chunk * 8).min(8)]);
    }
}

/// A command that adds `pages` pages of ready-made contents.
pub fn fill_command(out: &mut BytesMut, pages: u32, client: u64, number: u32) {
    out.put_u8(FILL);
    out.put_u32_le(pages);
    out.put_u64_le(client);
    out.put_u32_le(number);
}

/// How many pages make about `bytes` of state.
pub fn pages_of(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES as u64)
}

/// Whose command was applied. Every replica says so; the node that the client is connected to answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    pub client: u64,
    pub number: u32,
}

pub struct Registers {
    chapters: Vec<Arc<Chapter>>,
    pages: usize,
    hash: u64,
    /// Of a snapshot being loaded: what is not yet a whole page.
    loading: Option<BytesMut>,
}

impl Default for Registers {
    fn default() -> Registers {
        let mut registers = Registers {
            chapters: Vec::new(),
            pages: 0,
            hash: 0,
            loading: None,
        };
        registers.add_page(Arc::new([0; PAGE_BYTES]));
        registers
    }
}

struct Command<'a> {
    kind: u8,
    argument: u32,
    written: Written,
    value: &'a [u8],
}

fn read(command: &[u8]) -> Option<Command<'_>> {
    let mut head = command;
    if head.len() < HEAD_BYTES {
        return None;
    }
    let (kind, argument) = (head.get_u8(), head.get_u32_le());
    let (client, number) = (head.get_u64_le(), head.get_u32_le());
    let is_known = match kind {
        PUT => head.len() == VALUE_BYTES,
        FILL => head.is_empty() && argument as usize <= CHAPTER_PAGES,
        _ => false,
    };
    is_known.then_some(Command {
        kind,
        argument,
        written: Written { client, number },
        value: head,
    })
}

/// Each register's share of the state's hash, so that a write changes the hash by two shares.
fn share(register: usize, value: &[u8]) -> u64 {
    let sum = u64::from(crc32c::crc32c(value)) << 32 | register as u64;
    (sum ^ sum >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Registers {
    fn add_page(&mut self, page: Arc<Page>) {
        for (i, value) in page.chunks_exact(VALUE_BYTES).enumerate() {
            self.hash = self.hash.wrapping_add(share(self.pages * REGISTERS + i, value));
        }
        if self.pages.is_multiple_of(CHAPTER_PAGES) {
            self.chapters.push(Arc::new(Vec::with_capacity(CHAPTER_PAGES)));
        }
        let last = self.chapters.last_mut().expect("one was pushed when there was no room");
        Arc::make_mut(last).push(page);
        self.pages += 1;
    }

    fn put(&mut self, register: u32, value: &[u8]) {
        let register = register as usize % (self.pages * REGISTERS);
        let (page, place) = (register / REGISTERS, register % REGISTERS * VALUE_BYTES);
        let chapter = Arc::make_mut(&mut self.chapters[page / CHAPTER_PAGES]);
        let page = Arc::make_mut(&mut chapter[page % CHAPTER_PAGES]);
        let old = &mut page[place..place + VALUE_BYTES];
        self.hash = self
            .hash
            .wrapping_sub(share(register, old))
            .wrapping_add(share(register, value));
        old.copy_from_slice(value);
    }

    /// What was left of the chunks so far; before the first one, clears everything.
    fn start_loading(&mut self) -> BytesMut {
        self.loading.take().unwrap_or_else(|| {
            let (chapters, pages, hash) = (Vec::new(), 0, 0);
            *self = Registers {
                chapters,
                pages,
                hash,
                loading: None,
            };
            BytesMut::new()
        })
    }

    fn load_pages(&mut self, mut chunk: Bytes) -> Result<(), LoadError> {
        let broken = |reason: &str| LoadError {
            reason: reason.to_owned(),
        };
        if !chunk.len().is_multiple_of(PAGE_BYTES) {
            return Err(broken("a chunk is not made of whole pages"));
        }
        while chunk.has_remaining() {
            if self.pages == PAGES_MAX {
                return Err(broken("too many pages"));
            }
            let mut page = [0; PAGE_BYTES];
            chunk.copy_to_slice(&mut page);
            self.add_page(Arc::new(page));
        }
        Ok(())
    }
}

impl StateMachine for Registers {
    type Effect = Written;

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        read(command).map(drop).ok_or_else(|| unreadable(0))
    }

    fn apply(&mut self, entry: EntryMeta, command: &Bytes, effects: &mut Vec<Written>) -> Result<(), ApplyError> {
        let command = read(command).ok_or_else(|| unreadable(entry.index))?;
        if command.kind == PUT {
            self.put(command.argument, command.value);
        } else {
            for _ in 0..command.argument.min((PAGES_MAX - self.pages) as u32) {
                let byte = (self.pages % 251) as u8;
                self.add_page(Arc::new([byte; PAGE_BYTES]));
            }
        }
        effects.push(command.written);
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        let frozen = self.chapters.clone();
        let chunks = frozen.into_iter().flat_map(|chapter| {
            (0..chapter.len()).step_by(CHUNK_PAGES).map(move |first| {
                let pages = &chapter[first..(first + CHUNK_PAGES).min(chapter.len())];
                let mut chunk = BytesMut::with_capacity(pages.len() * PAGE_BYTES);
                pages.iter().for_each(|page| chunk.put_slice(&page[..]));
                chunk.freeze()
            })
        });
        Box::new(chunks)
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        // The host may have cut the chunks elsewhere.
        let mut rest = self.start_loading();
        rest.put_slice(&chunk);
        let whole = rest.len() / PAGE_BYTES * PAGE_BYTES;
        let pages = rest.split_to(whole).freeze();
        self.loading = Some(rest);
        self.load_pages(pages)
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        let rest = self.start_loading();
        match rest.is_empty() && self.pages > 0 {
            true => Ok(()),
            false => Err(LoadError {
                reason: "the last page is not whole".to_owned(),
            }),
        }
    }

    fn state_hash(&self) -> u64 {
        self.hash
    }

    fn is_hash_cheap(&self) -> bool {
        true
    }
}

fn unreadable(index: u64) -> ApplyError {
    ApplyError {
        index,
        reason: "not a command of the bench".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use settle_base::GroupTime;

    use super::*;

    fn apply(machine: &mut Registers, build: impl FnOnce(&mut BytesMut)) -> Result<(), ApplyError> {
        let mut command = BytesMut::new();
        build(&mut command);
        let meta = EntryMeta {
            index: 1,
            term: 1,
            time: GroupTime::ZERO,
            version: 1,
        };
        machine.apply(meta, &command.freeze(), &mut Vec::new())
    }

    #[test]
    fn a_snapshot_keeps_what_was_there_while_later_writes_go_on_and_loads_to_the_same_hash() {
        let mut machine = Registers::default();
        apply(&mut machine, |out| fill_command(out, 256, 7, 1)).expect("a fill");
        for number in 0..1_000 {
            apply(&mut machine, |out| put_command(out, number * 37, 7, number)).expect("a put");
        }
        let (hash, chunks) = (machine.state_hash(), machine.begin_snapshot());
        apply(&mut machine, |out| put_command(out, 3, 8, 1)).expect("a put");
        assert_ne!(machine.state_hash(), hash, "the write changed the state");
        let mut loaded = Registers::default();
        loaded.load(&mut { chunks }).expect("a snapshot");
        assert_eq!(loaded.state_hash(), hash);
    }

    #[test]
    fn commands_of_another_length_are_refused_before_they_reach_the_log() {
        let mut command = BytesMut::new();
        put_command(&mut command, 1, 2, 3);
        assert_eq!(command.len(), COMMAND_BYTES);
        let machine = Registers::default();
        for len in 0..COMMAND_BYTES {
            let cut = Bytes::copy_from_slice(&command[..len]);
            assert!(machine.check(&cut).is_err(), "{len} bytes");
        }
        assert!(machine.check(&command.freeze()).is_ok());
    }
}
