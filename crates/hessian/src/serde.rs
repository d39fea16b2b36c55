//! serde, for types that are plain: no Java class, no type names, nothing shared.
//!
//! | serde | written as | read from |
//! |---|---|---|
//! | struct, map | an untyped map | a map; an object, field by field |
//! | sequence, tuple | an untyped list | a list or array of any type |
//! | `i8` to `i32`, `u8`, `u16` | an int | an int or long that fits |
//! | `i64`, `u32`, `u64` | a long | an int, long or date (its milliseconds) that fits |
//! | floats | a double | a double, int or long |
//! | strings, `char` | a string | a string that is text |
//! | bytes (`serde_bytes`) | a binary | a binary |
//! | `None`, `()` | null | null |
//! | a variant without content | its name | its name; a constant of a Java enum |
//! | any other variant | a map with one entry, its name to its content | the same |
//!
//! For objects of Java classes derive [`HessianEncode`](crate::HessianEncode) instead. What Java shares is copied, and
//! what holds itself is refused, as for derived types.

use std::borrow::Cow;

use ::serde::{
    Deserialize, Serialize,
    de::{self, DeserializeSeed, IntoDeserializer as _, Visitor, value::CowStrDeserializer},
    forward_to_deserialize_any, ser,
};
use bytes::BytesMut;

use crate::{
    DecodeOptions, Dialect, HessianError, ListEnd, ListHead, MapHead, ObjectHead, Reader, Text, Token, Writer,
};

/// The bytes of `value` as a message of its own.
pub fn to_bytes<T: Serialize + ?Sized>(dialect: Dialect, value: &T) -> Result<BytesMut, HessianError> {
    let mut out = BytesMut::new();
    write(value, &mut Writer::new(dialect, &mut out))?;
    Ok(out)
}

/// Writes `value` as one value of a message.
pub fn write<T: Serialize + ?Sized>(value: &T, writer: &mut Writer<'_>) -> Result<(), HessianError> {
    value.serialize(Serializer { writer })
}

