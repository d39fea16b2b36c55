//! Any bytes: the log's decoders and a whole recovery end with an answer, and what they understood opens again the same.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use settle_storage::{DiskRead, FileName, MemDisk, Op};
use settle_wal::{LogIdentity, Wal, WalOptions, fuzz_decode_body, fuzz_decode_headers};

const IDENTITY: LogIdentity = LogIdentity {
    cluster: 1,
    incarnation: 2,
};

fuzz_target!(|bytes: &[u8]| {
    let data = Bytes::copy_from_slice(bytes);
    let _ = fuzz_decode_body(data.clone(), bytes.len() as u32);
    fuzz_decode_headers(bytes);

    let mut disk = MemDisk::new(1);
    for (name, data) in [("wal-0000000000000001.seg", data.clone()), ("wal-recovering", data)] {
        let file = FileName::new(name).expect("a valid name");
        disk.run(Op::Create {
            file: file.clone(),
            reserve: 0,
        })
        .expect("memory is not full");
        disk.run(Op::Write { file, offset: 0, data })
            .expect("memory is not full");
    }
    if let Ok((_, groups)) = Wal::open(&mut disk, WalOptions::default(), IDENTITY, &[]) {
        let (_, again) =
            Wal::open(&mut disk, WalOptions::default(), IDENTITY, &[]).expect("what was opened opens again");
        assert_eq!(groups, again);
    }
});
