//! Answers: a value, an exception of the business, or a failure of the framework.

use bytes::{Bytes, BytesMut};
use settle_bolt::{Body, HeaderMap};
use settle_hessian::{
    DecodeOptions, Dialect, Document, HessianDecode, HessianEncode, HessianError, ObjectHead, Reader, Token, Writer,
    from_bytes, java::Throwable, to_bytes,
};

use crate::{
    SofaRpcError,
    request::{expect_class, header},
};

const CLASS: &str = "com.alipay.sofa.rpc.core.response.SofaResponse";
const FIELDS: &[&str] = &["isError", "errorMsg", "appResponse", "responseProps"];

/// The class of what goes with bolt's statuses of failure.
pub const SERVER_EXCEPTION_CLASS: &str = "com.alipay.remoting.rpc.exception.RpcServerException";

/// How a call ended on the side of the provider.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer<T> {
    /// What the method returned; null for `void`.
    Value(T),
    /// What the method threw.
    Exception(Throwable),
    /// The method was not called, or its result was lost; what the framework says about it.
    Failure(String),
}

/// Java's `SofaResponse`.
#[derive(Clone, PartialEq, Debug)]
pub struct Response<'a, T> {
    pub answer: Answer<T>,
    /// A map of texts to texts: baggage that travels back.
    pub props: Option<Document<'a>>,
}

impl<'a, T> Response<'a, T> {
    /// An answer without properties.
    pub fn new(answer: Answer<T>) -> Response<'a, T> {
        Response { answer, props: None }
    }
}

impl<'a, T: HessianDecode<'a>> Response<'a, T> {
    /// Reads an answer. Nothing on the wire says that a value is an exception; Java looks at the class, here it is one
    /// if it has a message and a stack trace.
    ///
    /// # Errors
    /// The class of the frame or of its content is another one, the content breaks its encoding, the value is no `T`.
    pub fn read(body: &'a Body, options: &DecodeOptions) -> Result<Response<'a, T>, SofaRpcError> {
        expect_class(body, CLASS)?;
        let mut reader = Reader::new(&body.content, options)?;
        let head = match reader.token()? {
            Token::Object(head) if reader.class_name(head.class) == CLASS => head,
            Token::Object(head) => {
                return Err(SofaRpcError::WrongClass {
                    expected: CLASS,
                    found: reader.class_name(head.class).into(),
                });
            }
            _ => {
                return Err(SofaRpcError::WrongClass {
                    expected: CLASS,
                    found: "no object".into(),
                });
            }
        };
        let (mut is_error, mut message, mut props) = (false, None, None);
        // Only of an answer without error is it known that null shall become a `T`.
        let mut app_response = None;
        let names: Vec<_> = reader.field_names(head.class).collect();
        for name in names {
            match name.as_ref() {
                "isError" => is_error = bool::decode_next(&mut reader)?,
                "errorMsg" => message = <Option<String>>::decode_next(&mut reader)?,
                "appResponse" => app_response = read_app_response(&mut reader)?,
                "responseProps" => props = <Option<Document<'a>>>::decode_next(&mut reader)?,
                _ => reader.skip()?,
            }
        }
        reader.end_object(&head);
        let answer = match (is_error, app_response) {
            (true, _) => Answer::Failure(message.unwrap_or_default()),
            (false, Some(answer)) => answer,
            (false, None) => Answer::Value(T::from_token(Token::Null, &mut reader)?),
        };
        reader.finish()?;
        Ok(Response { answer, props })
    }
}

/// `None` for null.
fn read_app_response<'a, T: HessianDecode<'a>>(reader: &mut Reader<'a, '_>) -> Result<Option<Answer<T>>, HessianError> {
    Ok(Some(match reader.token()? {
        Token::Null => return Ok(None),
        Token::Object(head) if is_exception(&head, reader) => {
            Answer::Exception(Throwable::from_token(Token::Object(head), reader)?)
        }
        Token::Ref(reference) => Answer::Value(reader.replay(reference, T::decode_next)?),
        token => Answer::Value(T::from_token(token, reader)?),
    }))
}

fn is_exception(head: &ObjectHead, reader: &Reader<'_, '_>) -> bool {
    let has = |field: &str| reader.field_names(head.class).any(|name| name == field);
    has("detailMessage") && has("stackTrace")
}

impl<T: HessianEncode> Response<'_, T> {
    /// The body of a frame: class, header, content.
    ///
    /// # Errors
    /// A value that the encoding cannot carry.
    pub fn to_body(&self, dialect: Dialect) -> Result<Body, SofaRpcError> {
        let mut content = BytesMut::new();
        let mut writer = Writer::new(dialect, &mut content);
        writer.begin_object(CLASS, FIELDS);
        match &self.answer {
            Answer::Value(value) => {
                writer.bool(false);
                writer.null();
                value.encode(&mut writer)?;
            }
            Answer::Exception(exception) => {
                writer.bool(false);
                writer.null();
                exception.encode(&mut writer)?;
            }
            Answer::Failure(message) => {
                writer.bool(true);
                writer.string(message);
                writer.null();
            }
        }
        self.props.encode(&mut writer)?;
        drop(writer);
        let mut map = HeaderMap::new();
        if !matches!(self.answer, Answer::Value(_)) {
            map.push(header::RESPONSE_ERROR, "true");
        }
        Ok(Body {
            class: Bytes::from_static(CLASS.as_bytes()),
            header: map.encode()?,
            content: content.freeze(),
        })
    }
}

/// The body of an answer with one of bolt's statuses of failure.
///
/// # Errors
/// The message is longer than the encoding can say.
pub fn server_exception(dialect: Dialect, message: &str) -> Result<Body, SofaRpcError> {
    let exception = Throwable {
        class: SERVER_EXCEPTION_CLASS.to_owned(),
        message: Some(message.to_owned()),
        ..Throwable::default()
    };
    Ok(Body {
        class: Bytes::from_static(SERVER_EXCEPTION_CLASS.as_bytes()),
        header: Bytes::new(),
        content: to_bytes(dialect, &exception)?.freeze(),
    })
}

/// What goes with one of bolt's statuses of failure. Java leaves it empty for some of them. The class of the frame is not
/// looked at: `sofa-bolt-node` names that of an answer.
///
/// # Errors
/// The content breaks the encoding or is no exception.
pub fn read_server_exception(body: &Body, options: &DecodeOptions) -> Result<Throwable, SofaRpcError> {
    Ok(from_bytes(&body.content, options)?)
}
