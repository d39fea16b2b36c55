//! Writing: the bytes that Java's encoders of either dialect write for the same calls.

use std::{collections::BTreeMap, ops::Range};

use bytes::{BufMut as _, BytesMut};

use crate::{
    Dialect, HessianError, Library, RefId, Shape,
    java_buffer::JavaBuffer,
    text::{is_written_as_is, unit_bytes, unit_count},
};

/// Java cuts a string after so many UTF-16 units, or one less when that would part a pair of surrogates.
const STRING_CHUNK_UNITS: usize = 0x8000;
/// SOFA cuts a binary after so many bytes.
const SOFA_BINARY_CHUNK: usize = 0x8000;
/// `hessian-lite` flushes its buffer of 4 KiB and then fills it.
const LITE_BINARY_CHUNK: usize = 4096 - 3;
/// Tables up to this size are searched from front to end; what comes later is found by an ordered map.
const SCANNED: usize = 32;

/// What closes a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a list is closed by `Writer::end_list`"]
pub struct ListEnd(bool);

/// Writes values of one message into a buffer. Values written one after the other share their tables, as a request of
/// SOFARPC and its arguments do.
pub struct Writer<'b> {
    out: &'b mut BytesMut,
    is_sofa: bool,
    /// Whether classes of the library itself are named as `hessian-lite` does.
    is_lite: bool,
    /// Present when cuts depend on it.
    java: Option<JavaBuffer>,
    references: u32,
    types: Names,
    classes: Names,
    /// Where the names and fields of a class lie in memory, and its index: found without comparing them.
    class_keys: Vec<(ClassKey, u32)>,
    /// Constants of enums that were written: their class and name by address, as Java's constants are one object each.
    constants: Vec<(ClassKey, RefId)>,
}

/// Addresses and lengths of a static name and a static list of fields.
type ClassKey = [usize; 4];

