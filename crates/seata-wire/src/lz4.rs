//! The two formats behind the compressor `lz4`.
//!
//! *Block*, lz4-java's own (`LZ4BlockOutputStream`): blocks of `"LZ4Block"`, a token (method in the upper, the largest
//! block's size in the lower four bits), packed and plain length, a checksum of the plain bytes (three little-endian
//! u32); an empty block ends the stream. *Frame*, the LZ4 frame format (`LZ4FrameOutputStream`, 1.6.1 of its
//! specification), of which blocks that refer to earlier ones and dictionaries are refused: Java writes neither.
//!
//! LZ4 packs at most 255 to 1, which bounds what is allocated by the bytes that are there.

use lz4_flex::block;
use twox_hash::XxHash32;

use crate::error::WireError;
use crate::frame::{Compressor, Lz4Format};

const BLOCK_MAGIC: &[u8; 8] = b"LZ4Block";
const BLOCK_HEAD_BYTES: usize = 21;
const METHOD_RAW: u8 = 0x10;
const METHOD_LZ4: u8 = 0x20;
/// The lower half of the token names a size of 1 KiB to the power of it.
const LEVEL_BASE: u32 = 10;
/// What we write: 64 KiB.
const OUR_LEVEL: u8 = 6;
const OUR_BLOCK_BYTES: usize = 64 << 10;
const BLOCK_SEED: u32 = 0x9747_b28c;
/// `StreamingXXHash32.asChecksum` drops the upper four bits.
const BLOCK_CHECKSUM_MASK: u32 = 0x0fff_ffff;

const FRAME_MAGIC: u32 = 0x184d_2204;
const FLAG_VERSION: u8 = 0b0100_0000;
const FLAG_VERSION_MASK: u8 = 0b1100_0000;
const FLAG_INDEPENDENT: u8 = 0b0010_0000;
const FLAG_BLOCK_CHECKSUM: u8 = 0b0001_0000;
const FLAG_CONTENT_SIZE: u8 = 0b0000_1000;
const FLAG_CONTENT_CHECKSUM: u8 = 0b0000_0100;
const FLAGS_UNKNOWN: u8 = 0b0000_0011;
/// Blocks of at most 64 KiB.
const OUR_DESCRIPTOR: u8 = 0x40;
const IS_RAW: u32 = 1 << 31;

/// Which of the two `body` is; damaged ones count as frames.
pub(crate) fn format_of(body: &[u8]) -> Lz4Format {
    match body.starts_with(BLOCK_MAGIC) {
        true => Lz4Format::Block,
        false => Lz4Format::Frame,
    }
}

pub(crate) fn decompress(format: Lz4Format, body: &[u8], max_bytes: usize) -> Result<Vec<u8>, WireError> {
    let mut out = Output {
        plain: Vec::new(),
        max_bytes,
        too_long: false,
    };
    let read = match format {
        Lz4Format::Block => read_blocks(&mut Input(body), &mut out),
        Lz4Format::Frame => read_frame(&mut Input(body), &mut out),
    };
    let compressor = Compressor::Lz4(format);
    match read {
        Ok(()) => Ok(out.plain),
        Err(_) if out.too_long => Err(WireError::DecompressedTooLong {
            compressor,
            max: max_bytes,
        }),
        Err(problem) => Err(WireError::Decompress {
            compressor,
            bytes: body.len(),
            problem,
        }),
    }
}

pub(crate) fn compress(format: Lz4Format, body: &[u8]) -> Vec<u8> {
    match format {
        Lz4Format::Block => write_blocks(body),
        Lz4Format::Frame => write_frame(body),
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or("it is cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u32, &'static str> {
        let (number, rest) = self.0.split_first_chunk().ok_or("it is cut off")?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*number))
    }
}

struct Output {
    plain: Vec<u8>,
    max_bytes: usize,
    too_long: bool,
}

