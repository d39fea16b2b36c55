//! Types of Rust from and into values of Java.

mod hashed;
mod lists;
mod object;
mod scalars;

use bytes::BytesMut;

pub use lists::EncodeTyped;

/// For derived code only; it may change at any time.
#[doc(hidden)]
pub mod derive {
    pub use super::lists::EncodeTyped;
    pub use super::object::{
        DecodeFields, EncodeFields, Field, FieldBuilder, Shape, defined, defined_len, joined, names_in_java_order,
        no_variant, places_in_java_order, read_constant, read_next, read_object,
    };
}

pub(crate) use object::{SHORT_NAME, Shape};

use crate::{DecodeOptions, Dialect, HessianError, Reader, Token, Writer};

/// A type that can be written. `#[derive(HessianEncode)]` does it for structs and enums.
pub trait HessianEncode {
    /// Writes one value.
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError>;

    /// Writes one value after the other: the items of a list, for types that know a shorter way.
    #[doc(hidden)]
    fn encode_items(items: &[Self], writer: &mut Writer<'_>) -> Result<(), HessianError>
    where
        Self: Sized,
    {
        items.iter().try_for_each(|item| item.encode(writer))
    }
}

/// A type that can be read. `#[derive(HessianDecode)]` does it for structs and enums.
///
/// Java writes what it meets a second time as a reference. A type of Rust owns what it holds, so it gets a copy; a value
/// of Java that holds itself is refused ([`HessianError::Cycle`]), a [`Document`](crate::Document) can hold it.
pub trait HessianDecode<'a>: Sized {
    /// Makes the value that begins with `token`, which was just read and is no reference.
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<Self, HessianError>;

    /// Reads the next value, or reads again what it refers to.
    fn decode_next(reader: &mut Reader<'a, '_>) -> Result<Self, HessianError> {
        match reader.token()? {
            Token::Ref(reference) => reader.replay(reference, Self::decode_next),
            token => Self::from_token(token, reader),
        }
    }

    /// What a field of this type is when the object has no such field; `None` is an error.
    fn absent() -> Option<Self> {
        None
    }
}

/// The bytes of `value` as a message of its own.
pub fn to_bytes<T: HessianEncode + ?Sized>(dialect: Dialect, value: &T) -> Result<BytesMut, HessianError> {
    let mut out = BytesMut::new();
    value.encode(&mut Writer::new(dialect, &mut out))?;
    Ok(out)
}

/// The value that `bytes` hold, and nothing else.
pub fn from_bytes<'a, T: HessianDecode<'a>>(bytes: &'a [u8], options: &DecodeOptions) -> Result<T, HessianError> {
    let mut reader = Reader::new(bytes, options)?;
    let value = T::decode_next(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// The error for a value of another kind than `expected`.
#[cold]
pub(crate) fn mismatch(expected: &'static str, found: &Token<'_>, reader: &Reader<'_, '_>) -> HessianError {
    HessianError::Mismatch {
        at: reader.token_at,
        expected,
        found: found.kind(),
    }
}
