//! Unpacking what Java packed: one entry of a ZIP stream, or gzip.

use std::io::Read;

use flate2::read::{DeflateDecoder, GzDecoder};

use super::UndoError;

/// A local file header up to its name (APPNOTE.TXT of the ZIP format, 4.3.7).
const HEADER: usize = 30;

/// The first entry of a ZIP file, read without its directory, as Java's stream reads it.
pub fn unzip(bytes: &[u8], max: usize) -> Result<Vec<u8>, UndoError> {
    let problem = |problem| UndoError::Packed { problem };
    let header = bytes.get(..HEADER).ok_or(problem("it is cut off"))?;
    let short = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    if header[..4] != *b"PK\x03\x04" {
        return Err(problem("it is no ZIP file"));
    }
    let content = HEADER + short(26) + short(28);
    let content = bytes.get(content..).ok_or(problem("it is cut off"))?;
    match short(8) {
        8 => read(DeflateDecoder::new(content), max),
        _ => Err(problem("its method is not DEFLATE")),
    }
}

pub fn gunzip(bytes: &[u8], max: usize) -> Result<Vec<u8>, UndoError> {
    read(GzDecoder::new(bytes), max)
}

fn read(reader: impl Read, max: usize) -> Result<Vec<u8>, UndoError> {
    let mut out = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let read = reader.take(limit).read_to_end(&mut out);
    read.map_err(|_| UndoError::Packed {
        problem: "it is damaged",
    })?;
    if out.len() > max {
        return Err(UndoError::TooLarge { limit: max });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZIP: &[u8] = include_bytes!("../../../../conformance/seata/vectors/undo/jackson-2.6.0-utc.zip");
    const GZIP: &[u8] = include_bytes!("../../../../conformance/seata/vectors/undo/jackson-2.6.0-utc.gz");
    const CONTENT: &str = include_str!("../../../../conformance/seata/vectors/undo/jackson-2.6.0-utc.json");

    #[test]
    fn what_java_packed_is_unpacked_up_to_the_limit() {
        let content = CONTENT.trim_end().as_bytes();
        for (packed, unpack) in [(ZIP, unzip as fn(&[u8], usize) -> _), (GZIP, gunzip)] {
            assert_eq!(unpack(packed, content.len()).as_deref(), Ok(content));
            let limit = content.len() - 1;
            assert_eq!(unpack(packed, limit), Err(UndoError::TooLarge { limit }));
            for cut in [0, 3, 20, 29, 32, packed.len() / 2] {
                assert!(
                    matches!(unpack(&packed[..cut], 1 << 20), Err(UndoError::Packed { .. })),
                    "{cut}"
                );
            }
        }
    }
}
