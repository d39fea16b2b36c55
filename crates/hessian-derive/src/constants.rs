//! Enums without fields: constants of a Java enum.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DataEnum, DeriveInput, Result};

use crate::{
    Direction,
    attributes::{OnType, OnVariant, java_name},
};

pub fn derive(input: &DeriveInput, data: &DataEnum, direction: Direction) -> Result<TokenStream> {
    let on = OnType::of(&input.attrs)?;
    let class = on.class(input)?;
    let name = &input.ident;
    let mut constants = Vec::new();
    for variant in &data.variants {
        let on_variant = OnVariant::of(&variant.attrs)?;
        let own = variant.ident.to_string();
        let rename = on_variant.rename.as_ref();
        constants.push(java_name(&own, rename, on.rename_all.as_ref(), "SCREAMING_SNAKE_CASE")?);
    }
    let idents = data.variants.iter().map(|variant| &variant.ident);
    Ok(match direction {
        Direction::Encode => quote! {
            impl ::settle_hessian::HessianEncode for #name {
                fn encode(
                    &self,
                    writer: &mut ::settle_hessian::Writer<'_>,
                ) -> ::core::result::Result<(), ::settle_hessian::HessianError> {
                    let name = match self {
                        #(#name::#idents => #constants,)*
                    };
                    writer.constant(#class, name);
                    Ok(())
                }
            }
        },
        Direction::Decode => quote! {
            impl<'hessian> ::settle_hessian::HessianDecode<'hessian> for #name {
                fn from_token(
                    token: ::settle_hessian::Token<'hessian>,
                    reader: &mut ::settle_hessian::Reader<'hessian, '_>,
                ) -> ::core::result::Result<Self, ::settle_hessian::HessianError> {
                    let name = ::settle_hessian::derive::read_constant(token, reader, #class)?;
                    match name.as_ref() {
                        #(#constants => Ok(#name::#idents),)*
                        _ => Err(::settle_hessian::HessianError::UnknownConstant {
                            class: #class,
                            name: name.as_ref().into(),
                        }),
                    }
                }
            }
        },
    })
}
