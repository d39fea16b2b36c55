//! The names and values in the header of SOFARPC's frames.
//!
//! Pairs to the end of the header, each half an i32 length and as many bytes of UTF-8. Length -1 is null: Java writes
//! such a pair and drops it when reading. Source: `SimpleMapSerializer` of `sofa-rpc` 5.14, module `remoting-bolt`.

use std::borrow::Cow;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::BoltError;

/// Pairs in wire order. Their text is borrowed from the header that they were read from.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct HeaderMap<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> HeaderMap<'a> {
    pub const fn new() -> HeaderMap<'a> {
        HeaderMap { pairs: Vec::new() }
    }

    /// Appends a pair. Of two with one key Java keeps the later.
    pub fn push(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        self.pairs.push((key.into(), value.into()));
    }

    /// The value of `key`; the later one when it was said twice.
    pub fn get(&self, key: &str) -> Option<&str> {
        let pair = self.pairs.iter().rev().find(|(known, _)| known == key);
        pair.map(|(_, value)| value.as_ref())
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Reads a whole header. A pair with a null in it is dropped, as by Java. Memory is a fixed multiple of the bytes:
    /// the smallest pair has eight of them.
    ///
    /// # Errors
    /// A length that lies, text that is not UTF-8, a key without a value. The frame itself is whole, so this costs one
    /// request and not the connection.
    pub fn decode(mut header: &'a [u8]) -> Result<HeaderMap<'a>, BoltError> {
        let mut map = HeaderMap::new();
        while !header.is_empty() {
            let key = read_text(&mut header)?;
            let value = read_text(&mut header)?;
            if let (Some(key), Some(value)) = (key, value) {
                map.push(key, value);
            }
        }
        Ok(map)
    }

    /// # Errors
    /// The header is longer than the 32,767 bytes that a frame can say.
    pub fn encode(&self) -> Result<Bytes, BoltError> {
        let bytes: usize = self.pairs.iter().map(|(key, value)| 8 + key.len() + value.len()).sum();
        if bytes > i16::MAX as usize {
            return Err(BoltError::HeaderMap {
                problem: "longer than 32767 bytes",
            });
        }
        let mut out = BytesMut::with_capacity(bytes);
        for text in self.pairs.iter().flat_map(|(key, value)| [key, value]) {
            out.put_u32(text.len() as u32);
            out.put_slice(text.as_bytes());
        }
        Ok(out.freeze())
    }
}

/// `None` is Java's null.
fn read_text<'a>(header: &mut &'a [u8]) -> Result<Option<&'a str>, BoltError> {
    let cut = BoltError::HeaderMap {
        problem: "a text ends behind the header",
    };
    if header.len() < size_of::<i32>() {
        return Err(cut);
    }
    let length = header.get_i32();
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| BoltError::HeaderMap {
        problem: "a length is negative",
    })?;
    let Some((text, rest)) = header.split_at_checked(length) else {
        return Err(cut);
    };
    *header = rest;
    let text = std::str::from_utf8(text).map_err(|_| BoltError::HeaderMap {
        problem: "a text is not UTF-8",
    })?;
    Ok(Some(text))
}
