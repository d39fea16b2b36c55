//! Requests: an object that names the method, then each argument as a further value that shares its tables.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use settle_bolt::{Body, HeaderMap};
use settle_hessian::{
    DecodeOptions, Dialect, Document, HessianDecode, HessianEncode, Node, NodeId, Reader, Value, Writer,
};

use crate::SofaRpcError;

/// Keys of the header. Source: `RemotingConstants`.
pub mod header {
    /// The unique name of the service; Java's server cannot read a request whose header is empty.
    pub const SERVICE: &str = "service";
    pub const METHOD_NAME: &str = "sofa_head_method_name";
    pub const TARGET_SERVICE: &str = "sofa_head_target_service";
    pub const TARGET_APP: &str = "sofa_head_target_app";
    /// "true" in the header of an answer that is a failure or an exception.
    pub const RESPONSE_ERROR: &str = "sofa_head_response_error";
}

pub(crate) const CLASS: &str = "com.alipay.sofa.rpc.core.request.SofaRequest";
/// Maps inside maps, in the properties of a request.
const PROPERTIES_DEPTH_MAX: usize = 16;

/// Which method of which service is called: Java's `SofaRequest`, whose arguments travel behind it.
#[derive(Clone, PartialEq, Debug, Default, HessianEncode, HessianDecode)]
#[hessian(class = "com.alipay.sofa.rpc.core.request.SofaRequest")]
pub struct Request<'a> {
    pub target_app_name: Option<Cow<'a, str>>,
    pub method_name: Cow<'a, str>,
    /// `com.example.Service:1.0`, with `:uniqueId` behind it if the service has one.
    pub target_service_unique_name: Cow<'a, str>,
    /// A map of texts to any values: trace, baggage, the kind of call.
    pub request_props: Option<Document<'a>>,
    /// One for each argument, as `Class.getName` says it: `java.lang.String`, `int`, `[I`, `[Ljava.lang.String;`.
    #[hessian(java_type = "[string", default)]
    pub method_arg_sigs: Vec<Cow<'a, str>>,
}

impl<'a> Request<'a> {
    /// Reads a request; its arguments are still to be taken.
    ///
    /// # Errors
    /// The class of the frame or of its content is another one, or the content breaks its encoding.
    pub fn read<'o>(
        body: &'a Body,
        options: &'o DecodeOptions,
    ) -> Result<(Request<'a>, Arguments<'a, 'o>), SofaRpcError> {
        expect_class(body, CLASS)?;
        let mut reader = Reader::new(&body.content, options)?;
        let request = Request::decode_next(&mut reader)?;
        let arguments = Arguments {
            reader,
            method: request.method_name.as_ref().into(),
            declared: request.method_arg_sigs.len(),
            taken: 0,
        };
        Ok((request, arguments))
    }

    /// The body of a frame: class, header, content.
    ///
    /// # Errors
    /// Not as many arguments as types, a header that is too long for a frame, a value that the encoding cannot carry.
    pub fn to_body(&self, dialect: Dialect, arguments: &[&dyn HessianEncode]) -> Result<Body, SofaRpcError> {
        if self.method_arg_sigs.len() != arguments.len() {
            return Err(SofaRpcError::ArgumentCount {
                method: self.method_name.as_ref().into(),
                declared: self.method_arg_sigs.len(),
                given: arguments.len(),
            });
        }
        let mut content = BytesMut::new();
        let mut writer = Writer::new(dialect, &mut content);
        self.encode(&mut writer)?;
        arguments.iter().try_for_each(|argument| argument.encode(&mut writer))?;
        drop(writer);
        Ok(Body {
            class: Bytes::from_static(CLASS.as_bytes()),
            header: self.header()?.encode()?,
            content: content.freeze(),
        })
    }

    /// What Java puts into the header: the names, then the properties that are text or numbers, those inside maps with
    /// dotted keys.
    fn header(&self) -> Result<HeaderMap<'_>, SofaRpcError> {
        let mut map = HeaderMap::new();
        map.push(header::SERVICE, self.target_service_unique_name.as_ref());
        map.push(header::METHOD_NAME, self.method_name.as_ref());
        map.push(header::TARGET_SERVICE, self.target_service_unique_name.as_ref());
        if let Some(app) = &self.target_app_name {
            map.push(header::TARGET_APP, app.as_ref());
        }
        if let Some(props) = &self.request_props
            && let Some(Value::Node(root)) = props.roots().first()
        {
            flatten(props, *root, "", 0, &mut map)?;
        }
        Ok(map)
    }
}