/// The value that `bytes` hold, and nothing else.
pub fn from_bytes<'a, T: Deserialize<'a>>(bytes: &'a [u8], options: &DecodeOptions) -> Result<T, HessianError> {
    let mut reader = Reader::new(bytes, options)?;
    let value = read(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// Reads the next value of a message.
pub fn read<'a, T: Deserialize<'a>>(reader: &mut Reader<'a, '_>) -> Result<T, HessianError> {
    T::deserialize(Next { reader })
}

impl ser::Error for HessianError {
    fn custom<T: std::fmt::Display>(message: T) -> HessianError {
        HessianError::Refused {
            message: message.to_string().into(),
        }
    }
}

impl de::Error for HessianError {
    fn custom<T: std::fmt::Display>(message: T) -> HessianError {
        HessianError::Refused {
            message: message.to_string().into(),
        }
    }
}

struct Serializer<'w, 'b> {
    writer: &'w mut Writer<'b>,
}

/// A list or map that is being written, and the map with one entry around it, if there is one.
struct Compound<'w, 'b> {
    writer: &'w mut Writer<'b>,
    end: Option<ListEnd>,
    is_in_variant: bool,
}

impl<'w, 'b> Serializer<'w, 'b> {
    fn list(self, len: Option<usize>, is_in_variant: bool) -> Result<Compound<'w, 'b>, HessianError> {
        let end = Some(self.writer.begin_list(None, len)?);
        Ok(Compound {
            writer: self.writer,
            end,
            is_in_variant,
        })
    }

    fn map(self, is_in_variant: bool) -> Result<Compound<'w, 'b>, HessianError> {
        self.writer.begin_map(None)?;
        Ok(Compound {
            writer: self.writer,
            end: None,
            is_in_variant,
        })
    }

    fn variant(&mut self, name: &str) -> Result<(), HessianError> {
        self.writer.begin_map(None)?;
        self.writer.string(name);
        Ok(())
    }
}

impl Compound<'_, '_> {
    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), HessianError> {
        value.serialize(Serializer { writer: self.writer })
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), HessianError> {
        self.writer.string(name);
        self.value(value)
    }

    fn close(self) -> Result<(), HessianError> {
        match self.end {
            Some(end) => self.writer.end_list(end),
            None => self.writer.end_map(),
        }
        if self.is_in_variant {
            self.writer.end_map();
        }
        Ok(())
    }
}

macro_rules! scalars {
    ($($name:ident($of:ty) => $write:ident as $wide:ty;)*) => {$(
        fn $name(self, value: $of) -> Result<(), HessianError> {
            self.writer.$write(<$wide>::from(value));
            Ok(())
        }
    )*};
}

impl<'w, 'b> ser::Serializer for Serializer<'w, 'b> {
    type Ok = ();
    type Error = HessianError;
    type SerializeSeq = Compound<'w, 'b>;
    type SerializeTuple = Compound<'w, 'b>;
    type SerializeTupleStruct = Compound<'w, 'b>;
    type SerializeTupleVariant = Compound<'w, 'b>;
    type SerializeMap = Compound<'w, 'b>;
    type SerializeStruct = Compound<'w, 'b>;
    type SerializeStructVariant = Compound<'w, 'b>;

    scalars! {
        serialize_bool(bool) => bool as bool;
        serialize_i8(i8) => int as i32;
        serialize_i16(i16) => int as i32;
        serialize_i32(i32) => int as i32;
        serialize_i64(i64) => long as i64;
        serialize_u8(u8) => int as i32;
        serialize_u16(u16) => int as i32;
        serialize_u32(u32) => long as i64;
        serialize_f32(f32) => double as f64;
        serialize_f64(f64) => double as f64;
    }

    fn serialize_u64(self, value: u64) -> Result<(), HessianError> {
        let value = i64::try_from(value).map_err(|_| ser::Error::custom("Java's long has no room for the number"))?;
        self.writer.long(value);
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), HessianError> {
        self.writer.string(value.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), HessianError> {
        self.writer.string(value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), HessianError> {
        self.writer.binary(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), HessianError> {
        self.writer.null();
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), HessianError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), HessianError> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), HessianError> {
        self.serialize_none()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), HessianError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), HessianError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), HessianError> {
        self.variant(variant)?;
        value.serialize(Serializer { writer: self.writer })?;
        self.writer.end_map();
        Ok(())
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Compound<'w, 'b>, HessianError> {
        self.list(len, false)
    }

    fn serialize_tuple(self, len: usize) -> Result<Compound<'w, 'b>, HessianError> {
        self.list(Some(len), false)
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Compound<'w, 'b>, HessianError> {
        self.list(Some(len), false)
    }

    fn serialize_tuple_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Compound<'w, 'b>, HessianError> {
        self.variant(variant)?;
        self.list(Some(len), true)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Compound<'w, 'b>, HessianError> {
        self.map(false)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Compound<'w, 'b>, HessianError> {
        self.map(false)
    }

    fn serialize_struct_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Compound<'w, 'b>, HessianError> {
        self.variant(variant)?;
        self.map(true)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! sequences {
    ($($of:ident: $method:ident;)*) => {$(
        impl ser::$of for Compound<'_, '_> {
            type Ok = ();
            type Error = HessianError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), HessianError> {
                self.value(value)
            }

            fn end(self) -> Result<(), HessianError> {
                self.close()
            }
        }
    )*};
}

sequences! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
}

impl ser::SerializeMap for Compound<'_, '_> {
    type Ok = ();
    type Error = HessianError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), HessianError> {
        self.value(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), HessianError> {
        self.value(value)
    }

    fn end(self) -> Result<(), HessianError> {
        self.close()
    }
}

macro_rules! structs {
    ($($of:ident),*) => {$(
        impl ser::$of for Compound<'_, '_> {
            type Ok = ();
            type Error = HessianError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), HessianError> {
                self.field(name, value)
            }

            fn end(self) -> Result<(), HessianError> {
                self.close()
            }
        }
    )*};
}

structs!(SerializeStruct, SerializeStructVariant);

/// The next value of a reader.
struct Next<'r, 'a, 'o> {
    reader: &'r mut Reader<'a, 'o>,
}

/// A value whose first token was read.
struct Begun<'r, 'a, 'o> {
    token: Token<'a>,
    reader: &'r mut Reader<'a, 'o>,
}

impl<'r, 'a, 'o> Next<'r, 'a, 'o> {
    /// Hands the value on, or the one that it refers to.
    fn with<T>(self, make: impl FnOnce(Begun<'_, 'a, 'o>) -> Result<T, HessianError>) -> Result<T, HessianError> {
        match self.reader.token()? {
            Token::Ref(reference) => self.reader.replay(reference, |reader| {
                let token = reader.token()?;
                make(Begun { token, reader })
            }),
            token => make(Begun {
                token,
                reader: self.reader,
            }),
        }
    }
}

macro_rules! on_begun {
    ($($name:ident($($argument:ident: $of:ty),*);)*) => {$(
        fn $name<V: Visitor<'a>>(self, $($argument: $of,)* visitor: V) -> Result<V::Value, HessianError> {
            self.with(|begun| begun.$name($($argument,)* visitor))
        }
    )*};
}

impl<'a> de::Deserializer<'a> for Next<'_, 'a, '_> {
    type Error = HessianError;

    on_begun! {
        deserialize_any();
        deserialize_option();
        deserialize_newtype_struct(name: &'static str);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, HessianError> {
        self.reader.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl<'a> de::Deserializer<'a> for Begun<'_, 'a, '_> {
    type Error = HessianError;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, HessianError> {
        let Begun { token, reader } = self;
        match token {
            Token::Null => visitor.visit_unit(),
            Token::Bool(value) => visitor.visit_bool(value),
            Token::Int(value) => visitor.visit_i32(value),
            Token::Long(value) | Token::Date(value) => visitor.visit_i64(value),
            Token::Double(value) => visitor.visit_f64(value),
            Token::String(Text::Str(Cow::Borrowed(text))) => visitor.visit_borrowed_str(text),
            Token::String(Text::Str(Cow::Owned(text))) => visitor.visit_string(text),
            Token::String(Text::Utf16(_)) => Err(HessianError::LoneSurrogate { at: reader.token_at }),
            Token::Binary(Cow::Borrowed(bytes)) => visitor.visit_borrowed_bytes(bytes),
            Token::Binary(Cow::Owned(bytes)) => visitor.visit_byte_buf(bytes),
            Token::List(head) => {
                // The type of the items is not known yet: that of their room is a guess.
                let hint = reader.reserve(head.len, 64);
                let mut items = Items {
                    reader,
                    head,
                    hint,
                    is_done: false,
                };
                let value = visitor.visit_seq(&mut items)?;
                items.finish()?;
                Ok(value)
            }
            Token::Map(head) => {
                let mut entries = Entries {
                    reader,
                    head,
                    is_done: false,
                };
                let value = visitor.visit_map(&mut entries)?;
                entries.finish()?;
                Ok(value)
            }
            Token::Object(head) => {
                let mut fields = Fields::new(reader, head);
                let value = visitor.visit_map(&mut fields)?;
                fields.finish()?;
                Ok(value)
            }
            Token::Ref(_) => unreachable!("what a reference leads to is read before"),
        }
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, HessianError> {
        match self.token {
            Token::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(self, _: &'static str, visitor: V) -> Result<V::Value, HessianError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, HessianError> {
        let Begun { token, reader } = self;
        match token {
            Token::String(Text::Str(name)) => visitor.visit_enum(CowStrDeserializer::new(name)),
            Token::Object(head) => {
                // A constant of a Java enum.
                let mut constant = None;
                let mut fields = Fields::new(reader, head);
                while let Some(name) = fields.next_name() {
                    if name == "name" {
                        constant = Some(read::<Cow<'_, str>>(fields.reader)?.into_owned());
                    } else {
                        fields.reader.skip()?;
                    }
                }
                fields.finish()?;
                let name = constant.ok_or_else(|| de::Error::custom("an object that is no constant of an enum"))?;
                visitor.visit_enum(name.into_deserializer())
            }
            Token::Map(head) => {
                if !reader.next_entry(&head)? {
                    return Err(de::Error::custom("a map without the name of a variant"));
                }
                let value = visitor.visit_enum(Variant { reader: &mut *reader })?;
                if reader.next_entry(&head)? {
                    return Err(de::Error::custom("a map with more than one variant"));
                }
                Ok(value)
            }
            other => Err(crate::typed::mismatch("a variant of an enum", &other, reader)),
        }
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

struct Items<'r, 'a, 'o> {
    reader: &'r mut Reader<'a, 'o>,
    head: ListHead,
    hint: usize,
    is_done: bool,
}

impl<'a> de::SeqAccess<'a> for Items<'_, 'a, '_> {
    type Error = HessianError;

    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<Option<T::Value>, HessianError> {
        if self.is_done || !self.reader.next_item(&mut self.head)? {
            self.is_done = true;
            return Ok(None);
        }
        seed.deserialize(Next { reader: self.reader }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint)
    }
}

impl Items<'_, '_, '_> {
    /// Skips what the visitor did not ask for.
    fn finish(mut self) -> Result<(), HessianError> {
        while !self.is_done && self.reader.next_item(&mut self.head)? {
            self.reader.skip()?;
        }
        Ok(())
    }
}

struct Entries<'r, 'a, 'o> {
    reader: &'r mut Reader<'a, 'o>,
    head: MapHead,
    is_done: bool,
}

impl<'a> de::MapAccess<'a> for Entries<'_, 'a, '_> {
    type Error = HessianError;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, HessianError> {
        if self.is_done || !self.reader.next_entry(&self.head)? {
            self.is_done = true;
            return Ok(None);
        }
        seed.deserialize(Next { reader: self.reader }).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<T::Value, HessianError> {
        seed.deserialize(Next { reader: self.reader })
    }
}

impl Entries<'_, '_, '_> {
    fn finish(self) -> Result<(), HessianError> {
        while !self.is_done && self.reader.next_entry(&self.head)? {
            self.reader.skip()?;
            self.reader.skip()?;
        }
        Ok(())
    }
}

struct Fields<'r, 'a, 'o> {
    reader: &'r mut Reader<'a, 'o>,
    head: ObjectHead,
    left: usize,
    /// Where the name of the next field stands.
    name_at: usize,
}

impl<'r, 'a, 'o> Fields<'r, 'a, 'o> {
    fn new(reader: &'r mut Reader<'a, 'o>, head: ObjectHead) -> Fields<'r, 'a, 'o> {
        let class = head.class;
        Fields {
            left: reader.field_count(class),
            name_at: reader.first_field_name(class),
            reader,
            head,
        }
    }

    fn next_name(&mut self) -> Option<Cow<'a, str>> {
        self.left = self.left.checked_sub(1)?;
        let (name, next) = self.reader.field_name(self.name_at);
        self.name_at = next;
        Some(name)
    }

    fn finish(mut self) -> Result<(), HessianError> {
        while self.next_name().is_some() {
            self.reader.skip()?;
        }
        self.reader.end_object(&self.head);
        Ok(())
    }
}

impl<'a> de::MapAccess<'a> for Fields<'_, 'a, '_> {
    type Error = HessianError;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, HessianError> {
        match self.next_name() {
            None => Ok(None),
            Some(Cow::Borrowed(name)) => seed
                .deserialize(de::value::BorrowedStrDeserializer::new(name))
                .map(Some),
            Some(Cow::Owned(name)) => seed.deserialize(name.into_deserializer()).map(Some),
        }
    }

    fn next_value_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<T::Value, HessianError> {
        seed.deserialize(Next { reader: self.reader })
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// A key that names a variant and the value that is its content.
struct Variant<'r, 'a, 'o> {
    reader: &'r mut Reader<'a, 'o>,
}

impl<'a> de::EnumAccess<'a> for Variant<'_, 'a, '_> {
    type Error = HessianError;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'a>>(self, seed: T) -> Result<(T::Value, Self), HessianError> {
        let name = seed.deserialize(Next {
            reader: &mut *self.reader,
        })?;
        Ok((name, self))
    }
}

impl<'a> de::VariantAccess<'a> for Variant<'_, 'a, '_> {
    type Error = HessianError;

    fn unit_variant(self) -> Result<(), HessianError> {
        read(self.reader)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'a>>(self, seed: T) -> Result<T::Value, HessianError> {
        seed.deserialize(Next { reader: self.reader })
    }

    fn tuple_variant<V: Visitor<'a>>(self, _: usize, visitor: V) -> Result<V::Value, HessianError> {
        de::Deserializer::deserialize_any(Next { reader: self.reader }, visitor)
    }

    fn struct_variant<V: Visitor<'a>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, HessianError> {
        de::Deserializer::deserialize_any(Next { reader: self.reader }, visitor)
    }
}
