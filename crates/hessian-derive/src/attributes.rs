//! `#[hessian(…)]` on types, fields and variants.

use proc_macro2::{TokenStream, TokenTree};
use quote::quote;
use syn::{
    Attribute, DeriveInput, Error, Ident, ImplGenerics, Lifetime, LitStr, Result, Type, TypeGenerics, WhereClause,
};

/// On a struct or enum.
#[derive(Default)]
pub struct OnType {
    /// `class = "com.example.Order"`
    pub class: Option<LitStr>,
    /// `lite_class = "…"`: what `hessian-lite` calls the class.
    pub lite_class: Option<LitStr>,
    /// `rename_all = "…"`
    pub rename_all: Option<LitStr>,
}

/// On a field.
#[derive(Default)]
pub struct OnField {
    /// `rename = "…"`: the name in Java.
    pub rename: Option<LitStr>,
    /// `default`: the type's default where Java has null or no such field.
    pub default: bool,
    /// `skip`: not in Java.
    pub skip: bool,
    /// `parent`: the fields of the class that this one extends.
    pub parent: bool,
    /// `java_type = "[int"`: the name of the list or map.
    pub java_type: Option<LitStr>,
    /// `java_lang`: the field's Java type is a class of `java.lang`.
    pub java_lang: bool,
}

/// On a variant.
#[derive(Default)]
pub struct OnVariant {
    /// `rename = "…"`: the constant's name in Java.
    pub rename: Option<LitStr>,
    /// `other`: takes what is of no other variant's class.
    pub other: bool,
}

fn each(
    attributes: &[Attribute],
    mut take: impl FnMut(&str, &syn::meta::ParseNestedMeta<'_>) -> Result<bool>,
) -> Result<()> {
    for attribute in attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("hessian"))
    {
        attribute.parse_nested_meta(|meta| {
            let name = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
            match take(&name, &meta)? {
                true => Ok(()),
                false => Err(meta.error("this is not known here")),
            }
        })?;
    }
    Ok(())
}

fn text(meta: &syn::meta::ParseNestedMeta<'_>) -> Result<Option<LitStr>> {
    meta.value()?.parse().map(Some)
}