fn flatten<'d>(
    props: &'d Document<'_>,
    node: NodeId,
    prefix: &str,
    depth: usize,
    map: &mut HeaderMap<'d>,
) -> Result<(), SofaRpcError> {
    if depth > PROPERTIES_DEPTH_MAX {
        return Err(SofaRpcError::PropertiesTooDeep {
            max: PROPERTIES_DEPTH_MAX,
        });
    }
    let Node::Map(entries) = props.node(node) else {
        return Ok(());
    };
    for (key, value) in &entries.entries {
        let Value::String(key) = key else {
            continue;
        };
        let key = format!("{prefix}{key}");
        match value {
            Value::String(text) => map.push(key, text.as_ref()),
            Value::Int(number) => map.push(key, number.to_string()),
            Value::Long(number) => map.push(key, number.to_string()),
            Value::Double(number) => map.push(key, java_double(*number)),
            Value::Node(inner) => flatten(props, *inner, &format!("{key}."), depth + 1, map)?,
            Value::Null | Value::Bool(_) | Value::Date(_) | Value::Utf16(_) | Value::Binary(_) => {}
        }
    }
    Ok(())
}

/// `Double.toString`, as JDK 19 and later write it: the shortest digits that say the number.
fn java_double(number: f64) -> String {
    let size = number.abs();
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else if size == 0.0 || (1e-3..1e7).contains(&size) {
        format!("{number:?}")
    } else {
        let text = format!("{number:E}");
        match text.split_once('E') {
            Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0E{exponent}"),
            _ => text,
        }
    }
}

pub(crate) fn expect_class(body: &Body, expected: &'static str) -> Result<(), SofaRpcError> {
    match body.class_name()? {
        class if class == expected => Ok(()),
        class => Err(SofaRpcError::WrongClass {
            expected,
            found: class.into(),
        }),
    }
}

/// The arguments of a request that was read, to be taken one by one.
pub struct Arguments<'a, 'o> {
    reader: Reader<'a, 'o>,
    method: Box<str>,
    declared: usize,
    taken: usize,
}

impl<'a> Arguments<'a, '_> {
    /// The next argument; a [`Document`] takes any.
    ///
    /// # Errors
    /// There is none, or it is no `T`.
    pub fn take<T: HessianDecode<'a>>(&mut self) -> Result<T, SofaRpcError> {
        if self.taken == self.declared {
            return Err(self.wrong_count(self.taken + 1));
        }
        let argument = T::decode_next(&mut self.reader)?;
        self.taken += 1;
        Ok(argument)
    }

    /// # Errors
    /// Arguments were not taken, or bytes are left over.
    pub fn finish(self) -> Result<(), SofaRpcError> {
        if self.taken != self.declared {
            return Err(self.wrong_count(self.taken));
        }
        Ok(self.reader.finish()?)
    }

    fn wrong_count(&self, given: usize) -> SofaRpcError {
        SofaRpcError::ArgumentCount {
            method: self.method.clone(),
            declared: self.declared,
            given,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_header_look_as_java_prints_them() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.001, "0.001"),
            (1e-4, "1.0E-4"),
            (1.5e7, "1.5E7"),
            (9999999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (-12.25, "-12.25"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (number, text) in cases {
            assert_eq!(java_double(number), text);
        }
    }
}
