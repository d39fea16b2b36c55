//! `#[derive(HessianEncode, HessianDecode)]`; used through `settle_hessian`, whose page on derived types says how.

mod attributes;
mod constants;
mod structs;
mod unions;

use proc_macro::TokenStream;
use syn::{Data, DeriveInput, Fields, parse_macro_input};

/// Which of the two traits is derived.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Encode,
    Decode,
}

/// Writes a struct as an object of a Java class, an enum as a constant of a Java enum or as one of several classes.
///
/// - A struct with named fields is an object. Its fields are written in Java's order: those of primitives and of
///   classes of `java.lang` first, those of the parent behind the type's own.
/// - A struct with one field without a name stands for that field.
/// - An enum without fields is a Java enum, which Java's constants are: written once, referred to afterwards.
/// - An enum whose variants hold one value each is a value of one of several classes.
///
/// On a type: `class = "com.example.Order"`; `lite_class = "…"` where Dubbo's library calls the class otherwise;
/// `rename_all` with `camelCase` (what fields have without it), `SCREAMING_SNAKE_CASE` (what constants have),
/// `PascalCase`, `snake_case` or `none`.
///
/// On a field: `rename = "type"`; `parent` on the one that holds the fields of the class that this one extends, itself a
/// derived struct; `java_type = "[int"` for the name of a list, array or map that is not an `ArrayList` or `HashMap`;
/// `java_lang` where the Java type is of `java.lang` and Rust's does not tell; `skip` for what Java does not have;
/// `default`, see `HessianDecode`.
///
/// On a variant: `rename = "DARK_RED"`; `other` on the one that takes objects of no other variant's class.
///
/// A derived type may have one lifetime, that of the input, for what it borrows. A parameter that is a type is one that
/// can be written or read itself, and a field of it is what Java makes of `T data`: an `Object`, whose class the bytes
/// tell. The parent cannot have the type's parameters.
#[proc_macro_derive(HessianEncode, attributes(hessian))]
pub fn encode(input: TokenStream) -> TokenStream {
    derive(parse_macro_input!(input), Direction::Encode)
}

/// Reads what `HessianEncode` writes, and what Java writes for the same class. The attributes are the same.
///
/// Fields are found by their names, in any order; those that the type does not have are skipped. A field that is
/// missing is an error unless it is an `Option` or has `default`, which also takes null for the default. An object of
/// another class is an error; a map with the fields' names as keys is taken for an object.
#[proc_macro_derive(HessianDecode, attributes(hessian))]
pub fn decode(input: TokenStream) -> TokenStream {
    derive(parse_macro_input!(input), Direction::Decode)
}

fn derive(input: DeriveInput, direction: Direction) -> TokenStream {
    let made = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => structs::derive(&input, fields, direction),
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
                structs::newtype(&input, &fields.unnamed[0], direction)
            }
            Fields::Unit => structs::derive(&input, &syn::parse_quote!({}), direction),
            Fields::Unnamed(_) => Err(syn::Error::new_spanned(
                &input.ident,
                "fields of a Java class have names: give the struct named fields, or one field to stand for",
            )),
        },
        Data::Enum(data) if data.variants.iter().all(|variant| variant.fields.is_empty()) => {
            constants::derive(&input, data, direction)
        }
        Data::Enum(data) => unions::derive(&input, data, direction),
        Data::Union(_) => Err(syn::Error::new_spanned(
            &input.ident,
            "a union has no counterpart in Java",
        )),
    };
    made.unwrap_or_else(syn::Error::into_compile_error).into()
}
