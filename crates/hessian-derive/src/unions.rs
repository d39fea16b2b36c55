//! Enums whose variants hold one value each: a value of one of several Java classes.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DataEnum, DeriveInput, Error, Fields, Ident, Result, Type};

use crate::{
    Direction,
    attributes::{Generics, OnVariant},
};

pub fn derive(input: &DeriveInput, data: &DataEnum, direction: Direction) -> Result<TokenStream> {
    let generics = Generics::of(input)?;
    let (mut classes, mut other): (Vec<(&Ident, &Type)>, _) = (Vec::new(), None);
    for variant in &data.variants {
        let of = match &variant.fields {
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => &fields.unnamed[0].ty,
            _ => {
                let one = "either no variant has fields (constants), or each holds one value (one of several classes)";
                return Err(Error::new_spanned(variant, one));
            }
        };
        if !OnVariant::of(&variant.attrs)?.other {
            classes.push((&variant.ident, of));
        } else if other.replace((&variant.ident, of)).is_some() {
            return Err(Error::new_spanned(
                variant,
                "one variant takes what is of no other's class",
            ));
        }
    }
    let (name, on_type, lifetime) = (&input.ident, generics.on_type(), &generics.input);
    let ((encode, conditions), (decode, ..)) = (generics.to_encode(), generics.to_decode());
    if direction == Direction::Encode {
        let idents = data.variants.iter().map(|variant| &variant.ident);
        return Ok(quote! {
            impl #encode ::settle_hessian::HessianEncode for #name #on_type #conditions {
                fn encode(
                    &self,
                    writer: &mut ::settle_hessian::Writer<'_>,
                ) -> ::core::result::Result<(), ::settle_hessian::HessianError> {
                    match self {
                        #(#name::#idents(value) => ::settle_hessian::HessianEncode::encode(value, writer),)*
                    }
                }
            }
        });
    }
    let arms = classes.iter().map(|(ident, of)| {
        quote! {
            if <#of as ::settle_hessian::derive::DecodeFields<#lifetime>>::SHAPE.classes.contains(&class.as_ref()) {
                return <#of as ::settle_hessian::HessianDecode<#lifetime>>::from_token(token, reader).map(#name::#ident);
            }
        }
    });
    let text = name.to_string();
    let otherwise = match other {
        Some((ident, of)) => {
            quote!(<#of as ::settle_hessian::HessianDecode<#lifetime>>::from_token(token, reader).map(#name::#ident))
        }
        None => quote!(Err(::settle_hessian::derive::no_variant(#text, &token, reader))),
    };
    Ok(quote! {
        impl #decode ::settle_hessian::HessianDecode<#lifetime> for #name #on_type #conditions {
            fn from_token(
                token: ::settle_hessian::Token<#lifetime>,
                reader: &mut ::settle_hessian::Reader<#lifetime, '_>,
            ) -> ::core::result::Result<Self, ::settle_hessian::HessianError> {
                if let ::settle_hessian::Token::Object(head) = &token {
                    let class = reader.class_name(head.class);
                    #(#arms)*
                }
                #otherwise
            }
        }
    })
}
