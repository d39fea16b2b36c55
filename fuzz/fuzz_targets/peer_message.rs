//! Any bytes: a peer's message or hello decodes or is refused, and what was understood survives encoding.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use settle_host::peer_codec::{decode, decode_hello, encode, encode_hello};

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(message) = decode(bytes.clone()) {
        assert_eq!(decode(encode(&message)).as_ref(), Ok(&message));
    }
    if let Ok(hello) = decode_hello(bytes) {
        assert_eq!(decode_hello(encode_hello(&hello)), Ok(hello));
    }
});
