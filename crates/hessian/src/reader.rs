//! Reading: one token after the other, in either dialect, from bytes that may be hostile.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::{
    ClassId, ClassNames, Dialect, HessianError, IndexKind, Limit, Limits, ListHead, MapHead, ObjectHead, RefId, Text,
    Token, TypeId,
    dialect::Code,
    names::{ClassEntry, Name},
    text::{Assembly, chunk},
};

/// How to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecodeOptions {
    /// The encoding that the protocol around the bytes calls for.
    pub dialect: Dialect,
    /// What one message may cost.
    pub limits: Limits,
    /// Which names of classes and types may come in.
    pub class_names: ClassNames,
}

impl DecodeOptions {
    /// Default limits and the default list of refused classes.
    pub const fn new(dialect: Dialect) -> DecodeOptions {
        DecodeOptions {
            dialect,
            limits: Limits::DEFAULT,
            class_names: ClassNames::DEFAULT,
        }
    }
}

/// Enough to read the value again from its first byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefEntry {
    at: u32,
    types: u32,
    classes: u32,
    /// Whether its end was not reached yet.
    pub(crate) is_open: bool,
}

/// A place to come back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    at: usize,
    refs: u32,
    types: u32,
    classes: u32,
}

/// Reads the tokens of one message. A message may be several values that share their tables, as a request of SOFARPC
/// and its arguments do.
///
/// Nothing of it is global and nothing is locked: readers in different threads know nothing of each other. Tables hold
/// places in the input, not copies. What an input can cost is bounded by [`Limits`].
pub struct Reader<'a, 'o> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
    pub(crate) codes: &'static [Code; 256],
    pub(crate) is_sofa: bool,
    pub(crate) options: &'o DecodeOptions,
    pub(crate) depth: u32,
    pub(crate) nodes: u64,
    /// `types_at` at the first byte of the token that is being read.
    pub(crate) types_before: u32,
    /// The first byte of that token.
    pub(crate) token_at: usize,
    /// Where the fields of classes stand in derived types, where that is not Java's order.
    pub(crate) places: Vec<Option<u16>>,
    /// Bytes that may still be reserved on the word of an announced length.
    pub(crate) credit: usize,
    /// Whether more bytes may follow; then it is noted what is closed and opened again, so that an attempt can be undone.
    pub(crate) is_partial: bool,
    pub(crate) turned: Vec<RefId>,
    // The tables of a usual message fit in here, and cost no allocation.
    pub(crate) refs: SmallVec<[RefEntry; 16]>,
    pub(crate) types: SmallVec<[Name; 4]>,
    pub(crate) classes: SmallVec<[ClassEntry; 4]>,
    /// How much of each table is behind `at`: less than there is while something is read again.
    pub(crate) refs_at: u32,
    pub(crate) types_at: u32,
    pub(crate) classes_at: u32,
}

/// Bytes reserved per byte of input before a list grows as it is filled, and what every input may have.
pub(crate) const CREDIT_PER_BYTE: usize = 16;
const CREDIT_BASE: usize = 4096;

impl<'a, 'o> Reader<'a, 'o> {
    /// A reader at the first byte of `bytes`, which hold whole values.
    ///
    /// # Errors
    /// [`HessianError::OverLimit`] when there are more bytes than [`Limits::message_bytes`].
    pub fn new(bytes: &'a [u8], options: &'o DecodeOptions) -> Result<Reader<'a, 'o>, HessianError> {
        let max = options.limits.message_bytes.min(u32::MAX as usize);
        if bytes.len() > max {
            return Err(HessianError::OverLimit {
                limit: Limit::MessageBytes,
                max: max as u64,
                at: max,
            });
        }
        Ok(Reader {
            bytes,
            at: 0,
            codes: options.dialect.codes(),
            is_sofa: options.dialect == Dialect::Sofa3,
            options,
            depth: 0,
            nodes: 0,
            types_before: 0,
            token_at: 0,
            places: Vec::new(),
            credit: bytes.len().saturating_mul(CREDIT_PER_BYTE).saturating_add(CREDIT_BASE),
            is_partial: false,
            turned: Vec::new(),
            refs: SmallVec::new(),
            types: SmallVec::new(),
            classes: SmallVec::new(),
            refs_at: 0,
            types_at: 0,
            classes_at: 0,
        })
    }