impl<'b> Writer<'b> {
    /// A writer that appends to `out`, in the final dialect as `hessian-lite` does.
    pub fn new(dialect: Dialect, out: &'b mut BytesMut) -> Writer<'b> {
        Writer::with_library(dialect, Library::HessianLite, out)
    }

    /// A writer that writes the final dialect as `library` does; SOFA has one way only.
    pub fn with_library(dialect: Dialect, library: Library, out: &'b mut BytesMut) -> Writer<'b> {
        let is_sofa = dialect == Dialect::Sofa3;
        Writer {
            out,
            is_sofa,
            is_lite: !is_sofa && library == Library::HessianLite,
            java: (!is_sofa && library == Library::Caucho).then(JavaBuffer::default),
            references: 0,
            types: Names::default(),
            classes: Names::default(),
            class_keys: Vec::new(),
            constants: Vec::new(),
        }
    }

    /// Whether classes of the library itself are named as `hessian-lite` does.
    pub(crate) fn is_lite(&self) -> bool {
        self.is_lite
    }

    /// Tells that Java's program would flush its stream here; matters only to [`Library::Caucho`].
    pub fn flush(&mut self) {
        if let Some(java) = &mut self.java {
            java.flush();
        }
    }

    pub fn null(&mut self) {
        self.scalar(b"N");
    }

    pub fn bool(&mut self, value: bool) {
        self.out.put_u8(if value { b'T' } else { b'F' });
        if let Some(java) = &mut self.java {
            java.flag(1);
        }
    }

    /// Java's `int`, `short` and `byte`.
    #[inline]
    pub fn int(&mut self, value: i32) {
        let (word, width) = packed_int(value);
        self.packed(word, width);
    }

    /// Each of `values` as an [`int`](Writer::int).
    pub(crate) fn ints(&mut self, values: &[i32]) {
        if self.java.is_some() {
            return values.iter().for_each(|value| self.int(*value));
        }
        // Collected here, since looking for room in the buffer costs more than an int does.
        const AT_ONCE: usize = 64;
        let mut block = [0; 5 * AT_ONCE + 8];
        for values in values.chunks(AT_ONCE) {
            let mut end = 0;
            for value in values {
                let (word, width) = packed_int(*value);
                block[end..end + 8].copy_from_slice(&word.to_be_bytes());
                end += width;
            }
            self.out.extend_from_slice(&block[..end]);
        }
    }

    /// Java's `long`.
    #[inline]
    pub fn long(&mut self, value: i64) {
        let bits = u64::from(value as u32);
        match value {
            -0x8..=0xf => self.packed((bits + 0xe0) << 56, 1),
            -0x800..=0x7ff => self.packed((bits + 0xf800) << 48, 2),
            -0x4_0000..=0x3_ffff => self.packed((bits + 0x3c_0000) << 40, 3),
            -0x8000_0000..=0x7fff_ffff => {
                let code = if self.is_sofa { 0x77 } else { 0x59 };
                self.packed((code << 32 | bits) << 24, 5);
            }
            _ => {
                let mut all = [b'L'; 9];
                all[1..].copy_from_slice(&value.to_be_bytes());
                self.scalar(&all);
            }
        }
    }

    /// Java's `double`, and `float` widened to it. Negative zero becomes zero and every NaN the same NaN, as in Java.
    #[inline]
    pub fn double(&mut self, value: f64) {
        let (zero, one, byte, short) = if self.is_sofa {
            (0x67, 0x68, 0x69, 0x6a)
        } else {
            (0x5b, 0x5c, 0x5d, 0x5e)
        };
        // The casts saturate, as Java's do.
        let whole = value as i32;
        if f64::from(whole) == value {
            match (whole, i8::try_from(whole), i16::try_from(whole)) {
                (0, ..) => return self.scalar(&[zero]),
                (1, ..) => return self.scalar(&[one]),
                (_, Ok(small), _) => return self.scalar(&[byte, small as u8]),
                (_, _, Ok(small)) => {
                    let [b1, b0] = small.to_be_bytes();
                    return self.scalar(&[short, b1, b0]);
                }
                _ => {}
            }
        }
        let compact = if self.is_sofa {
            let float = value as f32;
            (f64::from(float) == value).then(|| (0x6b, float.to_bits()))
        } else {
            let mills = (value * 1000.0) as i32;
            (0.001 * f64::from(mills) == value).then_some((0x5f, mills as u32))
        };
        if let Some((code, bits)) = compact {
            let [b3, b2, b1, b0] = bits.to_be_bytes();
            return self.scalar(&[code, b3, b2, b1, b0]);
        }
        let bits = if value.is_nan() { 0x7ff8 << 48 } else { value.to_bits() };
        let mut all = [b'D'; 9];
        all[1..].copy_from_slice(&bits.to_be_bytes());
        self.scalar(&all);
    }

    /// `java.util.Date`: milliseconds since 1970 in UTC.
    pub fn date(&mut self, millis: i64) {
        let before = self.out.len();
        let minutes = i32::try_from(millis / 60_000);
        match minutes {
            Ok(minutes) if !self.is_sofa && millis % 60_000 == 0 => {
                self.out.put_u8(0x4b);
                self.out.put_i32(minutes);
            }
            _ => {
                self.out.put_u8(if self.is_sofa { b'd' } else { 0x4a });
                self.out.put_i64(millis);
            }
        }
        let bytes = self.out.len() - before;
        if let Some(java) = &mut self.java {
            java.head(bytes);
        }
    }

    /// Java's `String`.
    #[inline]
    pub fn string(&mut self, text: &str) {
        if text.len() <= STRING_CHUNK_UNITS && text.is_ascii() {
            self.string_head(text.len(), false);
            self.out.extend_from_slice(text.as_bytes());
            if let Some(java) = &mut self.java {
                java.ascii(text.len());
            }
            return;
        }
        self.long_string(text);
    }

    fn long_string(&mut self, text: &str) {
        if is_written_as_is(text) {
            return self.plain_string(text);
        }
        let units: Vec<u16> = text.encode_utf16().collect();
        self.utf16(&units);
    }

    /// A `String` of Java from its UTF-16 units, which need not be text.
    pub fn utf16(&mut self, units: &[u16]) {
        let mut left = units;
        while left.len() > STRING_CHUNK_UNITS {
            let is_high = matches!(left[STRING_CHUNK_UNITS - 1], 0xd800..=0xdbff);
            let (now, then) = left.split_at(STRING_CHUNK_UNITS - usize::from(is_high));
            self.string_head(now.len(), true);
            self.units(now);
            left = then;
        }
        self.string_head(left.len(), false);
        self.units(left);
    }

    /// A string without characters beyond the basic plane.
    fn plain_string(&mut self, text: &str) {
        let mut left = text;
        let mut units = if text.is_ascii() {
            text.len()
        } else {
            text.chars().count()
        };
        while units > STRING_CHUNK_UNITS {
            let cut = if left.len() == units {
                STRING_CHUNK_UNITS
            } else {
                let mut starts = left.char_indices().skip(STRING_CHUNK_UNITS);
                starts.next().map_or(left.len(), |(start, _)| start)
            };
            let (now, then) = left.split_at(cut);
            self.string_head(STRING_CHUNK_UNITS, true);
            self.plain(now);
            left = then;
            units -= STRING_CHUNK_UNITS;
        }
        self.string_head(units, false);
        self.plain(left);
    }

    #[inline]
    fn string_head(&mut self, units: usize, is_chunk: bool) {
        let [b1, b0] = (units as u16).to_be_bytes();
        match (is_chunk, self.is_sofa) {
            (true, true) => self.scalar(&[b's', b1, b0]),
            (true, false) => self.scalar(&[b'R', b1, b0]),
            (false, _) if units <= 0x1f => self.scalar(&[b0]),
            (false, false) if units <= 0x3ff => self.scalar(&[0x30 + b1, b0]),
            (false, _) => self.scalar(&[b'S', b1, b0]),
        }
    }

    fn plain(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
        if let Some(java) = &mut self.java {
            if text.is_ascii() {
                java.ascii(text.len());
            } else {
                text.chars().for_each(|char| java.unit(char.len_utf8()));
            }
        }
    }

    fn units(&mut self, units: &[u16]) {
        self.out.reserve(units.len());
        for unit in units {
            let mut buffer = [0; 3];
            let bytes = unit_bytes(*unit, &mut buffer);
            self.out.extend_from_slice(bytes);
            if let Some(java) = &mut self.java {
                java.unit(bytes.len());
            }
        }
    }

    /// Java's `byte[]`.
    pub fn binary(&mut self, bytes: &[u8]) {
        let mut left = bytes;
        loop {
            let cut = match &mut self.java {
                Some(java) => java.chunk(left.len()),
                None if self.is_sofa => (left.len() > SOFA_BINARY_CHUNK).then_some(SOFA_BINARY_CHUNK),
                None => (left.len() > LITE_BINARY_CHUNK).then_some(LITE_BINARY_CHUNK),
            };
            let Some(cut) = cut else { break };
            let (now, then) = left.split_at(cut);
            self.out.put_u8(if self.is_sofa { b'b' } else { b'A' });
            self.out.put_u16(now.len() as u16);
            self.out.extend_from_slice(now);
            left = then;
        }
        let [b1, b0] = (left.len() as u16).to_be_bytes();
        let before = self.out.len();
        match left.len() {
            0..=0xf => self.out.put_u8(0x20 + b0),
            ..=0x3ff if !self.is_sofa => self.out.extend_from_slice(&[0x34 + b1, b0]),
            _ => self.out.extend_from_slice(&[b'B', b1, b0]),
        }
        let head = self.out.len() - before;
        self.out.extend_from_slice(left);
        if let Some(java) = &mut self.java {
            java.last_chunk(head, left.len());
        }
    }

    /// The list, map or object that got this number, again.
    pub fn reference(&mut self, reference: RefId) {
        let RefId(index) = reference;
        let [_, _, b1, b0] = index.to_be_bytes();
        if self.is_sofa {
            match index {
                0..=0xff => self.out.extend_from_slice(&[0x4a, b0]),
                0x100..=0xffff => self.out.extend_from_slice(&[0x4b, b1, b0]),
                _ => {
                    self.out.put_u8(b'R');
                    self.out.put_u32(index);
                }
            }
            return;
        }
        self.out.put_u8(0x51);
        if let Some(java) = &mut self.java {
            java.flag(1);
        }
        self.int(index as i32);
    }

    /// The number that the next list, map or object will have.
    pub fn next_reference(&self) -> RefId {
        RefId(self.references)
    }

    /// Begins a list; `len` values and [`end_list`](Writer::end_list) follow. Without `len` any number of values may.
    ///
    /// # Errors
    /// [`HessianError::TooLong`] for more items than an `int` counts, or a type name longer than the dialect can say.
    pub fn begin_list(&mut self, type_name: Option<&str>, len: Option<usize>) -> Result<ListEnd, HessianError> {
        let len = match len {
            None => None,
            Some(len) => Some(i32::try_from(len).map_err(|_| HessianError::TooLong {
                what: "list",
                length: len,
                max: i32::MAX as usize,
                unit: "items",
            })?),
        };
        self.references += 1;
        if self.is_sofa {
            return self.begin_sofa_list(type_name.filter(|name| !name.is_empty()), len);
        }
        match (type_name, len) {
            (Some(name), None) => {
                self.head(&[0x55]);
                self.type_name(name)?;
            }
            (None, None) => self.head(&[0x57]),
            (Some(name), Some(len @ 0..=7)) => {
                self.head(&[0x70 + len as u8]);
                self.type_name(name)?;
            }
            (None, Some(len @ 0..=7)) => self.head(&[0x78 + len as u8]),
            (Some(name), Some(len)) => {
                self.head(b"V");
                self.type_name(name)?;
                self.int(len);
            }
            (None, Some(len)) => {
                self.head(&[0x58]);
                self.int(len);
            }
        }
        Ok(ListEnd(len.is_none()))
    }

    fn begin_sofa_list(&mut self, type_name: Option<&str>, len: Option<i32>) -> Result<ListEnd, HessianError> {
        if let (Some(name), Some(len)) = (type_name, len)
            && let Some(index) = self.sofa_type(name)
        {
            self.head(b"v");
            self.int(index as i32);
            self.int(len);
            return Ok(ListEnd(false));
        }
        self.head(b"V");
        if let Some(name) = type_name {
            self.type_name(name)?;
        }
        match len {
            None => {}
            Some(len @ 0..=0xff) => self.head(&[0x6e, len as u8]),
            Some(len) => {
                self.out.put_u8(b'l');
                self.out.put_i32(len);
            }
        }
        Ok(ListEnd(true))
    }

    /// Closes a list.
    pub fn end_list(&mut self, end: ListEnd) {
        if end.0 {
            self.end();
        }
    }

    /// Begins a map; keys, each followed by its value, and [`end_map`](Writer::end_map) follow.
    ///
    /// # Errors
    /// [`HessianError::TooLong`] for a type name longer than the dialect can say.
    pub fn begin_map(&mut self, type_name: Option<&str>) -> Result<(), HessianError> {
        self.references += 1;
        match type_name {
            Some(name) if !(self.is_sofa && name.is_empty()) => {
                self.head(b"M");
                self.type_name(name)
            }
            _ => {
                self.head(if self.is_sofa { b"M" } else { b"H" });
                Ok(())
            }
        }
    }

    /// Closes a map.
    pub fn end_map(&mut self) {
        self.end();
    }

    /// Begins an object of a class that is known at compile time; a value for each field follows, in the order of
    /// `fields`. The class is defined on the way when this message did not do so before.
    pub fn begin_object(&mut self, class: &'static str, fields: &'static [&'static str]) {
        let key = [class.as_ptr().addr(), class.len(), fields.as_ptr().addr(), fields.len()];
        let known = self.class_keys.iter().find(|(known, _)| *known == key);
        let index = match known {
            Some((_, index)) => *index,
            None => {
                let index = self.define_class(class, fields.iter().copied());
                self.class_keys.push((key, index));
                index
            }
        };
        self.begin_instance(index);
    }

    /// Begins an object of a derived type.
    #[doc(hidden)]
    pub fn begin_shape(&mut self, shape: &'static Shape) {
        let class = shape.classes[usize::from(self.is_lite && shape.classes.len() > 1)];
        self.begin_object(class, shape.names);
    }

    /// Writes a constant of a Java enum: an object with a name the first time, a reference to it afterwards.
    pub fn constant(&mut self, class: &'static str, name: &'static str) {
        let key = [class.as_ptr().addr(), class.len(), name.as_ptr().addr(), name.len()];
        if let Some((_, reference)) = self.constants.iter().find(|(known, _)| *known == key) {
            return self.reference(*reference);
        }
        // The definition that may come before the object takes no number.
        self.constants.push((key, self.next_reference()));
        self.begin_object(class, &["name"]);
        self.string(name);
    }

    /// Defines a class when this message did not do so before; tells its index.
    pub(crate) fn define_class<'s>(
        &mut self,
        class: &str,
        fields: impl ExactSizeIterator<Item = &'s str> + Clone,
    ) -> u32 {
        let before = (self.out.len(), self.java.clone());
        self.head(if self.is_sofa { b"O" } else { b"C" });
        let start = self.out.len();
        if self.is_sofa {
            self.int(unit_count(class) as i32);
            self.name(class);
        } else {
            self.string(class);
        }
        self.int(fields.len() as i32);
        fields.for_each(|field| self.string(field));
        let definition = start..self.out.len();
        let (index, is_known) = self.classes.find_or_add(self.out, definition);
        if is_known {
            self.out.truncate(before.0);
            self.java = before.1;
        }
        index
    }

    /// Begins an object of a class that was defined.
    pub(crate) fn begin_instance(&mut self, index: u32) {
        self.references += 1;
        match index {
            0..=0xf if !self.is_sofa => self.head(&[0x60 + index as u8]),
            _ => {
                self.head(if self.is_sofa { b"o" } else { b"O" });
                self.int(index as i32);
            }
        }
    }

    fn type_name(&mut self, name: &str) -> Result<(), HessianError> {
        if let Some(java) = &mut self.java {
            java.room_for_head();
        }
        if !self.is_sofa {
            let before = (self.out.len(), self.java.clone());
            self.string(name);
            let written = before.0..self.out.len();
            let (index, is_known) = self.types.find_or_add(self.out, written);
            if is_known {
                self.out.truncate(before.0);
                self.java = before.1;
                self.int(index as i32);
            }
            return Ok(());
        }
        if let Some(index) = self.sofa_type(name) {
            self.out.put_u8(0x75);
            self.int(index as i32);
            return Ok(());
        }
        let length = unit_count(name);
        let units = u16::try_from(length).map_err(|_| HessianError::TooLong {
            what: "type name",
            length,
            max: usize::from(u16::MAX),
            unit: "UTF-16 units",
        })?;
        self.out.put_u8(b't');
        self.out.put_u16(units);
        let start = self.out.len();
        self.name(name);
        self.types.find_or_add(self.out, start..self.out.len());
        Ok(())
    }

    /// The index of a type that SOFA's form was told before. Names are known by their bytes on the wire, which beyond the
    /// basic plane are not those of UTF-8.
    fn sofa_type(&self, name: &str) -> Option<u32> {
        if is_written_as_is(name) {
            return self.types.find(self.out, name.as_bytes());
        }
        let mut written = Vec::with_capacity(2 * name.len());
        for unit in name.encode_utf16() {
            written.extend_from_slice(unit_bytes(unit, &mut [0; 3]));
        }
        self.types.find(self.out, &written)
    }

    /// The characters of a name whose length was written.
    fn name(&mut self, name: &str) {
        if is_written_as_is(name) {
            self.plain(name);
        } else {
            let units: Vec<u16> = name.encode_utf16().collect();
            self.units(&units);
        }
    }

    fn end(&mut self) {
        self.head(if self.is_sofa { b"z" } else { b"Z" });
    }

    /// A scalar in the highest `width` bytes of `word`. Eight bytes are written and the rest taken back, which costs less
    /// than a copy whose length is not known ahead.
    #[inline]
    fn packed(&mut self, word: u64, width: usize) {
        let end = self.out.len() + width;
        self.out.put_u64(word);
        self.out.truncate(end);
        if let Some(java) = &mut self.java {
            java.scalar(width);
        }
    }

    #[inline]
    fn scalar(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        if let Some(java) = &mut self.java {
            java.scalar(bytes.len());
        }
    }

    #[inline]
    fn head(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        if let Some(java) = &mut self.java {
            java.head(bytes.len());
        }
    }
}

/// The bytes of an int, the first of them highest, and how many there are.
#[inline]
fn packed_int(value: i32) -> (u64, usize) {
    let bits = u64::from(value as u32);
    match value {
        -0x10..=0x2f => ((bits + 0x90) << 56, 1),
        -0x800..=0x7ff => ((bits + 0xc800) << 48, 2),
        -0x4_0000..=0x3_ffff => ((bits + 0xd4_0000) << 40, 3),
        _ => ((u64::from(b'I') << 32 | bits) << 24, 5),
    }
}

/// Names or definitions that were written, by their bytes: they are looked up where they stand in the output.
#[derive(Default)]
struct Names {
    written: Vec<Range<usize>>,
    /// What does not fit into the first [`SCANNED`].
    more: BTreeMap<Box<[u8]>, u32>,
}

impl Names {
    fn find(&self, out: &[u8], name: &[u8]) -> Option<u32> {
        let scanned = self.written.iter().take(SCANNED);
        let found = scanned.clone().position(|range| out[range.clone()] == *name);
        match found {
            Some(index) => Some(index as u32),
            None if self.more.is_empty() => None,
            None => self.more.get(name).copied(),
        }
    }

    /// The index of what was just written at `range`, and whether it was known before.
    fn find_or_add(&mut self, out: &[u8], range: Range<usize>) -> (u32, bool) {
        let name = &out[range.clone()];
        if let Some(index) = self.find(out, name) {
            return (index, true);
        }
        let index = self.written.len() as u32;
        if self.written.len() >= SCANNED {
            self.more.insert(name.into(), index);
        }
        self.written.push(range);
        (index, false)
    }
}
