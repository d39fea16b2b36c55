//! Any bytes as the body of a frame with the compressor lz4, in both of its formats: damaged, too long, or a body that
//! survives being packed again. Checksums are not looked at while fuzzing, or nothing would get past them.

#![no_main]

use bytes::{BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;
use settle_seata_wire::{Compressor, FrameDecoder, Lz4Format, WireError, frame};

/// Small, so that the fuzzer finds the limit.
const MAX_FRAME_BYTES: usize = 64 << 10;

fn framed(body: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_u16(0xdada);
    bytes.put_u8(1);
    bytes.put_u32(16 + body.len() as u32);
    bytes.put_u16(16);
    bytes.put_slice(&[0, 1, 5, 0, 0, 0, 1]);
    bytes.put_slice(body);
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    for (magic, format) in [
        (&b"LZ4Block"[..], Lz4Format::Block),
        (&[0x04, 0x22, 0x4d, 0x18][..], Lz4Format::Frame),
    ] {
        let body = [magic, bytes].concat();
        match FrameDecoder::new(MAX_FRAME_BYTES).decode(&mut framed(&body)) {
            Ok(Some(read)) => {
                assert_eq!(read.compressor, Compressor::Lz4(format));
                let mut again = BytesMut::new();
                frame::encode(&read, &mut again).expect("what was read can be written");
                let decoded = FrameDecoder::new(usize::MAX >> 1).decode(&mut again);
                assert_eq!(decoded.expect("what was written can be read"), Some(read));
            }
            Ok(None) => panic!("the frame is whole"),
            Err(WireError::DecompressedTooLong { max, .. }) => assert_eq!(max, MAX_FRAME_BYTES),
            Err(_) => {}
        }
    }
});
