//! Values that hold no others.

use std::{borrow::Cow, rc::Rc, sync::Arc};

use super::{HessianDecode, HessianEncode, mismatch};
use crate::{HessianError, Reader, Text, Token, Writer};

impl HessianEncode for bool {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        writer.bool(*self);
        Ok(())
    }
}

impl<'a> HessianDecode<'a> for bool {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<bool, HessianError> {
        match token {
            Token::Bool(value) => Ok(value),
            other => Err(mismatch("a boolean", &other, reader)),
        }
    }

    #[inline]
    fn decode_next(reader: &mut Reader<'a, '_>) -> Result<bool, HessianError> {
        match reader.quick_bool() {
            Some(value) => Ok(value),
            None => slowly(reader),
        }
    }
}

/// The way that every value can go.
#[cold]
fn slowly<'a, T: HessianDecode<'a>>(reader: &mut Reader<'a, '_>) -> Result<T, HessianError> {
    match reader.token()? {
        Token::Ref(reference) => reader.replay(reference, slowly),
        token => T::from_token(token, reader),
    }
}

/// Java widens and narrows between its number types when it sets a field; here a value has to fit.
macro_rules! whole_numbers {
    ($($rust:ty: $write:ident as $wide:ty, $name:literal $(, all at once by $write_all:ident)?;)*) => {$(
        impl HessianEncode for $rust {
            #[inline]
            fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
                writer.$write(<$wide>::from(*self));
                Ok(())
            }

            $(
                fn encode_items(items: &[$rust], writer: &mut Writer<'_>) -> Result<(), HessianError> {
                    writer.$write_all(items);
                    Ok(())
                }
            )?
        }

        impl<'a> HessianDecode<'a> for $rust {
            fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<$rust, HessianError> {
                let out_of_range = HessianError::OutOfRange { at: reader.token_at, target: $name };
                match token {
                    Token::Int(value) => <$rust>::try_from(value).map_err(|_| out_of_range),
                    Token::Long(value) => <$rust>::try_from(value).map_err(|_| out_of_range),
                    Token::Object(head) => boxed_number(head, reader, $name),
                    other => Err(mismatch($name, &other, reader)),
                }
            }

            #[inline]
            fn decode_next(reader: &mut Reader<'a, '_>) -> Result<$rust, HessianError> {
                let quick = match reader.quick_int() {
                    Some(value) => <$rust>::try_from(value).ok(),
                    None => match reader.quick_long() {
                        Some(value) => <$rust>::try_from(value).ok(),
                        None => return slowly(reader),
                    },
                };
                quick.ok_or(HessianError::OutOfRange { at: reader.token_at, target: $name })
            }
        }
    )*};
}

whole_numbers! {
    i8: int as i32, "a byte";
    i16: int as i32, "a short";
    i32: int as i32, "an int", all at once by ints;
    i64: long as i64, "a long";
}

impl HessianEncode for f64 {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        writer.double(*self);
        Ok(())
    }
}

impl<'a> HessianDecode<'a> for f64 {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<f64, HessianError> {
        match token {
            Token::Double(value) => Ok(value),
            Token::Int(value) => Ok(f64::from(value)),
            Token::Long(value) => Ok(value as f64),
            Token::Object(head) => boxed_number(head, reader, "a double"),
            other => Err(mismatch("a double", &other, reader)),
        }
    }

    #[inline]
    fn decode_next(reader: &mut Reader<'a, '_>) -> Result<f64, HessianError> {
        match reader.quick_double() {
            Some(value) => Ok(value),
            None => slowly(reader),
        }
    }
}

impl HessianEncode for f32 {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        writer.double(f64::from(*self));
        Ok(())
    }
}

impl<'a> HessianDecode<'a> for f32 {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<f32, HessianError> {
        f64::from_token(token, reader).map(|value| value as f32)
    }

    #[inline]
    fn decode_next(reader: &mut Reader<'a, '_>) -> Result<f32, HessianError> {
        f64::decode_next(reader).map(|value| value as f32)
    }
}

/// Caucho writes `Byte`, `Short` and `Float` as objects with one number.
fn boxed_number<'a, T: HessianDecode<'a>>(
    head: crate::ObjectHead,
    reader: &mut Reader<'a, '_>,
    expected: &'static str,
) -> Result<T, HessianError> {
    let name = reader.class_name(head.class);
    let is_handle = matches!(
        name.as_ref(),
        "com.caucho.hessian.io.ByteHandle" | "com.caucho.hessian.io.ShortHandle" | "com.caucho.hessian.io.FloatHandle"
    );
    if !is_handle || reader.field_count(head.class) != 1 {
        return Err(mismatch(expected, &Token::Object(head), reader));
    }
    let value = T::decode_next(reader)?;
    reader.end_object(&head);
    Ok(value)
}

