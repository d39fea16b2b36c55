//! Commands applied once: [`settle_machine::Once`].

use bytes::Bytes;
use settle_base::GroupTime;
use settle_machine::{Applied, ApplyError, EntryMeta, LoadError, Once, SnapshotChunks, StateMachine, Ticket};

/// The bytes of all commands, one after the other.
#[derive(Default)]
struct Tape {
    bytes: Vec<u8>,
    loading: Vec<u8>,
}

impl StateMachine for Tape {
    type Effect = usize;

    fn check(&self, _: &Bytes) -> Result<(), ApplyError> {
        Ok(())
    }

    fn apply(&mut self, _: EntryMeta, command: &Bytes, effects: &mut Vec<usize>) -> Result<(), ApplyError> {
        self.bytes.extend_from_slice(command);
        effects.push(self.bytes.len());
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        Box::new(std::iter::once(Bytes::from(self.bytes.clone())))
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        self.loading.extend_from_slice(&chunk);
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        self.bytes = std::mem::take(&mut self.loading);
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        settle_base::fingerprint(&self.bytes)
    }
}

fn ask(once: &mut Once<Tape>, index: u64, session: u64, number: u64, command: &str) -> Option<Vec<usize>> {
    let entry = EntryMeta {
        index,
        term: 1,
        time: GroupTime(0),
        version: 1,
    };
    let ticket = Ticket { session, number };
    let command = ticket.wrap(command.as_bytes());
    once.check(&command).expect("a command");
    let mut effects = Vec::new();
    once.apply(entry, &command, &mut effects).expect("a command");
    let [
        Applied {
            ticket: told, effects, ..
        },
    ] = effects.try_into().expect("one answer");
    assert_eq!(told, ticket);
    effects
}

fn image(once: &Once<Tape>) -> Vec<u8> {
    once.begin_snapshot().flatten().collect()
}

fn load(image: &[u8], cut: usize) -> Result<Once<Tape>, LoadError> {
    let mut once = Once::new(Tape::default(), 2);
    // Something to be cleared.
    ask(&mut once, 1, 9, 1, "old");
    let mut chunks = image.chunks(cut).map(Bytes::copy_from_slice);
    once.load(&mut chunks)?;
    Ok(once)
}

#[test]
fn a_command_that_comes_twice_is_applied_once_and_so_is_one_that_a_later_one_overtook() {
    let mut once = Once::new(Tape::default(), 2);
    assert_eq!(ask(&mut once, 1, 7, 1, "a"), Some(vec![1]));
    assert_eq!(ask(&mut once, 2, 7, 1, "a"), None);
    assert_eq!(ask(&mut once, 3, 7, 3, "c"), Some(vec![2]));
    assert_eq!(ask(&mut once, 4, 7, 2, "b"), None);
    assert_eq!(once.machine().bytes, b"ac");
}

#[test]
fn what_was_applied_is_remembered_through_a_snapshot_cut_anywhere() {
    let mut once = Once::new(Tape::default(), 2);
    ask(&mut once, 1, 7, 1, "hello ");
    ask(&mut once, 2, 8, 5, "world");
    let image = image(&once);
    for cut in 1..=image.len() {
        let mut loaded = load(&image, cut).expect("a snapshot");
        assert_eq!(loaded.machine().bytes, b"hello world");
        assert_eq!(ask(&mut loaded, 3, 8, 5, "world"), None);
        assert!(
            ask(&mut loaded, 4, 9, 1, "!").is_some(),
            "the old state's session is gone"
        );
    }
    for len in 0..image.len() - b"hello world".len() {
        assert!(load(&image[..len], 3).is_err(), "cut off after {len} bytes");
    }
}

#[test]
fn the_session_that_was_quiet_for_longest_is_forgotten_first() {
    let mut once = Once::new(Tape::default(), 2);
    ask(&mut once, 1, 1, 1, "a");
    ask(&mut once, 2, 2, 1, "b");
    ask(&mut once, 3, 1, 2, "c");
    ask(&mut once, 4, 3, 1, "d");
    assert_eq!(ask(&mut once, 5, 1, 2, "c"), None, "not the quiet one");
    assert!(
        ask(&mut once, 6, 2, 1, "b").is_some(),
        "forgotten, so a copy is applied again"
    );
}

#[test]
fn a_head_that_claims_too_much_is_refused_and_a_command_without_a_ticket_too() {
    let head: Vec<u8> = [1u32.to_le_bytes(), u32::MAX.to_le_bytes()].concat();
    assert!(load(&head, 8).is_err());
    assert!(
        Once::new(Tape::default(), 2)
            .check(&Bytes::from_static(b"short"))
            .is_err()
    );
}
