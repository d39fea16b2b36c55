//! Structs: objects of a Java class.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{DeriveInput, Error, FieldsNamed, Ident, Result, Type};

use crate::{
    Direction,
    attributes::{Generics, OnField, OnType, is_java_lang, java_name},
};

/// A field that Java has too.
struct Own<'i> {
    ident: &'i Ident,
    of: &'i Type,
    name: String,
    is_first: bool,
    on: OnField,
}

struct Struct<'i> {
    own: Vec<Own<'i>>,
    parent: Option<(&'i Ident, &'i Type)>,
    skipped: Vec<&'i Ident>,
}

impl<'i> Struct<'i> {
    fn of(fields: &'i FieldsNamed, on: &OnType) -> Result<Struct<'i>> {
        let (mut own, mut parent, mut skipped) = (Vec::new(), None, Vec::new());
        for field in &fields.named {
            let ident = field.ident.as_ref().expect("the fields are named");
            let on_field = OnField::of(&field.attrs)?;
            if on_field.skip {
                skipped.push(ident);
            } else if on_field.parent {
                if parent.replace((ident, &field.ty)).is_some() {
                    return Err(Error::new_spanned(ident, "a Java class extends one class"));
                }
            } else {
                own.push(Own {
                    ident,
                    of: &field.ty,
                    name: java_name(
                        &ident.to_string(),
                        on_field.rename.as_ref(),
                        on.rename_all.as_ref(),
                        "camelCase",
                    )?,
                    is_first: on_field.java_lang || is_java_lang(&field.ty),
                    on: on_field,
                });
            }
        }
        Ok(Struct { own, parent, skipped })
    }

    /// Constants and statics that both directions need.
    fn shape(&self, parent_fields: Option<TokenStream>, classes: &[&syn::LitStr]) -> TokenStream {
        let count = self.own.len();
        let entries = self.own.iter().map(|own| {
            let (name, is_first) = (&own.name, own.is_first);
            quote!((#name, #is_first))
        });
        let parent = parent_fields.unwrap_or_else(|| quote!(&[]));
        quote! {
            const PARENT: &[hessian::derive::Field] = #parent;
            const COUNT: usize = #count + PARENT.len();
            const ALL: [hessian::derive::Field; COUNT] = hessian::derive::joined(&[#(#entries),*], PARENT);
            const NAMES_IN_ORDER: [&str; COUNT] = hessian::derive::names_in_java_order(&ALL);
            static NAMES: [&str; COUNT] = NAMES_IN_ORDER;
            static PLACES: [u16; COUNT] = hessian::derive::places_in_java_order(&ALL);
            const DEFINED: usize = hessian::derive::defined_len(&ALL);
            static DEFINITION: [u8; DEFINED] = hessian::derive::defined(&NAMES_IN_ORDER);
            static SHAPE: hessian::derive::Shape = hessian::derive::Shape {
                classes: &[#(#classes),*],
                names: &NAMES,
                places: &PLACES,
                definition: &DEFINITION,
            };
        }
    }
}

pub fn derive(input: &DeriveInput, fields: &FieldsNamed, direction: Direction) -> Result<TokenStream> {
    let on = OnType::of(&input.attrs)?;
    let classes: Vec<_> = [on.class(input)?].into_iter().chain(&on.lite_class).collect();
    let parts = Struct::of(fields, &on)?;
    if let Some((_, of)) = parts.parent
        && Generics::of(input)?.are_named_by(of)
    {
        let fixed = "the fields of a class are known before its parameters are: the parent cannot have them";
        return Err(Error::new_spanned(of, fixed));
    }
    let made = match direction {
        Direction::Encode => encode(input, &parts, &classes)?,
        Direction::Decode => decode(input, &parts, &classes)?,
    };
    Ok(quote! {
        const _: () = {
            use ::settle_hessian as hessian;
            #made
        };
    })
}

fn encode(input: &DeriveInput, parts: &Struct<'_>, classes: &[&syn::LitStr]) -> Result<TokenStream> {
    let generics = Generics::of(input)?;
    let (name, on_type, (on_impl, conditions)) = (&input.ident, generics.on_type(), generics.to_encode());
    let parent_fields = parts
        .parent
        .map(|(_, of)| quote!(<#of as hessian::derive::EncodeFields>::FIELDS));
    let shape = parts.shape(parent_fields, classes);
    let write = |is_first: bool| -> TokenStream {
        let chosen = parts.own.iter().filter(|own| own.is_first == is_first);
        chosen
            .map(|own| {
                let ident = own.ident;
                match &own.on.java_type {
                    Some(java_type) => {
                        quote!(hessian::derive::EncodeTyped::encode_typed(&self.#ident, Some(#java_type), writer)?;)
                    }
                    None => quote!(hessian::HessianEncode::encode(&self.#ident, writer)?;),
                }
            })
            .collect()
    };
    let (first, then) = (write(true), write(false));
    let parent = parts
        .parent
        .map(|(ident, _)| quote!(hessian::derive::EncodeFields::encode_fields(&self.#ident, is_first, writer)?;));
    Ok(quote! {
        #shape

        impl #on_impl hessian::derive::EncodeFields for #name #on_type #conditions {
            const FIELDS: &'static [hessian::derive::Field] = &ALL;

            fn encode_fields(
                &self,
                is_first: bool,
                writer: &mut hessian::Writer<'_>,
            ) -> ::core::result::Result<(), hessian::HessianError> {
                if is_first {
                    #first
                } else {
                    #then
                }
                #parent
                Ok(())
            }
        }

        impl #on_impl hessian::HessianEncode for #name #on_type #conditions {
            fn encode(&self, writer: &mut hessian::Writer<'_>) -> ::core::result::Result<(), hessian::HessianError> {
                writer.begin_shape(&SHAPE);
                hessian::derive::EncodeFields::encode_fields(self, true, writer)?;
                hessian::derive::EncodeFields::encode_fields(self, false, writer)
            }
        }
    })
}

fn decode(input: &DeriveInput, parts: &Struct<'_>, classes: &[&syn::LitStr]) -> Result<TokenStream> {
    let generics = Generics::of(input)?;
    let (name, on_type, lifetime) = (&input.ident, generics.on_type(), &generics.input);
    let ((on_impl, on_builder, conditions), params) = (generics.to_decode(), generics.types());
    let parent_fields = parts
        .parent
        .map(|(_, of)| quote!(<#of as hessian::derive::DecodeFields<'static>>::FIELDS));
    let shape = parts.shape(parent_fields, classes);
    let (vis, class) = (&input.vis, classes[0]);
    let count = parts.own.len();
    let slots: Vec<Ident> = (0..count).map(|at| format_ident!("field{at}")).collect();
    let types: Vec<&Type> = parts.own.iter().map(|own| own.of).collect();
    let read = parts.own.iter().zip(&slots).enumerate().map(|(at, (own, slot))| {
        let of = own.of;
        if own.on.default {
            quote!(#at => self.#slot = <Option<#of> as hessian::HessianDecode>::decode_next(reader)?,)
        } else {
            quote!(#at => self.#slot = Some(<#of as hessian::HessianDecode>::decode_next(reader)?),)
        }
    });
    let finish = parts.own.iter().zip(&slots).map(|(own, slot)| {
        let (ident, of, field) = (own.ident, own.of, &own.name);
        if own.on.default {
            return quote!(#ident: self.#slot.unwrap_or_default(),);
        }
        quote! {
            #ident: match self.#slot.or_else(<#of as hessian::HessianDecode>::absent) {
                Some(value) => value,
                None => return Err(hessian::HessianError::MissingField { class: #class, field: #field }),
            },
        }
    });
    let skipped = parts
        .skipped
        .iter()
        .map(|ident| quote!(#ident: ::core::default::Default::default(),));
    // Without a parent the order is known here, and nothing is missing or twice.
    let in_java_order = parts.parent.is_none().then(|| {
        let places = (0..count).filter(|at| parts.own[*at].is_first);
        let places = places.chain((0..count).filter(|at| !parts.own[*at].is_first));
        let read = places.map(|at| {
            let (of, slot) = (parts.own[at].of, &slots[at]);
            match parts.own[at].on.default {
                true => quote! {
                    let #slot = <Option<#of> as hessian::HessianDecode>::decode_next(reader)?.unwrap_or_default();
                },
                false => quote!(let #slot = <#of as hessian::HessianDecode>::decode_next(reader)?;),
            }
        });
        let own = parts.own.iter().map(|own| own.ident);
        let skipped = skipped.clone();
        quote! {
            fn in_java_order(
                reader: &mut hessian::Reader<#lifetime, '_>,
            ) -> ::core::result::Result<Self, hessian::HessianError> {
                #(#read)*
                Ok(#name {
                    #(#own: #slots,)*
                    #(#skipped)*
                })
            }
        }
    });
    let (parent_type, parent_read, parent_finish) = match parts.parent {
        None => (quote!(()), quote!(Ok(())), TokenStream::new()),
        Some((ident, of)) => (
            quote!(<#of as hessian::derive::DecodeFields<#lifetime>>::Builder),
            quote!(hessian::derive::FieldBuilder::read(&mut self.parent, beyond - #count, reader)),
            quote!(#ident: hessian::derive::FieldBuilder::finish(self.parent)?,),
        ),
    };
    Ok(quote! {
        #shape

        #[doc(hidden)]
        #vis struct Builder #on_impl #conditions {
            #(#slots: Option<#types>,)*
            parent: #parent_type,
            params: ::core::marker::PhantomData<(&#lifetime (), #params)>,
        }

        impl #on_impl ::core::default::Default for Builder #on_builder #conditions {
            fn default() -> Self {
                Builder {
                    #(#slots: None,)*
                    parent: ::core::default::Default::default(),
                    params: ::core::marker::PhantomData,
                }
            }
        }

        impl #on_impl hessian::derive::FieldBuilder<#lifetime> for Builder #on_builder #conditions {
            type Out = #name #on_type;

            fn read(
                &mut self,
                place: usize,
                reader: &mut hessian::Reader<#lifetime, '_>,
            ) -> ::core::result::Result<(), hessian::HessianError> {
                match place {
                    #(#read)*
                    beyond => {
                        let _ = beyond;
                        return #parent_read;
                    }
                }
                #[allow(unreachable_code, reason = "without fields the match always returns")]
                Ok(())
            }

            fn finish(self) -> ::core::result::Result<#name #on_type, hessian::HessianError> {
                Ok(#name {
                    #(#finish)*
                    #(#skipped)*
                    #parent_finish
                })
            }
        }

        impl #on_impl hessian::derive::DecodeFields<#lifetime> for #name #on_type #conditions {
            type Builder = Builder #on_builder;
            const FIELDS: &'static [hessian::derive::Field] = &ALL;
            const SHAPE: &'static hessian::derive::Shape = &SHAPE;

            #in_java_order
        }

        impl #on_impl hessian::HessianDecode<#lifetime> for #name #on_type #conditions {
            fn from_token(
                token: hessian::Token<#lifetime>,
                reader: &mut hessian::Reader<#lifetime, '_>,
            ) -> ::core::result::Result<Self, hessian::HessianError> {
                hessian::derive::read_object(token, reader)
            }

            fn decode_next(
                reader: &mut hessian::Reader<#lifetime, '_>,
            ) -> ::core::result::Result<Self, hessian::HessianError> {
                hessian::derive::read_next(reader)
            }
        }
    })
}

/// A struct with one field without a name stands for that field.
pub fn newtype(input: &DeriveInput, field: &syn::Field, direction: Direction) -> Result<TokenStream> {
    let generics = Generics::of(input)?;
    let (name, on_type, lifetime) = (&input.ident, generics.on_type(), &generics.input);
    let ((encode, conditions), (decode, ..)) = (generics.to_encode(), generics.to_decode());
    let of = &field.ty;
    Ok(match direction {
        Direction::Encode => quote! {
            impl #encode ::settle_hessian::HessianEncode for #name #on_type #conditions {
                fn encode(
                    &self,
                    writer: &mut ::settle_hessian::Writer<'_>,
                ) -> ::core::result::Result<(), ::settle_hessian::HessianError> {
                    ::settle_hessian::HessianEncode::encode(&self.0, writer)
                }
            }
        },
        Direction::Decode => quote! {
            impl #decode ::settle_hessian::HessianDecode<#lifetime> for #name #on_type #conditions {
                fn from_token(
                    token: ::settle_hessian::Token<#lifetime>,
                    reader: &mut ::settle_hessian::Reader<#lifetime, '_>,
                ) -> ::core::result::Result<Self, ::settle_hessian::HessianError> {
                    <#of as ::settle_hessian::HessianDecode>::from_token(token, reader).map(#name)
                }

                fn absent() -> Option<Self> {
                    <#of as ::settle_hessian::HessianDecode>::absent().map(#name)
                }
            }
        },
    })
}