impl Output {
    /// Makes room for a block of at most `bytes`, packed in `packed` bytes, and gives where it begins.
    fn room(&mut self, bytes: usize, packed: usize) -> Result<usize, &'static str> {
        let at = self.plain.len();
        let room = bytes.min(packed.saturating_mul(255).saturating_add(64));
        // One byte over the limit tells a body that is too long from one that just fits.
        self.plain.resize(at + room.min(self.max_bytes - at + 1), 0);
        Ok(at)
    }

    /// Unpacks a block of at most `most` bytes; gives how many it has.
    fn unpack(&mut self, packed: &[u8], most: usize) -> Result<usize, &'static str> {
        let at = self.room(most, packed.len())?;
        let room = self.plain.len() - at;
        match block::decompress_into(packed, &mut self.plain[at..]) {
            Ok(bytes) => self.cut(at + bytes).map(|()| bytes),
            Err(block::DecompressError::OutputTooSmall { .. }) if room < most && at + room > self.max_bytes => {
                self.too_long = true;
                Err("more than the limit comes out")
            }
            Err(_) => Err("a block is damaged"),
        }
    }

    fn append(&mut self, raw: &[u8]) -> Result<(), &'static str> {
        self.plain
            .extend_from_slice(&raw[..raw.len().min(self.max_bytes - self.plain.len() + 1)]);
        self.cut(self.plain.len())
    }

    fn cut(&mut self, end: usize) -> Result<(), &'static str> {
        self.plain.truncate(end);
        self.too_long = end > self.max_bytes;
        if self.too_long {
            return Err("more than the limit comes out");
        }
        Ok(())
    }
}

/// A fuzzer would get past no checksum, so that it would see nothing of what lies behind.
fn differs(checksum: u32, computed: u32) -> bool {
    !cfg!(fuzzing) && checksum != computed
}

fn read_blocks(input: &mut Input<'_>, out: &mut Output) -> Result<(), &'static str> {
    loop {
        if input.take(BLOCK_MAGIC.len())? != BLOCK_MAGIC {
            return Err("a block does not begin with LZ4Block");
        }
        let token = input.byte()?;
        let (packed, plain, checksum) = (input.number()?, input.number()?, input.number()?);
        let (packed, plain) = (packed as usize, plain as usize);
        if plain > 1 << (LEVEL_BASE + u32::from(token & 0x0f)) {
            return Err("a block is longer than its stream allows");
        }
        if plain == 0 {
            let is_end = packed == 0 && checksum == 0 && input.0.is_empty();
            return if is_end {
                Ok(())
            } else {
                Err("bytes follow the end of the stream")
            };
        }
        let bytes = input.take(packed)?;
        let at = out.plain.len();
        match token & 0xf0 {
            METHOD_RAW if packed == plain => out.append(bytes)?,
            METHOD_LZ4 => {
                if out.unpack(bytes, plain)? != plain {
                    return Err("a block is shorter than it says");
                }
            }
            _ => return Err("a block's method is unknown"),
        }
        if differs(
            XxHash32::oneshot(BLOCK_SEED, &out.plain[at..]) & BLOCK_CHECKSUM_MASK,
            checksum,
        ) {
            return Err("a block's checksum is wrong");
        }
    }
}

fn write_blocks(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * BLOCK_HEAD_BYTES + body.len());
    for plain in body.chunks(OUR_BLOCK_BYTES) {
        let packed = block::compress(plain);
        let (method, bytes) = match packed.len() < plain.len() {
            true => (METHOD_LZ4, &packed[..]),
            false => (METHOD_RAW, plain),
        };
        let checksum = XxHash32::oneshot(BLOCK_SEED, plain) & BLOCK_CHECKSUM_MASK;
        put_block_head(&mut out, method, bytes.len(), plain.len(), checksum);
        out.extend_from_slice(bytes);
    }
    put_block_head(&mut out, METHOD_RAW, 0, 0, 0);
    out
}

