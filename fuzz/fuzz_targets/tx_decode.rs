//! Any bytes as a batch of commands and as a snapshot: an error, or something that can be applied, written and read.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use settle_base::GroupTime;
use settle_machine::{EntryMeta, StateMachine};
use settle_tx::{MachineConfig, TxMachine, decode_batch, encode_batch};

fuzz_target!(|bytes: &[u8]| {
    let config = MachineConfig::new(1);
    if let Ok(commands) = decode_batch(bytes) {
        let again = encode_batch(&commands);
        assert_eq!(decode_batch(&again).as_ref(), Ok(&commands));
        let mut machine = TxMachine::new(config);
        let entry = EntryMeta {
            index: 1,
            term: 1,
            time: GroupTime(1),
            version: 1,
        };
        machine.apply(entry, &again, &mut Vec::new()).expect("it was decoded");
        machine.check_invariants();
        let mut copy = TxMachine::new(config);
        copy.load(&mut machine.begin_snapshot()).expect("it is a snapshot");
        assert_eq!(copy.state_hash(), machine.state_hash());
    }

    let mut machine = TxMachine::new(config);
    let mut chunks = bytes.chunks(100).map(Bytes::copy_from_slice);
    if machine.load(&mut chunks).is_ok() {
        machine.check_invariants();
        let mut copy = TxMachine::new(config);
        copy.load(&mut machine.begin_snapshot()).expect("it is a snapshot");
        assert_eq!(copy.state_hash(), machine.state_hash());
    }
});
