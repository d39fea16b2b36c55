//! Java's strings on the wire: a count of UTF-16 units, then each unit in one to three bytes.
//!
//! So a character beyond the basic plane is two surrogates of three bytes each, which is not UTF-8, and a unit may be a
//! surrogate without its partner, which is no text at all. NUL is one zero byte. Accepted beyond what Java writes: NUL
//! as `c0 80`, and UTF-8 of four bytes, counted as two units, which Java's own reader refuses.

use std::borrow::Cow;

use ascii::AsciiStr;

use crate::HessianError;

/// A string as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Text<'a> {
    /// Text. Borrowed from the input when it arrived in one chunk and without surrogates.
    Str(Cow<'a, str>),
    /// UTF-16 units among which at least one surrogate has no partner: what Java holds but Unicode does not call text.
    Utf16(Vec<u16>),
}

/// One chunk of a string, measured.
pub(crate) struct Chunk<'a> {
    pub bytes: &'a [u8],
    /// Whether the bytes are UTF-8 as they stand; `None` says that surrogates or `c0 80` are among them.
    pub plain: Option<&'a str>,
}

/// The bytes as text when all are ASCII, looked through once.
#[inline]
pub(crate) fn ascii(bytes: &[u8]) -> Option<&str> {
    AsciiStr::from_ascii(bytes).ok().map(AsciiStr::as_str)
}

/// Measures a chunk of `units` UTF-16 units at the start of `bytes`; `at` is its place in the message.
pub(crate) fn chunk(bytes: &[u8], units: usize, at: usize) -> Result<Chunk<'_>, HessianError> {
    if let Some(plain) = bytes.get(..units).and_then(ascii) {
        let bytes = plain.as_bytes();
        return Ok(Chunk {
            bytes,
            plain: Some(plain),
        });
    }
    let (mut end, mut left, mut is_plain) = (0, units, true);
    while left > 0 {
        let Some(&lead) = bytes.get(end) else {
            return Err(HessianError::Truncated { at, needed: left });
        };
        let (width, counts) = match lead {
            0x00..=0x7f => (1, 1),
            0xc0 => {
                is_plain = false;
                (2, 1)
            }
            0xc1..=0xdf => (2, 1),
            0xe0..=0xef => {
                is_plain &= lead != 0xed || bytes.get(end + 1).is_none_or(|second| *second < 0xa0);
                (3, 1)
            }
            0xf0..=0xf7 if left >= 2 => (4, 2),
            _ => return Err(HessianError::BadText { at: at + end }),
        };
        end += width;
        left -= counts;
    }
    let Some(bytes) = bytes.get(..end) else {
        let needed = end - bytes.len();
        return Err(HessianError::Truncated { at, needed });
    };
    if !is_plain {
        return Ok(Chunk { bytes, plain: None });
    }
    match std::str::from_utf8(bytes) {
        Ok(plain) => Ok(Chunk {
            bytes,
            plain: Some(plain),
        }),
        Err(wrong) => Err(HessianError::BadText {
            at: at + wrong.valid_up_to(),
        }),
    }
}

/// Appends the units of a measured chunk that is not plain.
fn decode_units(bytes: &[u8], at: usize, units: &mut Vec<u16>) -> Result<(), HessianError> {
    let mut rest = bytes;
    while let [lead, tail @ ..] = rest {
        let bad = || HessianError::BadText {
            at: at + bytes.len() - rest.len(),
        };
        let trail = |index: usize| match tail.get(index) {
            Some(byte @ 0x80..=0xbf) => Ok(u32::from(byte & 0x3f)),
            _ => Err(bad()),
        };
        let lead = u32::from(*lead);
        let (value, width, least) = match lead {
            0x00..=0x7f => (lead, 1, 0),
            0xc0..=0xdf => ((lead & 0x1f) << 6 | trail(0)?, 2, 0x80),
            0xe0..=0xef => ((lead & 0x0f) << 12 | trail(0)? << 6 | trail(1)?, 3, 0x800),
            _ => {
                let value = (lead & 0x07) << 18 | trail(0)? << 12 | trail(1)? << 6 | trail(2)?;
                (value, 4, 0x1_0000)
            }
        };
        if value < least && !(value == 0 && width == 2) {
            return Err(bad());
        }
        match (u16::try_from(value), char::from_u32(value)) {
            (Ok(unit), _) => units.push(unit),
            (Err(_), Some(char)) => units.extend_from_slice(char.encode_utf16(&mut [0; 2])),
            (Err(_), None) => return Err(bad()),
        }
        rest = &rest[width..];
    }
    Ok(())
}

/// Chunks put together.
#[derive(Default)]
pub(crate) enum Assembly<'a> {
    #[default]
    Empty,
    Borrowed(&'a str),
    Owned(String),
    Units(Vec<u16>),
}

impl<'a> Assembly<'a> {
    /// Appends a chunk that begins at `at`.
    pub fn add(&mut self, chunk: &Chunk<'a>, at: usize) -> Result<(), HessianError> {
        let before = std::mem::take(self);
        *self = match (before, chunk.plain) {
            (Assembly::Empty, Some(text)) => Assembly::Borrowed(text),
            (Assembly::Borrowed(before), Some(text)) => Assembly::Owned([before, text].concat()),
            (Assembly::Owned(mut all), Some(text)) => {
                all.push_str(text);
                Assembly::Owned(all)
            }
            (Assembly::Units(mut units), Some(text)) => {
                units.extend(text.encode_utf16());
                Assembly::Units(units)
            }
            (before, None) => {
                let mut units = match before {
                    Assembly::Empty => Vec::with_capacity(chunk.bytes.len() / 2),
                    Assembly::Borrowed(text) => text.encode_utf16().collect(),
                    Assembly::Owned(text) => text.encode_utf16().collect(),
                    Assembly::Units(units) => units,
                };
                decode_units(chunk.bytes, at, &mut units)?;
                Assembly::Units(units)
            }
        };
        Ok(())
    }

    pub fn finish(self) -> Text<'a> {
        match self {
            Assembly::Empty => Text::Str(Cow::Borrowed("")),
            Assembly::Borrowed(text) => Text::Str(Cow::Borrowed(text)),
            Assembly::Owned(text) => Text::Str(Cow::Owned(text)),
            Assembly::Units(units) => match String::from_utf16(&units) {
                Ok(text) => Text::Str(Cow::Owned(text)),
                Err(_) => Text::Utf16(units),
            },
        }
    }
}

/// How many UTF-16 units `text` has.
pub(crate) fn unit_count(text: &str) -> usize {
    if text.is_ascii() {
        return text.len();
    }
    text.chars().map(char::len_utf16).sum()
}

/// Whether the bytes of `text` go on the wire as they are: it has no character beyond the basic plane.
pub(crate) fn is_written_as_is(text: &str) -> bool {
    text.as_bytes().iter().all(|byte| *byte < 0xf0)
}

/// A unit in the one to three bytes that Java writes.
pub(crate) fn unit_bytes(unit: u16, buffer: &mut [u8; 3]) -> &[u8] {
    let low = |shift: u16| 0x80 | (unit >> shift & 0x3f) as u8;
    match unit {
        0..0x80 => {
            buffer[0] = unit as u8;
            &buffer[..1]
        }
        0x80..0x800 => {
            buffer[..2].copy_from_slice(&[0xc0 | (unit >> 6) as u8, low(0)]);
            &buffer[..2]
        }
        _ => {
            *buffer = [0xe0 | (unit >> 12) as u8, low(6), low(0)];
            &buffer[..]
        }
    }
}