impl HessianEncode for str {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        writer.string(self);
        Ok(())
    }
}

impl HessianEncode for String {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        writer.string(self);
        Ok(())
    }
}

impl HessianEncode for Cow<'_, str> {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        writer.string(self);
        Ok(())
    }
}

impl<'a> HessianDecode<'a> for Cow<'a, str> {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<Cow<'a, str>, HessianError> {
        match token {
            Token::String(Text::Str(text)) => Ok(text),
            Token::String(Text::Utf16(_)) => Err(HessianError::LoneSurrogate { at: reader.token_at }),
            other => Err(mismatch("a string", &other, reader)),
        }
    }

    #[inline]
    fn decode_next(reader: &mut Reader<'a, '_>) -> Result<Cow<'a, str>, HessianError> {
        match reader.quick_str() {
            Some(text) => Ok(Cow::Borrowed(text)),
            None => slowly(reader),
        }
    }
}

impl<'a> HessianDecode<'a> for String {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<String, HessianError> {
        <Cow<'a, str>>::from_token(token, reader).map(Cow::into_owned)
    }

    #[inline]
    fn decode_next(reader: &mut Reader<'a, '_>) -> Result<String, HessianError> {
        match reader.quick_str() {
            Some(text) => Ok(text.to_owned()),
            None => slowly(reader),
        }
    }
}

impl HessianEncode for Text<'_> {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        match self {
            Text::Str(text) => writer.string(text),
            Text::Utf16(units) => writer.utf16(units),
        }
        Ok(())
    }
}

impl<'a> HessianDecode<'a> for Text<'a> {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<Text<'a>, HessianError> {
        match token {
            Token::String(text) => Ok(text),
            other => Err(mismatch("a string", &other, reader)),
        }
    }
}

impl HessianEncode for char {
    /// Java's `char` is one UTF-16 unit; a character beyond the basic plane becomes a string of two.
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        writer.string(self.encode_utf8(&mut [0; 4]));
        Ok(())
    }
}

impl<'a> HessianDecode<'a> for char {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<char, HessianError> {
        let text = <Cow<'a, str>>::from_token(token, reader)?;
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(char), None) => Ok(char),
            _ => Err(HessianError::OutOfRange {
                at: reader.token_at,
                target: "a char",
            }),
        }
    }
}

impl HessianEncode for [u8] {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        writer.binary(self);
        Ok(())
    }
}

impl HessianEncode for Vec<u8> {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        writer.binary(self);
        Ok(())
    }
}

impl HessianEncode for Cow<'_, [u8]> {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        writer.binary(self);
        Ok(())
    }
}

impl<'a> HessianDecode<'a> for Cow<'a, [u8]> {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<Cow<'a, [u8]>, HessianError> {
        match token {
            Token::Binary(bytes) => Ok(bytes),
            other => Err(mismatch("a binary", &other, reader)),
        }
    }
}

impl<'a> HessianDecode<'a> for Vec<u8> {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<Vec<u8>, HessianError> {
        <Cow<'a, [u8]>>::from_token(token, reader).map(Cow::into_owned)
    }
}

/// `None` is null, and what a field is that the object does not have.
impl<T: HessianEncode> HessianEncode for Option<T> {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        match self {
            Some(value) => value.encode(writer),
            None => {
                writer.null();
                Ok(())
            }
        }
    }
}

impl<'a, T: HessianDecode<'a>> HessianDecode<'a> for Option<T> {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<Option<T>, HessianError> {
        match token {
            Token::Null => Ok(None),
            token => T::from_token(token, reader).map(Some),
        }
    }

    #[inline]
    fn decode_next(reader: &mut Reader<'a, '_>) -> Result<Option<T>, HessianError> {
        if reader.quick_null() {
            return Ok(None);
        }
        if reader.is_before_definition() {
            return slowly(reader);
        }
        T::decode_next(reader).map(Some)
    }

    fn absent() -> Option<Option<T>> {
        Some(None)
    }
}

impl<T: HessianEncode + ?Sized> HessianEncode for &T {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        (**self).encode(writer)
    }
}

/// What is shared in Rust is written once for each place; what is shared in Java is read as one copy for each place.
macro_rules! pointers {
    ($($pointer:ident),*) => {$(
        impl<T: HessianEncode + ?Sized> HessianEncode for $pointer<T> {
            fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
                (**self).encode(writer)
            }
        }

        impl<'a, T: HessianDecode<'a>> HessianDecode<'a> for $pointer<T> {
            fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<$pointer<T>, HessianError> {
                T::from_token(token, reader).map($pointer::new)
            }

            fn absent() -> Option<$pointer<T>> {
                T::absent().map($pointer::new)
            }
        }
    )*};
}

pointers!(Box, Rc, Arc);
