//! What a reader tells: values, the heads of what holds others, and the names of what was met.

use std::borrow::Cow;

use crate::Text;

/// One value, or the head of a list, map or object whose contents are the tokens that follow.
#[derive(Clone, PartialEq, Debug)]
pub enum Token<'a> {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    /// Milliseconds since 1970 in UTC, as `java.util.Date` holds them.
    Date(i64),
    String(Text<'a>),
    Binary(Cow<'a, [u8]>),
    /// Ask [`Reader::next_item`](crate::Reader::next_item) before each item.
    List(ListHead),
    /// Ask [`Reader::next_entry`](crate::Reader::next_entry) before each key; a value follows each key.
    Map(MapHead),
    /// As many values follow as the class has fields, then call [`Reader::end_object`](crate::Reader::end_object).
    Object(ObjectHead),
    /// The list, map or object of this number again.
    Ref(RefId),
}

/// The number of a list, map or object in its message: they are counted as they begin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RefId(pub(crate) u32);

impl RefId {
    /// Counted from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A class definition of the message, in order of appearance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ClassId(pub(crate) u32);

impl ClassId {
    /// Counted from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A type name of the message, in order of appearance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TypeId(pub(crate) u32);

/// The beginning of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListHead {
    pub reference: RefId,
    pub type_name: Option<TypeId>,
    /// The announced number of items, if there was one. It is not more than the bytes that are left, unless the message
    /// is read while it arrives.
    pub len: Option<usize>,
    pub(crate) left: usize,
    /// SOFA's `V` closes with an end even when the length is known.
    pub(crate) has_end: bool,
}

/// The beginning of a map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapHead {
    pub reference: RefId,
    pub type_name: Option<TypeId>,
}

/// The beginning of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectHead {
    pub reference: RefId,
    pub class: ClassId,
}

impl Token<'_> {
    /// What kind of value this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Token::Null => "null",
            Token::Bool(_) => "a boolean",
            Token::Int(_) => "an int",
            Token::Long(_) => "a long",
            Token::Double(_) => "a double",
            Token::Date(_) => "a date",
            Token::String(_) => "a string",
            Token::Binary(_) => "a binary",
            Token::List(_) => "a list",
            Token::Map(_) => "a map",
            Token::Object(_) => "an object",
            Token::Ref(_) => "a reference",
        }
    }
}