    /// How many bytes were read.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Whether all bytes were read.
    pub fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Ends the message.
    ///
    /// # Errors
    /// [`HessianError::TrailingBytes`] when something is left.
    pub fn finish(self) -> Result<(), HessianError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            count => Err(HessianError::TrailingBytes { count }),
        }
    }

    /// Reads the next value or head. Definitions of classes on the way are taken in silently.
    #[inline]
    pub fn token(&mut self) -> Result<Token<'a>, HessianError> {
        loop {
            let start = self.at;
            let byte = self.byte()?;
            let code = self.codes[usize::from(byte)];
            if code == Code::ClassDef {
                self.class_definition()?;
                continue;
            }
            return self.token_of(code, byte, start);
        }
    }

    fn token_of(&mut self, code: Code, byte: u8, start: usize) -> Result<Token<'a>, HessianError> {
        self.types_before = self.types_at;
        self.token_at = start;
        self.nodes += 1;
        if self.nodes > self.options.limits.nodes {
            return Err(self.over(Limit::Nodes, self.options.limits.nodes));
        }
        Ok(match code {
            Code::Null => Token::Null,
            Code::True => Token::Bool(true),
            Code::False => Token::Bool(false),
            Code::IntDirect | Code::IntByte | Code::IntShort | Code::Int32 => Token::Int(self.int_of(code, byte)?),
            Code::LongDirect => Token::Long(i64::from(byte) - 0xe0),
            Code::LongByte => Token::Long(i64::from((i32::from(byte) - 0xf8) << 8 | i32::from(self.byte()?))),
            Code::LongShort => Token::Long(i64::from((i32::from(byte) - 0x3c) << 16 | i32::from(self.u16()?))),
            Code::Long32 => Token::Long(i64::from(self.i32()?)),
            Code::Long64 => Token::Long(self.i64()?),
            Code::DoubleZero => Token::Double(0.0),
            Code::DoubleOne => Token::Double(1.0),
            Code::DoubleByte => Token::Double(f64::from(self.byte()? as i8)),
            Code::DoubleShort => Token::Double(f64::from(self.u16()? as i16)),
            Code::DoubleMills => Token::Double(0.001 * f64::from(self.i32()?)),
            Code::DoubleFloat => Token::Double(f64::from(f32::from_bits(self.i32()? as u32))),
            Code::Double64 => Token::Double(f64::from_bits(self.i64()? as u64)),
            Code::DateMillis => Token::Date(self.i64()?),
            Code::DateMinutes => Token::Date(i64::from(self.i32()?) * 60_000),
            Code::StringDirect | Code::StringShort | Code::StringFinal | Code::StringChunk => {
                Token::String(self.string_of(code, byte)?)
            }
            Code::BinaryDirect | Code::BinaryShort | Code::BinaryFinal | Code::BinaryChunk => {
                Token::Binary(self.binary_of(code, byte)?)
            }
            Code::ListVariableTyped => {
                let name = self.type_name()?;
                self.list(start, Some(name), None, false)?
            }
            Code::ListVariable => self.list(start, None, None, false)?,
            Code::ListFixedTyped => {
                let name = self.type_name()?;
                let len = self.length()?;
                self.list(start, Some(name), Some(len), false)?
            }
            Code::ListFixed => {
                let len = self.length()?;
                self.list(start, None, Some(len), false)?
            }
            Code::ListDirectTyped => {
                let name = self.type_name()?;
                self.list(start, Some(name), Some(i64::from(byte - 0x70)), false)?
            }
            Code::ListDirect => self.list(start, None, Some(i64::from(byte - 0x78)), false)?,
            Code::ListSofa => {
                let name = self.sofa_type()?;
                let len = match self.peek_inside()? {
                    Some(0x6e) => {
                        self.at += 1;
                        Some(i64::from(self.byte()?))
                    }
                    Some(b'l') => {
                        self.at += 1;
                        Some(i64::from(self.i32()?))
                    }
                    _ => None,
                };
                self.list(start, name, len, true)?
            }
            Code::ListSofaRef => {
                let name = self.known_type()?;
                let len = self.length()?;
                self.list(start, Some(name), Some(len), false)?
            }
            Code::MapTyped => {
                let name = self.type_name()?;
                self.map(start, Some(name))?
            }
            Code::Map => self.map(start, None)?,
            Code::MapSofa => {
                let name = self.sofa_type()?;
                self.map(start, name)?
            }
            Code::ObjectDirect => self.object(start, i64::from(byte - 0x60))?,
            Code::Object => {
                let index = i64::from(self.int("the index of a class definition")?);
                self.object(start, index)?
            }
            Code::Ref => {
                let index = i64::from(self.int("the number of a reference")?);
                self.reference(start, index)?
            }
            Code::RefByte => {
                let index = i64::from(self.byte()?);
                self.reference(start, index)?
            }
            Code::RefShort => {
                let index = i64::from(self.u16()?);
                self.reference(start, index)?
            }
            Code::Ref32 => {
                let index = i64::from(self.i32()?);
                self.reference(start, index)?
            }
            Code::ClassDef | Code::End | Code::Unknown => return Err(unexpected(start, byte, "a value")),
        })
    }

    /// Whether `list` has another item, which is then the next token. Reads the end of the list when it has none.
    #[inline]
    pub fn next_item(&mut self, list: &mut ListHead) -> Result<bool, HessianError> {
        if list.len.is_none() {
            return self.more(list.reference, "an item or the end of a list");
        }
        if list.left > 0 {
            list.left -= 1;
            return Ok(true);
        }
        self.end_list(list).map(|()| false)
    }

    /// Apart from [`Reader::next_item`], so that a loop over many items stays small.
    #[inline(never)]
    fn end_list(&mut self, list: &ListHead) -> Result<(), HessianError> {
        if list.has_end {
            let byte = self.byte()?;
            if self.codes[usize::from(byte)] != Code::End {
                return Err(unexpected(self.at - 1, byte, "the end of a list"));
            }
        }
        self.leave(list.reference);
        Ok(())
    }

    /// Whether `map` has another key, which is then the next token. Reads the end of the map when it has none.
    #[inline]
    pub fn next_entry(&mut self, map: &MapHead) -> Result<bool, HessianError> {
        self.more(map.reference, "a key or the end of a map")
    }

    /// To be called after the last field of `object`.
    #[inline]
    pub fn end_object(&mut self, object: &ObjectHead) {
        self.leave(object.reference);
    }

    /// Reads one value and forgets it, but for what references later on may point at.
    pub fn skip(&mut self) -> Result<(), HessianError> {
        enum Open {
            List(ListHead),
            Map(MapHead, bool),
            Object(ObjectHead, usize),
        }
        let mut open: Vec<Open> = Vec::new();
        loop {
            match self.token()? {
                Token::List(head) => open.push(Open::List(head)),
                Token::Map(head) => open.push(Open::Map(head, false)),
                Token::Object(head) => {
                    let fields = self.field_count(head.class);
                    open.push(Open::Object(head, fields));
                }
                _ => {}
            }
            loop {
                let has_more = match open.last_mut() {
                    None => return Ok(()),
                    Some(Open::List(head)) => self.next_item(head)?,
                    Some(Open::Map(_, inside @ true)) => {
                        *inside = false;
                        true
                    }
                    Some(Open::Map(head, inside)) => {
                        *inside = true;
                        self.next_entry(head)?
                    }
                    Some(Open::Object(head, left)) => match left.checked_sub(1) {
                        Some(less) => {
                            *left = less;
                            true
                        }
                        None => {
                            self.end_object(head);
                            false
                        }
                    },
                };
                if has_more {
                    break;
                }
                open.pop();
            }
        }
    }

    /// How many items of `size` bytes each may be reserved for a list that announces `len`. All that is reserved so
    /// stays below a fixed multiple of the bytes received.
    pub fn reserve(&mut self, len: Option<usize>, size: usize) -> usize {
        let items = len.unwrap_or(0).min(self.credit / size.max(1));
        self.credit -= items * size;
        items
    }

    /// Goes back to the first byte of `reference` and reads it again with `read`, then goes on behind the reference.
    /// What is read again counts as nodes again.
    ///
    /// # Errors
    /// [`HessianError::Cycle`] when the value has not ended yet: it would hold itself.
    pub fn replay<T>(
        &mut self,
        reference: RefId,
        read: impl FnOnce(&mut Self) -> Result<T, HessianError>,
    ) -> Result<T, HessianError> {
        let place = self.rewind(reference)?;
        let value = read(self)?;
        self.resume(place);
        Ok(value)
    }

    /// Whether `reference` has not ended yet: what is being read is inside of it.
    pub(crate) fn is_open(&self, reference: RefId) -> bool {
        self.refs[reference.index()].is_open
    }

    pub(crate) fn rewind(&mut self, reference: RefId) -> Result<Place, HessianError> {
        let entry = self.refs[reference.index()];
        if entry.is_open {
            return Err(HessianError::Cycle { at: self.at });
        }
        let place = Place {
            at: self.at,
            refs: self.refs_at,
            types: self.types_at,
            classes: self.classes_at,
        };
        self.at = entry.at as usize;
        self.refs_at = reference.0;
        self.types_at = entry.types;
        self.classes_at = entry.classes;
        Ok(place)
    }

    pub(crate) fn resume(&mut self, place: Place) {
        self.at = place.at;
        self.refs_at = place.refs;
        self.types_at = place.types;
        self.classes_at = place.classes;
    }

    /// How many lists, maps and objects began so far.
    pub(crate) fn references(&self) -> usize {
        self.refs.len()
    }

    #[inline]
    fn more(&mut self, reference: RefId, expected: &'static str) -> Result<bool, HessianError> {
        match self.peek() {
            None => Err(HessianError::Truncated { at: self.at, needed: 1 }),
            Some(byte) => match self.codes[usize::from(byte)] {
                Code::End => {
                    self.at += 1;
                    self.leave(reference);
                    Ok(false)
                }
                Code::Unknown => Err(unexpected(self.at, byte, expected)),
                _ => Ok(true),
            },
        }
    }

    fn list(
        &mut self,
        start: usize,
        type_name: Option<TypeId>,
        len: Option<i64>,
        has_end: bool,
    ) -> Result<Token<'a>, HessianError> {
        let len = match len {
            None => None,
            Some(length) => {
                let len = usize::try_from(length).map_err(|_| HessianError::BadLength { at: start, length })?;
                if len > self.options.limits.list_items {
                    return Err(self.over(Limit::ListItems, self.options.limits.list_items as u64));
                }
                // An item has at least one byte.
                let left = self.bytes.len() - self.at;
                if len > left && !self.is_partial {
                    return Err(HessianError::Truncated {
                        at: start,
                        needed: len - left,
                    });
                }
                Some(len)
            }
        };
        let reference = self.enter(start)?;
        Ok(Token::List(ListHead {
            reference,
            type_name,
            len,
            left: len.unwrap_or(0),
            has_end,
        }))
    }

    fn map(&mut self, start: usize, type_name: Option<TypeId>) -> Result<Token<'a>, HessianError> {
        let reference = self.enter(start)?;
        Ok(Token::Map(MapHead { reference, type_name }))
    }

    fn object(&mut self, start: usize, index: i64) -> Result<Token<'a>, HessianError> {
        let known = self.classes_at as usize;
        let class = match u32::try_from(index) {
            Ok(index) if (index as usize) < known => ClassId(index),
            _ => return Err(unknown(IndexKind::ClassDefinition, index, known, start)),
        };
        let reference = self.enter(start)?;
        Ok(Token::Object(ObjectHead { reference, class }))
    }

    fn reference(&mut self, start: usize, index: i64) -> Result<Token<'a>, HessianError> {
        let known = self.refs_at as usize;
        match u32::try_from(index) {
            Ok(index) if (index as usize) < known => Ok(Token::Ref(RefId(index))),
            _ => Err(unknown(IndexKind::Reference, index, known, start)),
        }
    }

    /// Gives the value that began at `start` its number and goes one level down.
    pub(crate) fn enter(&mut self, start: usize) -> Result<RefId, HessianError> {
        let limits = &self.options.limits;
        self.depth += 1;
        if self.depth > limits.depth {
            return Err(self.over(Limit::Depth, u64::from(limits.depth)));
        }
        let reference = RefId(self.refs_at);
        self.refs_at += 1;
        if let Some(entry) = self.refs.get_mut(reference.index()) {
            entry.is_open = true;
            if self.is_partial {
                self.turned.push(reference);
            }
            return Ok(reference);
        }
        if reference.0 >= limits.references {
            return Err(self.over(Limit::References, u64::from(limits.references)));
        }
        self.refs.push(RefEntry {
            at: start as u32,
            types: self.types_before,
            classes: self.classes_at,
            is_open: true,
        });
        Ok(reference)
    }

    #[inline]
    fn leave(&mut self, reference: RefId) {
        self.depth -= 1;
        self.refs[reference.index()].is_open = false;
        if self.is_partial {
            self.turned.push(reference);
        }
    }

    fn string_of(&mut self, mut code: Code, mut byte: u8) -> Result<Text<'a>, HessianError> {
        let max = self.options.limits.string_units;
        let (mut all, mut total) = (Assembly::default(), 0);
        loop {
            let units = match code {
                Code::StringDirect => usize::from(byte),
                Code::StringShort => usize::from(byte - 0x30) << 8 | usize::from(self.byte()?),
                Code::StringFinal | Code::StringChunk => usize::from(self.u16()?),
                _ => return Err(unexpected(self.at - 1, byte, "the next chunk of a string")),
            };
            total += units;
            if total > max {
                return Err(self.over(Limit::StringUnits, max as u64));
            }
            let chunk = chunk(&self.bytes[self.at..], units, self.at)?;
            all.add(&chunk, self.at)?;
            self.at += chunk.bytes.len();
            if code != Code::StringChunk {
                return Ok(all.finish());
            }
            byte = self.byte()?;
            code = self.codes[usize::from(byte)];
        }
    }

    fn binary_of(&mut self, mut code: Code, mut byte: u8) -> Result<Cow<'a, [u8]>, HessianError> {
        let max = self.options.limits.binary_bytes;
        let (mut all, mut total) = (Cow::Borrowed(&[][..]), 0);
        loop {
            let len = match code {
                Code::BinaryDirect => usize::from(byte - 0x20),
                Code::BinaryShort => usize::from(byte - 0x34) << 8 | usize::from(self.byte()?),
                Code::BinaryFinal | Code::BinaryChunk => usize::from(self.u16()?),
                _ => return Err(unexpected(self.at - 1, byte, "the next chunk of a binary")),
            };
            total += len;
            if total > max {
                return Err(self.over(Limit::BinaryBytes, max as u64));
            }
            let part = self.take(len)?;
            if all.is_empty() {
                all = Cow::Borrowed(part);
            } else if !part.is_empty() {
                all.to_mut().extend_from_slice(part);
            }
            if code != Code::BinaryChunk {
                return Ok(all);
            }
            byte = self.byte()?;
            code = self.codes[usize::from(byte)];
        }
    }

    /// An int that is part of the encoding itself.
    pub(crate) fn int(&mut self, expected: &'static str) -> Result<i32, HessianError> {
        let start = self.at;
        let byte = self.byte()?;
        match self.codes[usize::from(byte)] {
            code @ (Code::IntDirect | Code::IntByte | Code::IntShort | Code::Int32) => self.int_of(code, byte),
            _ => Err(unexpected(start, byte, expected)),
        }
    }

    fn length(&mut self) -> Result<i64, HessianError> {
        self.int("the length of a list").map(i64::from)
    }

    #[inline]
    fn int_of(&mut self, code: Code, byte: u8) -> Result<i32, HessianError> {
        Ok(match code {
            Code::IntDirect => i32::from(byte) - 0x90,
            Code::IntByte => (i32::from(byte) - 0xc8) << 8 | i32::from(self.byte()?),
            Code::IntShort => (i32::from(byte) - 0xd4) << 16 | i32::from(self.u16()?),
            _ => self.i32()?,
        })
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The next byte, where something must follow, at least an end. It decides what is there, so it is waited for.
    pub(crate) fn peek_inside(&self) -> Result<Option<u8>, HessianError> {
        match self.peek() {
            None if self.is_partial => Err(HessianError::Truncated { at: self.at, needed: 1 }),
            byte => Ok(byte),
        }
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, HessianError> {
        match self.bytes.get(self.at) {
            Some(byte) => {
                self.at += 1;
                Ok(*byte)
            }
            None => Err(HessianError::Truncated { at: self.at, needed: 1 }),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], HessianError> {
        let left = self.bytes.len() - self.at;
        if len > left {
            return Err(HessianError::Truncated {
                at: self.at,
                needed: len - left,
            });
        }
        let part = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HessianError> {
        let part = self.take(N)?;
        Ok(part.try_into().expect("as many bytes were taken as the array has"))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, HessianError> {
        self.array().map(u16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, HessianError> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, HessianError> {
        self.array().map(i64::from_be_bytes)
    }

    #[cold]
    pub(crate) fn over(&self, limit: Limit, max: u64) -> HessianError {
        HessianError::OverLimit {
            limit,
            max,
            at: self.at,
        }
    }
}

#[cold]
pub(crate) fn unexpected(at: usize, code: u8, expected: &'static str) -> HessianError {
    HessianError::UnexpectedCode { at, code, expected }
}

#[cold]
pub(crate) fn unknown(kind: IndexKind, index: i64, known: usize, at: usize) -> HessianError {
    HessianError::UnknownIndex { kind, index, known, at }
}