fn put_block_head(out: &mut Vec<u8>, method: u8, packed: usize, plain: usize, checksum: u32) {
    out.extend_from_slice(BLOCK_MAGIC);
    out.push(method | OUR_LEVEL);
    for number in [packed as u32, plain as u32, checksum] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn read_frame(input: &mut Input<'_>, out: &mut Output) -> Result<(), &'static str> {
    if input.number()? != FRAME_MAGIC {
        return Err("it is neither an LZ4 frame nor a stream of LZ4Block");
    }
    let described = input.0;
    let (flags, descriptor) = (input.byte()?, input.byte()?);
    if flags & FLAG_VERSION_MASK != FLAG_VERSION || flags & FLAGS_UNKNOWN != 0 || flags & FLAG_INDEPENDENT == 0 {
        return Err("a version, a dictionary or dependent blocks that are not supported");
    }
    let most = match descriptor {
        0x40 | 0x50 | 0x60 | 0x70 => 1 << (2 * u32::from(descriptor >> 4) + 8),
        _ => return Err("its largest block has no size"),
    };
    let content_bytes = match flags & FLAG_CONTENT_SIZE {
        0 => None,
        _ => Some(u64::from(input.number()?) | u64::from(input.number()?) << 32),
    };
    let described = &described[..described.len() - input.0.len()];
    if differs(u32::from(input.byte()?), XxHash32::oneshot(0, described) >> 8 & 0xff) {
        return Err("its head's checksum is wrong");
    }
    loop {
        let bytes = input.number()?;
        if bytes == 0 {
            break;
        }
        let block = input.take((bytes & !IS_RAW) as usize)?;
        if flags & FLAG_BLOCK_CHECKSUM != 0 && differs(input.number()?, XxHash32::oneshot(0, block)) {
            return Err("a block's checksum is wrong");
        }
        match bytes & IS_RAW {
            0 => drop(out.unpack(block, most)?),
            _ if block.len() > most => return Err("a block is longer than its frame allows"),
            _ => out.append(block)?,
        }
    }
    if flags & FLAG_CONTENT_CHECKSUM != 0 && differs(input.number()?, XxHash32::oneshot(0, &out.plain)) {
        return Err("its content's checksum is wrong");
    }
    if content_bytes.is_some_and(|bytes| bytes != out.plain.len() as u64) {
        return Err("it has not the size that it says");
    }
    if !input.0.is_empty() {
        return Err("bytes follow the end of the frame");
    }
    Ok(())
}

fn write_frame(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + body.len());
    out.extend_from_slice(&FRAME_MAGIC.to_le_bytes());
    let described = [FLAG_VERSION | FLAG_INDEPENDENT, OUR_DESCRIPTOR];
    out.extend_from_slice(&described);
    out.push((XxHash32::oneshot(0, &described) >> 8) as u8);
    for plain in body.chunks(OUR_BLOCK_BYTES) {
        let packed = block::compress(plain);
        let (flag, bytes) = match packed.len() < plain.len() {
            true => (0, &packed[..]),
            false => (IS_RAW, plain),
        };
        out.extend_from_slice(&(bytes.len() as u32 | flag).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&[0; 4]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_claims_more_than_its_bytes_can_hold_allocates_no_more_than_they_can() {
        let mut lie = Vec::new();
        put_block_head(&mut lie, METHOD_LZ4, 1, 64 << 10, 0);
        lie.push(0);
        let mut out = Output {
            plain: Vec::new(),
            max_bytes: 8 << 20,
            too_long: false,
        };
        assert!(read_blocks(&mut Input(&lie), &mut out).is_err());
        assert!(out.plain.capacity() < 1024, "{}", out.plain.capacity());
    }

    #[test]
    fn what_comes_after_the_first_block_is_read_too() {
        let body: Vec<u8> = (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for format in [Lz4Format::Block, Lz4Format::Frame] {
            let packed = compress(format, &body);
            assert_eq!(format_of(&packed), format);
            assert_eq!(decompress(format, &packed, body.len()).as_deref(), Ok(&body[..]));
            assert!(decompress(format, &packed, 100_000).is_err());
        }
    }
}
