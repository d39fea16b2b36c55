//! The column `context` of an undo row: how its content was written, as `key=value` pairs.

use super::{UndoError, zip};

/// What the row holds that keeps a late phase one from committing.
pub const DEFENCE_CONTENT: &[u8] = b"{}";

/// How the content of an undo row is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compressor {
    None,
    /// What Java uses for logs over 64 KiB unless told otherwise.
    Zip,
    Gzip,
}

impl Compressor {
    /// Unpacks to at most `max` bytes.
    ///
    /// # Errors
    /// [`UndoError::Packed`], [`UndoError::TooLarge`].
    pub fn unpack(self, bytes: Vec<u8>, max: usize) -> Result<Vec<u8>, UndoError> {
        match self {
            Compressor::None if bytes.len() > max => Err(UndoError::TooLarge { limit: max }),
            Compressor::None => Ok(bytes),
            Compressor::Zip => zip::unzip(&bytes, max),
            Compressor::Gzip => zip::gunzip(&bytes, max),
        }
    }
}

/// A row's context.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Context {
    pub compressor: Compressor,
    /// The branch ids under which the rest of a long content is kept, in its order.
    pub parts: Vec<i64>,
}

impl Context {
    /// What this crate writes.
    pub const WRITTEN: &'static str = "serializer=jackson&compressorType=NONE";

    /// The context of the rows with the rest of a branch's content.
    pub fn of_parts(branch_id: i64) -> String {
        format!("branchId={branch_id}")
    }

    /// # Errors
    /// [`UndoError::Parser`] and [`UndoError::Compressor`] with the name of what cannot be read. A row that names no
    /// parser was written with the default of its writer, which nobody knows here.
    pub fn parse(text: &str) -> Result<Context, UndoError> {
        let value = |wanted: &str| {
            let mut pairs = text.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == wanted).map(|(_, value)| value)
        };
        match value("serializer") {
            Some("jackson") => {}
            other => {
                let name = other.unwrap_or("").to_owned();
                return Err(UndoError::Parser { name });
            }
        }
        let compressor = match value("compressorType") {
            None | Some("NONE") => Compressor::None,
            Some("ZIP") => Compressor::Zip,
            Some("GZIP") => Compressor::Gzip,
            Some(name) => return Err(UndoError::Compressor { name: name.to_owned() }),
        };
        let ids = value("subId").unwrap_or("").split(',').filter(|id| !id.is_empty());
        let parts: Result<Vec<i64>, _> = ids.map(str::parse).collect();
        Ok(Context {
            compressor,
            parts: parts.map_err(|_| UndoError::Packed {
                problem: "a part's id is no number",
            })?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_s_contexts_are_read_in_any_order() {
        let plain = Context {
            compressor: Compressor::None,
            parts: vec![],
        };
        assert_eq!(Context::parse(Context::WRITTEN), Ok(plain.clone()));
        assert_eq!(
            Context::parse("serializer=jackson&compressorType=NONE&map=16777216"),
            Ok(plain)
        );
        let parts = Context {
            compressor: Compressor::Zip,
            parts: vec![7, 8],
        };
        assert_eq!(
            Context::parse("subId=7,8,&map=16777216&compressorType=ZIP&serializer=jackson"),
            Ok(parts)
        );
    }

    #[test]
    fn other_parsers_and_compressors_are_refused_by_name() {
        let parser = |name: &str| Err(UndoError::Parser { name: name.to_owned() });
        assert_eq!(
            Context::parse("serializer=fastjson&compressorType=NONE"),
            parser("fastjson")
        );
        assert_eq!(Context::parse("serializer=kryo"), parser("kryo"));
        assert_eq!(Context::parse(""), parser(""));
        let name = "BZIP2".to_owned();
        assert_eq!(
            Context::parse("serializer=jackson&compressorType=BZIP2"),
            Err(UndoError::Compressor { name })
        );
    }
}
