//! Lists, arrays, sets and maps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{HessianDecode, HessianEncode, mismatch};
use crate::{HessianError, Reader, Token, Writer};

/// A list or map that can be written under a name of Java: `[int`, `[string`, `[com.example.Order` for arrays,
/// `java.util.TreeMap` and the like for collections.
pub trait EncodeTyped {
    /// Writes the value under `java_type`; without one as `java.util.ArrayList` or `java.util.HashMap`.
    fn encode_typed(&self, java_type: Option<&str>, writer: &mut Writer<'_>) -> Result<(), HessianError>;
}

/// Writes a list whose items lie in memory in these parts, one behind the other.
pub(super) fn write_list<'t, T: HessianEncode + 't>(
    len: usize,
    parts: impl IntoIterator<Item = &'t [T]>,
    java_type: Option<&str>,
    writer: &mut Writer<'_>,
) -> Result<(), HessianError> {
    let end = writer.begin_list(java_type, Some(len))?;
    for items in parts {
        T::encode_items(items, writer)?;
    }
    writer.end_list(end);
    Ok(())
}

pub(super) fn write_map<'t, K: HessianEncode + 't, V: HessianEncode + 't>(
    entries: impl Iterator<Item = (&'t K, &'t V)>,
    java_type: Option<&str>,
    writer: &mut Writer<'_>,
) -> Result<(), HessianError> {
    writer.begin_map(java_type)?;
    for (key, value) in entries {
        key.encode(writer)?;
        value.encode(writer)?;
    }
    writer.end_map();
    Ok(())
}

/// Reads a list item by item; `capacity` is told how many there may be room for.
pub(super) fn read_list<'a, T: HessianDecode<'a>, L>(
    token: Token<'a>,
    reader: &mut Reader<'a, '_>,
    with_capacity: impl FnOnce(usize) -> L,
    mut push: impl FnMut(&mut L, T),
) -> Result<L, HessianError> {
    let mut head = match token {
        Token::List(head) => head,
        other => return Err(mismatch("a list", &other, reader)),
    };
    let mut list = with_capacity(reader.reserve(head.len, size_of::<T>()));
    while reader.next_item(&mut head)? {
        push(&mut list, T::decode_next(reader)?);
    }
    Ok(list)
}

fn read_map<'a, K: HessianDecode<'a>, V: HessianDecode<'a>>(
    token: Token<'a>,
    reader: &mut Reader<'a, '_>,
    mut push: impl FnMut(K, V),
) -> Result<(), HessianError> {
    let head = match token {
        Token::Map(head) => head,
        other => return Err(mismatch("a map", &other, reader)),
    };
    while reader.next_entry(&head)? {
        let key = K::decode_next(reader)?;
        push(key, V::decode_next(reader)?);
    }
    Ok(())
}

macro_rules! lists {
    ($($list:ident where $($bound:path)?, $with_capacity:expr, $push:ident, $parts:expr;)*) => {$(
        impl<T: HessianEncode> EncodeTyped for $list<T> {
            fn encode_typed(&self, java_type: Option<&str>, writer: &mut Writer<'_>) -> Result<(), HessianError> {
                write_list(self.len(), $parts(self), java_type, writer)
            }
        }

        impl<T: HessianEncode> HessianEncode for $list<T> {
            fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
                self.encode_typed(None, writer)
            }
        }

        impl<'a, T: HessianDecode<'a> $(+ $bound)?> HessianDecode<'a> for $list<T> {
            fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<$list<T>, HessianError> {
                read_list(token, reader, $with_capacity, |list: &mut $list<T>, item| {
                    list.$push(item);
                })
            }
        }
    )*};
}

lists! {
    Vec where, Vec::with_capacity, push, |list| [Vec::as_slice(list)];
    VecDeque where, VecDeque::with_capacity, push_back, |list| <[&[T]; 2]>::from(VecDeque::as_slices(list));
    BTreeSet where Ord, |_| BTreeSet::new(), insert, |set| BTreeSet::iter(set).map(std::slice::from_ref);
}

impl<K: HessianEncode, V: HessianEncode> EncodeTyped for BTreeMap<K, V> {
    fn encode_typed(&self, java_type: Option<&str>, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        write_map(self.iter(), java_type, writer)
    }
}

impl<K: HessianEncode, V: HessianEncode> HessianEncode for BTreeMap<K, V> {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        write_map(self.iter(), None, writer)
    }
}

impl<'a, K: HessianDecode<'a> + Ord, V: HessianDecode<'a>> HessianDecode<'a> for BTreeMap<K, V> {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<BTreeMap<K, V>, HessianError> {
        let (mut few, mut many) = (BTreeMap::new(), Vec::new());
        read_map(token, reader, |key, value| {
            if !many.is_empty() {
                many.push((key, value));
                return;
            }
            few.insert(key, value);
            if few.len() > LEAF_ENTRIES {
                many = std::mem::take(&mut few).into_iter().collect();
            }
        })?;
        // More than a leaf takes are sorted once and built from the leaves, not searched for each key.
        Ok(if many.is_empty() {
            few
        } else {
            BTreeMap::from_iter(many)
        })
    }
}

/// What a `BTreeMap` keeps in one node.
const LEAF_ENTRIES: usize = 11;

/// A map whose entries keep their order.
impl<K: HessianEncode, V: HessianEncode> EncodeTyped for Vec<(K, V)> {
    fn encode_typed(&self, java_type: Option<&str>, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        write_map(self.iter().map(|(key, value)| (key, value)), java_type, writer)
    }
}

impl<K: HessianEncode, V: HessianEncode> HessianEncode for Vec<(K, V)> {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        self.encode_typed(None, writer)
    }
}

impl<'a, K: HessianDecode<'a>, V: HessianDecode<'a>> HessianDecode<'a> for Vec<(K, V)> {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<Vec<(K, V)>, HessianError> {
        let mut map = Vec::new();
        read_map(token, reader, |key, value| map.push((key, value)))?;
        Ok(map)
    }
}

impl<T: EncodeTyped> EncodeTyped for Option<T> {
    fn encode_typed(&self, java_type: Option<&str>, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        match self {
            Some(value) => value.encode_typed(java_type, writer),
            None => {
                writer.null();
                Ok(())
            }
        }
    }
}
