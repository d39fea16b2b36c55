//! Reading the parts of a message while it arrives.

use std::mem;

use crate::{DecodeOptions, HessianError, Limit, Reader, reader::CREDIT_PER_BYTE};

/// A message that arrives in pieces. What is there can be read as soon as it is whole: one token, one item of a list as
/// a derived type, one argument of a call.
///
/// The bytes stay here until the end, since references, classes and types point back at them; all of them together are
/// bounded by [`Limits::message_bytes`](crate::Limits::message_bytes).
///
/// ```
/// use settle_hessian::{DecodeOptions, Dialect, HessianDecode, Incoming, Token, to_bytes};
///
/// let bytes = to_bytes(Dialect::Hessian2, &vec!["one".to_owned(), "two".to_owned()])?;
/// let options = DecodeOptions::new(Dialect::Hessian2);
/// let mut incoming = Incoming::new(&options);
/// incoming.feed(&bytes[..6])?;
/// let Some(Token::List(mut head)) = incoming.read(|reader| reader.token())? else { panic!("its head is there") };
/// assert_eq!(incoming.read(|reader| reader.next_item(&mut head))?, Some(true));
/// assert_eq!(incoming.read(String::decode_next)?, Some("one".to_owned()));
/// assert_eq!(incoming.read(|reader| reader.next_item(&mut head))?, Some(true));
/// assert_eq!(incoming.read(String::decode_next)?, None);
/// incoming.feed(&bytes[6..])?;
/// assert_eq!(incoming.read(String::decode_next)?, Some("two".to_owned()));
/// assert_eq!(incoming.read(|reader| reader.next_item(&mut head))?, Some(false));
/// incoming.finish()?;
/// # Ok::<(), settle_hessian::HessianError>(())
/// ```
pub struct Incoming<'o> {
    bytes: Vec<u8>,
    /// Holds no bytes between two attempts.
    reader: Reader<'static, 'o>,
    /// How many bytes the last attempt said that there must be.
    worth_at: usize,
}

impl<'o> Incoming<'o> {
    /// Before the first byte.
    pub fn new(options: &'o DecodeOptions) -> Incoming<'o> {
        let mut reader = Reader::new(&[], options).expect("no limit is below no bytes");
        reader.is_partial = true;
        Incoming {
            bytes: Vec::new(),
            reader,
            worth_at: 0,
        }
    }

    /// Takes in what arrived.
    ///
    /// # Errors
    /// [`HessianError::OverLimit`] when there are more bytes than [`Limits::message_bytes`](crate::Limits::message_bytes).
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), HessianError> {
        let max = self.reader.options.limits.message_bytes.min(u32::MAX as usize);
        if bytes.len() > max - self.bytes.len() {
            return Err(HessianError::OverLimit {
                limit: Limit::MessageBytes,
                max: max as u64,
                at: max,
            });
        }
        self.bytes.extend_from_slice(bytes);
        let credit = bytes.len().saturating_mul(CREDIT_PER_BYTE);
        self.reader.credit = self.reader.credit.saturating_add(credit);
        Ok(())
    }

    /// Lets `read` take what comes next. `None` when it ran into the end of what is there: then it is as if it had not
    /// begun, and is to be asked again once more has arrived. Since it begins anew each time, ask for parts that are not
    /// much larger than what arrives at once. What `read` itself changes outside of the reader stays changed: let it take
    /// one step.
    ///
    /// # Errors
    /// What `read` answers, but for [`HessianError::Truncated`]. The message cannot be read any further then.
    pub fn read<'s, T>(
        &'s mut self,
        read: impl FnOnce(&mut Reader<'s, 'o>) -> Result<T, HessianError>,
    ) -> Result<Option<T>, HessianError> {
        if self.bytes.len() < self.worth_at {
            return Ok(None);
        }
        let empty = Reader::new(&[], self.reader.options)?;
        let mut reader: Reader<'s, 'o> = mem::replace(&mut self.reader, empty);
        reader.bytes = &self.bytes;
        let mark = Mark::of(&reader);
        let result = match read(&mut reader) {
            Ok(value) => {
                reader.turned.clear();
                Ok(Some(value))
            }
            Err(HessianError::Truncated { needed, .. }) => {
                self.worth_at = reader.bytes.len() + needed;
                mark.undo(&mut reader);
                Ok(None)
            }
            Err(error) => Err(error),
        };
        self.reader = without_bytes(reader);
        result
    }

    /// How many bytes were read.
    pub fn position(&self) -> usize {
        self.reader.at
    }

    /// Whether all that has arrived was read.
    pub fn is_at_end(&self) -> bool {
        self.reader.at == self.bytes.len()
    }

    /// Ends the message.
    ///
    /// # Errors
    /// [`HessianError::TrailingBytes`] when something is left.
    pub fn finish(self) -> Result<(), HessianError> {
        match self.bytes.len() - self.reader.at {
            0 => Ok(()),
            count => Err(HessianError::TrailingBytes { count }),
        }
    }
}

/// What a reader was before an attempt.
struct Mark {
    at: usize,
    depth: u32,
    nodes: u64,
    credit: usize,
    types_before: u32,
    token_at: usize,
    lengths: [usize; 4],
    behind: [u32; 3],
}

impl Mark {
    fn of(reader: &Reader<'_, '_>) -> Mark {
        Mark {
            at: reader.at,
            depth: reader.depth,
            nodes: reader.nodes,
            credit: reader.credit,
            types_before: reader.types_before,
            token_at: reader.token_at,
            lengths: [
                reader.refs.len(),
                reader.types.len(),
                reader.classes.len(),
                reader.places.len(),
            ],
            behind: [reader.refs_at, reader.types_at, reader.classes_at],
        }
    }

    fn undo(self, reader: &mut Reader<'_, '_>) {
        let [refs, types, classes, places] = self.lengths;
        reader.refs.truncate(refs);
        reader.types.truncate(types);
        reader.classes.truncate(classes);
        reader.places.truncate(places);
        for class in &mut reader.classes {
            // How a known class goes into a type may have been found in what is undone.
            let start = class.plan.and_then(|plan| plan.places);
            if start.is_some_and(|start| start as usize >= places) {
                class.plan = None;
            }
        }
        for reference in mem::take(&mut reader.turned) {
            if let Some(entry) = reader.refs.get_mut(reference.index()) {
                entry.is_open = !entry.is_open;
            }
        }
        [reader.refs_at, reader.types_at, reader.classes_at] = self.behind;
        reader.at = self.at;
        reader.depth = self.depth;
        reader.nodes = self.nodes;
        reader.credit = self.credit;
        reader.types_before = self.types_before;
        reader.token_at = self.token_at;
    }
}

fn without_bytes<'o>(reader: Reader<'_, 'o>) -> Reader<'static, 'o> {
    let Reader {
        bytes: _,
        at,
        codes,
        is_sofa,
        options,
        depth,
        nodes,
        types_before,
        token_at,
        places,
        credit,
        is_partial,
        turned,
        refs,
        types,
        classes,
        refs_at,
        types_at,
        classes_at,
    } = reader;
    Reader {
        bytes: &[],
        at,
        codes,
        is_sofa,
        options,
        depth,
        nodes,
        types_before,
        token_at,
        places,
        credit,
        is_partial,
        turned,
        refs,
        types,
        classes,
        refs_at,
        types_at,
        classes_at,
    }
}