impl OnType {
    pub fn of(attributes: &[Attribute]) -> Result<OnType> {
        let mut found = OnType::default();
        each(attributes, |name, meta| {
            match name {
                "class" => found.class = text(meta)?,
                "lite_class" => found.lite_class = text(meta)?,
                "rename_all" => found.rename_all = text(meta)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(found)
    }

    pub fn class(&self, input: &DeriveInput) -> Result<&LitStr> {
        let missing = "name the Java class: #[hessian(class = \"com.example.Order\")]";
        self.class
            .as_ref()
            .ok_or_else(|| Error::new_spanned(&input.ident, missing))
    }
}

impl OnField {
    pub fn of(attributes: &[Attribute]) -> Result<OnField> {
        let mut found = OnField::default();
        each(attributes, |name, meta| {
            match name {
                "rename" => found.rename = text(meta)?,
                "default" => found.default = true,
                "skip" => found.skip = true,
                "parent" => found.parent = true,
                "java_type" => found.java_type = text(meta)?,
                "java_lang" => found.java_lang = true,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(found)
    }
}

impl OnVariant {
    pub fn of(attributes: &[Attribute]) -> Result<OnVariant> {
        let mut found = OnVariant::default();
        each(attributes, |name, meta| {
            match name {
                "rename" => found.rename = text(meta)?,
                "other" => found.other = true,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(found)
    }
}

/// The Java name of a field or constant: `rename`, or its own by `rename_all`.
pub fn java_name(name: &str, rename: Option<&LitStr>, rename_all: Option<&LitStr>, otherwise: &str) -> Result<String> {
    if let Some(rename) = rename {
        return Ok(rename.value());
    }
    let name = name.strip_prefix("r#").unwrap_or(name);
    let words = words(name);
    let style = rename_all.map_or(otherwise.to_owned(), LitStr::value);
    Ok(match style.as_str() {
        "camelCase" => {
            let mut words = words.iter();
            let first = words.next().cloned().unwrap_or_default();
            words.fold(first, |all, word| all + &capitalised(word))
        }
        "PascalCase" => words.iter().map(|word| capitalised(word)).collect(),
        "snake_case" => words.join("_"),
        "SCREAMING_SNAKE_CASE" => words.join("_").to_uppercase(),
        "none" => name.to_owned(),
        _ => {
            let known = "rename_all is camelCase, PascalCase, snake_case, SCREAMING_SNAKE_CASE or none";
            return Err(Error::new_spanned(rename_all, known));
        }
    })
}

/// The words of `target_app_name` or `TargetAppName`, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = vec![String::new()];
    for char in name.chars() {
        let is_new = char == '_' || char.is_uppercase();
        if is_new && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if char != '_' {
            let word = words.last_mut().expect("there is always a word");
            word.extend(char.to_lowercase());
        }
    }
    words
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Whether Java writes a field of this type among the first: a primitive, or a class of `java.lang`.
pub fn is_java_lang(of: &Type) -> bool {
    let Type::Path(path) = of else {
        return matches!(of, Type::Reference(reference) if matches!(&*reference.elem, Type::Path(path) if path.path.is_ident("str")));
    };
    let Some(last) = path.path.segments.last() else {
        return false;
    };
    let inner = match &last.arguments {
        syn::PathArguments::AngleBracketed(arguments) => arguments.args.iter().find_map(|argument| match argument {
            syn::GenericArgument::Type(inner) => Some(inner),
            _ => None,
        }),
        _ => None,
    };
    match (last.ident.to_string().as_str(), inner) {
        ("bool" | "i8" | "i16" | "i32" | "i64" | "f32" | "f64" | "char" | "String" | "str" | "Text", _) => true,
        ("Option" | "Box" | "Rc" | "Arc" | "Cow", Some(inner)) => is_java_lang(inner),
        _ => false,
    }
}

/// The generics of a derived type: types, constants, and one lifetime at most, that of the input.
pub struct Generics {
    /// The lifetime of the input.
    pub input: Lifetime,
    /// As declared.
    own: syn::Generics,
    /// Each type can be written.
    encode: syn::Generics,
    /// The lifetime of the input before the others; each type can be read from it.
    decode: syn::Generics,
}

impl Generics {
    pub fn of(input: &DeriveInput) -> Result<Generics> {
        let own = input.generics.clone();
        if let Some(second) = own.lifetimes().nth(1) {
            let one = "a derived type has one lifetime at most, that of the input";
            return Err(Error::new_spanned(second, one));
        }
        let (mut encode, mut decode) = (own.clone(), own.clone());
        let declared = own.lifetimes().next().map(|param| param.lifetime.clone());
        let input = declared.clone().unwrap_or_else(|| syn::parse_quote!('hessian));
        if declared.is_none() {
            decode.params.insert(0, syn::parse_quote!(#input));
        }
        for param in encode.type_params_mut() {
            param.bounds.push(syn::parse_quote!(::settle_hessian::HessianEncode));
        }
        for param in decode.type_params_mut() {
            param
                .bounds
                .push(syn::parse_quote!(::settle_hessian::HessianDecode<#input>));
        }
        Ok(Generics {
            input,
            own,
            encode,
            decode,
        })
    }

    /// Behind the type's name.
    pub fn on_type(&self) -> TypeGenerics<'_> {
        self.own.split_for_impl().1
    }

    /// Behind `impl`, and the type's conditions.
    pub fn to_encode(&self) -> (ImplGenerics<'_>, Option<&WhereClause>) {
        let (on_impl, _, conditions) = self.encode.split_for_impl();
        (on_impl, conditions)
    }

    /// Behind `impl`, behind the name of a type that has the lifetime too, and the type's conditions.
    pub fn to_decode(&self) -> (ImplGenerics<'_>, TypeGenerics<'_>, Option<&WhereClause>) {
        self.decode.split_for_impl()
    }

    /// Whether `of` names one of the parameters that are types or constants.
    pub fn are_named_by(&self, of: &Type) -> bool {
        fn names(tokens: TokenStream, wanted: &dyn Fn(&Ident) -> bool) -> bool {
            tokens.into_iter().any(|tree| match tree {
                TokenTree::Ident(ident) => wanted(&ident),
                TokenTree::Group(group) => names(group.stream(), wanted),
                _ => false,
            })
        }
        names(quote!(#of), &|ident| {
            self.own.type_params().any(|param| param.ident == *ident)
                || self.own.const_params().any(|param| param.ident == *ident)
        })
    }

    /// The parameters that are types, as a type of their own.
    pub fn types(&self) -> TokenStream {
        let idents = self.own.type_params().map(|param| &param.ident);
        quote!((#(#idents,)*))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_java_names() {
        let name = |name, style: &str| java_name(name, None, None, style).expect("the style is known");
        assert_eq!(name("target_app_name", "camelCase"), "targetAppName");
        assert_eq!(name("r#type", "camelCase"), "type");
        assert_eq!(name("a_b", "PascalCase"), "AB");
        assert_eq!(name("DarkRed", "SCREAMING_SNAKE_CASE"), "DARK_RED");
        assert_eq!(name("DarkRed", "none"), "DarkRed");
        assert_eq!(name("Oneway2", "SCREAMING_SNAKE_CASE"), "ONEWAY2");
    }

    #[test]
    fn what_java_writes_first_is_told_by_the_type() {
        let first = |of: &str| is_java_lang(&syn::parse_str(of).expect("a type"));
        for of in [
            "i32",
            "bool",
            "String",
            "Option<i64>",
            "Option<Box<str>>",
            "&'a str",
            "std::borrow::Cow<'a, str>",
        ] {
            assert!(first(of), "{of}");
        }
        for of in [
            "Vec<i32>",
            "Option<Order>",
            "BTreeMap<String, i32>",
            "Cow<'a, [u8]>",
            "[u8; 4]",
        ] {
            assert!(!first(of), "{of}");
        }
    }
}
