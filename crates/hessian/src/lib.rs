//! Hessian 2 in both dialects: bytes ⇄ values. No sockets, no clock, no state but that of one message.
//!
//! Two encodings share the name "Hessian 2" and cannot read each other; [`Dialect`] says which one is meant.
//! - [`java_types`]: what each type of Java becomes.
//! - [`HessianEncode`] and [`HessianDecode`]: types of Java's classes, derived; [`java`]: those of Java's own libraries;
//!   [`serde`]: plain types.
//! - [`Document`] and [`Value`]: any message, with nodes that are shared or hold themselves.
//! - [`Reader`] and [`Writer`]: the tokens, for code that builds no tree. Binaries and text are borrowed from the input.
//! - [`Incoming`]: a message that is read while it arrives.
//! - [`Limits`] and [`ClassNames`]: what a message may cost and which classes may come in.
//! - [`HessianError`]: everything that can be wrong, each with a stable code.
//!
//! What is written is, byte for byte, what Java's encoders write for the same values. The rules were taken from the
//! Java libraries `com.alipay.sofa:hessian` 3.5.5 and 4.0.4, `com.caucho:hessian` 4.0.66 and `com.alibaba:hessian-lite`
//! 3.2.13.

// Derived code names this crate by its name, here too.
extern crate self as settle_hessian;

mod class_names;
mod dialect;
mod document;
mod error;
mod incoming;
pub mod java;
mod java_buffer;
mod limits;
mod names;
mod quick;
mod reader;
pub mod serde;
mod text;
mod token;
mod typed;
mod value;
mod writer;

#[doc = include_str!("../docs/java-types.md")]
pub mod java_types {}

pub use class_names::{ClassNames, DENIED};
pub use dialect::{Dialect, Library};
pub use error::{HessianError, IndexKind, Limit};
pub use incoming::Incoming;
pub use limits::Limits;
pub use reader::{DecodeOptions, Reader};
pub use settle_hessian_derive::{HessianDecode, HessianEncode};
pub use text::Text;
pub use token::{ClassId, ListHead, MapHead, ObjectHead, RefId, Token, TypeId};
pub(crate) use typed::Shape;
pub use typed::{EncodeTyped, HessianDecode, HessianEncode, derive, from_bytes, to_bytes};
pub use value::{Class, Document, DocumentClass, List, Map, Node, NodeId, Object, Value};
pub use writer::{ListEnd, Writer};
