//! The hash maps and sets of whoever uses the codec. Nothing here makes one of its own.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hash},
};

use super::{
    EncodeTyped, HessianDecode, HessianEncode,
    lists::{read_list, write_list, write_map},
};
use crate::{HessianError, Reader, Token, Writer};

impl<K: HessianEncode, V: HessianEncode, S> EncodeTyped for HashMap<K, V, S> {
    fn encode_typed(&self, java_type: Option<&str>, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        write_map(self.iter(), java_type, writer)
    }
}

/// In the order in which the map gives its entries.
impl<K: HessianEncode, V: HessianEncode, S> HessianEncode for HashMap<K, V, S> {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        write_map(self.iter(), None, writer)
    }
}

/// What comes in chooses the keys: take a hasher that bears this, as the standard one does.
impl<'a, K, V, S> HessianDecode<'a> for HashMap<K, V, S>
where
    K: HessianDecode<'a> + Eq + Hash,
    V: HessianDecode<'a>,
    S: BuildHasher + Default,
{
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<HashMap<K, V, S>, HessianError> {
        // Java tells no length: gathered first, the map gets its size at once and hashes each key once.
        <Vec<(K, V)>>::from_token(token, reader).map(HashMap::from_iter)
    }
}

impl<T: HessianEncode, S> EncodeTyped for HashSet<T, S> {
    fn encode_typed(&self, java_type: Option<&str>, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        write_list(self.len(), self.iter().map(std::slice::from_ref), java_type, writer)
    }
}

/// In the order in which the set gives its items; a list to Java without `java_type = "java.util.HashSet"`.
impl<T: HessianEncode, S> HessianEncode for HashSet<T, S> {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        self.encode_typed(None, writer)
    }
}

/// As for maps.
impl<'a, T, S> HessianDecode<'a> for HashSet<T, S>
where
    T: HessianDecode<'a> + Eq + Hash,
    S: BuildHasher + Default,
{
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<HashSet<T, S>, HessianError> {
        let push = |set: &mut HashSet<T, S>, item| {
            set.insert(item);
        };
        read_list(token, reader, |_| HashSet::default(), push)
    }
}
