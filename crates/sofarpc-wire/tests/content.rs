//! Requests and answers: Java's bytes, both dialects, and what is wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::borrow::Cow;

use bytes::Bytes;
use settle_base::{ErrorCode, Prng};
use settle_bolt::{Body, HeaderMap};
use settle_hessian::{
    DecodeOptions, Dialect, Document, HessianDecode, HessianEncode, Value,
    java::{StackTraceElement, Throwable},
};
use settle_sofarpc_wire::{Answer, Request, Response, SofaRpcError, header, read_server_exception, server_exception};

const DIALECTS: [Dialect; 2] = [Dialect::Sofa3, Dialect::Hessian2];

fn empty_map() -> Document<'static> {
    let mut props = Document::new();
    let map = props.add_map(Vec::new());
    props.push(map);
    props
}

fn say_hello() -> Request<'static> {
    Request {
        target_app_name: None,
        method_name: "sayHello".into(),
        target_service_unique_name: "com.x.Svc:1.0".into(),
        request_props: Some(empty_map()),
        method_arg_sigs: vec!["java.lang.String".into()],
    }
}

/// Bytes and texts one after the other.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn a_request_is_the_bytes_that_java_writes() {
    let golden = joined(&[
        b"O\xbccom.alipay.sofa.rpc.core.request.SofaRequest\x95",
        b"\x0dtargetAppName\x0amethodName\x17targetServiceUniqueName\x0crequestProps\x0dmethodArgSigs",
        b"o\x90N\x08sayHello\x0dcom.x.Svc:1.0MzVt\x00\x07[stringn\x01\x10java.lang.Stringz",
        b"\x05peter",
    ]);
    let body = say_hello().to_body(Dialect::Sofa3, &[&"peter"]).unwrap();
    assert_eq!(body.content, golden);
    assert_eq!(
        body.class_name().unwrap(),
        "com.alipay.sofa.rpc.core.request.SofaRequest"
    );
    let map = HeaderMap::decode(&body.header).unwrap();
    let pairs: Vec<_> = map.iter().collect();
    let expected = [
        (header::SERVICE, "com.x.Svc:1.0"),
        (header::METHOD_NAME, "sayHello"),
        (header::TARGET_SERVICE, "com.x.Svc:1.0"),
    ];
    assert_eq!(pairs, expected);
}

#[test]
fn an_answer_is_the_bytes_that_java_writes() {
    let golden = joined(&[
        b"O\xbecom.alipay.sofa.rpc.core.response.SofaResponse\x94",
        b"\x07isError\x08errorMsg\x0bappResponse\x0dresponseProps",
        b"o\x90FN\x02hiN",
    ]);
    let body = Response::new(Answer::Value("hi")).to_body(Dialect::Sofa3).unwrap();
    assert_eq!(body.content, golden);
    assert!(body.header.is_empty());
}

#[test]
fn requests_survive_in_both_dialects_with_arguments_that_share_the_tables_of_the_request() {
    for dialect in DIALECTS {
        let mut request = say_hello();
        request.target_app_name = Some("app".into());
        request.method_arg_sigs = vec!["[Ljava.lang.String;".into(), "int".into(), "com.x.Order".into()];
        let order = Throwable {
            class: "com.x.Order".into(),
            ..Throwable::default()
        };
        let names: Vec<Cow<'_, str>> = vec!["a".into(), "b".into()];
        let body = request.to_body(dialect, &[&names, &7i32, &order]).unwrap();
        let options = DecodeOptions::new(dialect);
        let (read, mut arguments) = Request::read(&body, &options).unwrap();
        assert_eq!(read, request);
        assert_eq!(arguments.take::<Vec<Cow<'_, str>>>().unwrap(), names);
        assert_eq!(arguments.take::<i32>().unwrap(), 7);
        assert_eq!(arguments.take::<Throwable>().unwrap(), order);
        arguments.finish().unwrap();
    }
}

#[test]
fn properties_that_are_text_or_numbers_go_into_the_header_with_dotted_keys() {
    let mut props = Document::new();
    let deep = props.add_map(vec![("k".into(), "v".into())]);
    let trace = props.add_map(vec![("sofaTraceId".into(), "0a1b".into()), ("deep".into(), deep)]);
    let map = props.add_map(vec![
        ("rpc_trace_context".into(), trace),
        ("type".into(), "sync".into()),
        ("sofa_head_deadline_remain_time".into(), Value::Long(3000)),
        ("flag".into(), Value::Bool(true)),
        (Value::Int(1), "not a text".into()),
    ]);
    props.push(map);
    let request = Request {
        request_props: Some(props),
        target_app_name: Some("app".into()),
        method_arg_sigs: Vec::new(),
        ..say_hello()
    };
    let body = request.to_body(Dialect::Sofa3, &[]).unwrap();
    let map = HeaderMap::decode(&body.header).unwrap();
    let pairs: Vec<_> = map.iter().skip(3).collect();
    let expected = [
        (header::TARGET_APP, "app"),
        ("rpc_trace_context.sofaTraceId", "0a1b"),
        ("rpc_trace_context.deep.k", "v"),
        ("type", "sync"),
        ("sofa_head_deadline_remain_time", "3000"),
    ];
    assert_eq!(pairs, expected);
}

#[test]
fn properties_that_hold_themselves_are_refused() {
    let mut props = Document::new();
    let map = props.add_map(Vec::new());
    let Value::Node(id) = map else { panic!("a node") };
    if let settle_hessian::Node::Map(inner) = props.node_mut(id) {
        inner.entries.push(("me".into(), map.clone()));
    }
    props.push(map);
    let request = Request {
        request_props: Some(props),
        ..say_hello()
    };
    let error = request.to_body(Dialect::Sofa3, &[&"peter"]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::new("SR", 3));
}

fn answered<T>(answer: Answer<T>, dialect: Dialect) -> Answer<T>
where
    T: HessianEncode + for<'a> HessianDecode<'a>,
{
    let response = Response {
        answer,
        props: Some(empty_map()),
    };
    let body = response.to_body(dialect).unwrap();
    let options = DecodeOptions::new(dialect);
    let read = Response::<T>::read(&body, &options).unwrap();
    assert_eq!(read.props, response.props);
    let told = HeaderMap::decode(&body.header).unwrap();
    let is_value = matches!(read.answer, Answer::Value(_));
    assert_eq!(told.get(header::RESPONSE_ERROR), (!is_value).then_some("true"));
    read.answer
}

#[test]
fn values_exceptions_and_failures_are_told_apart_in_both_dialects() {
    let exception = Throwable {
        class: "java.lang.IllegalStateException".into(),
        message: Some("no".into()),
        stack_trace: vec![StackTraceElement {
            declaring_class: "com.x.Y".into(),
            method_name: "z".into(),
            line_number: 7,
            ..StackTraceElement::default()
        }],
        ..Throwable::default()
    };
    for dialect in DIALECTS {
        let answers: [Answer<Option<String>>; 4] = [
            Answer::Value(Some("hi".into())),
            Answer::Value(None),
            Answer::Exception(exception.clone()),
            Answer::Failure("no such service".into()),
        ];
        for answer in answers {
            assert_eq!(answered(answer.clone(), dialect), answer);
        }
    }
}

#[test]
fn null_for_a_type_without_null_is_refused_only_where_it_is_the_value() {
    let options = DecodeOptions::new(Dialect::Sofa3);
    let null = Response::new(Answer::Value(None::<i32>))
        .to_body(Dialect::Sofa3)
        .unwrap();
    let error = Response::<i32>::read(&null, &options).unwrap_err();
    assert!(matches!(error, SofaRpcError::Hessian(_)), "{error}");
    let failure: Answer<i32> = Answer::Failure("no".into());
    let body = Response::new(failure.clone()).to_body(Dialect::Sofa3).unwrap();
    assert_eq!(Response::<i32>::read(&body, &options).unwrap().answer, failure);
}

#[test]
fn a_server_exception_says_what_it_was_given() {
    let body = server_exception(Dialect::Sofa3, "[Server] no processor").unwrap();
    let options = DecodeOptions::new(Dialect::Sofa3);
    let read = read_server_exception(&body, &options).unwrap();
    assert_eq!(read.message.as_deref(), Some("[Server] no processor"));
    let error = read_server_exception(&Body::EMPTY, &options).unwrap_err();
    assert_eq!(error.code(), ErrorCode::new("HE", 1));
}

#[test]
fn another_class_is_refused_outside_and_inside() {
    let options = DecodeOptions::new(Dialect::Sofa3);
    let request = say_hello().to_body(Dialect::Sofa3, &[&"peter"]).unwrap();
    let response = Response::new(Answer::Value("hi")).to_body(Dialect::Sofa3).unwrap();
    let swapped = Body {
        content: response.content.clone(),
        ..request.clone()
    };
    assert!(Request::read(&swapped, &options).is_err());
    assert_eq!(
        Request::read(&response, &options).err().unwrap().code(),
        ErrorCode::new("SR", 1)
    );
    let swapped = Body {
        content: request.content,
        ..response
    };
    let error = Response::<Document<'_>>::read(&swapped, &options).unwrap_err();
    assert_eq!(error.code(), ErrorCode::new("SR", 1));
    let bare = Body {
        content: Bytes::from_static(b"\x02hi"),
        ..swapped
    };
    let error = Response::<Document<'_>>::read(&bare, &options).unwrap_err();
    assert_eq!(error.code(), ErrorCode::new("SR", 1));
}

#[test]
fn as_many_arguments_as_types_and_nothing_behind_them() {
    let options = DecodeOptions::new(Dialect::Sofa3);
    let count = ErrorCode::new("SR", 2);
    let error = say_hello().to_body(Dialect::Sofa3, &[]).unwrap_err();
    assert_eq!(error.code(), count);
    let mut body = say_hello().to_body(Dialect::Sofa3, &[&"peter"]).unwrap();
    let (_, arguments) = Request::read(&body, &options).unwrap();
    assert_eq!(arguments.finish().unwrap_err().code(), count);
    let (_, mut arguments) = Request::read(&body, &options).unwrap();
    arguments.take::<String>().unwrap();
    assert_eq!(arguments.take::<String>().unwrap_err().code(), count);
    let mut longer = body.content.to_vec();
    longer.push(b'N');
    body.content = longer.into();
    let (_, mut arguments) = Request::read(&body, &options).unwrap();
    arguments.take::<String>().unwrap();
    assert_eq!(arguments.finish().unwrap_err().code(), ErrorCode::new("HE", 7));
}

#[test]
fn content_that_is_cut_or_damaged_never_panics() {
    let request = say_hello().to_body(Dialect::Sofa3, &[&"peter"]).unwrap();
    let exception = Throwable {
        class: "java.lang.Exception".into(),
        ..Throwable::default()
    };
    let answer: Answer<String> = Answer::Exception(exception);
    let response = Response::new(answer).to_body(Dialect::Sofa3).unwrap();
    let mut prng = Prng::new(1);
    for dialect in DIALECTS {
        let options = DecodeOptions::new(dialect);
        for round in 0..4_000 {
            for body in [&request, &response] {
                let mut content = body.content.to_vec();
                if round % 2 == 0 {
                    content.truncate(prng.below(content.len() as u64) as usize);
                }
                for _ in 0..prng.below(4) {
                    let at = prng.below(content.len().max(1) as u64) as usize;
                    if let Some(byte) = content.get_mut(at) {
                        *byte = prng.next_u64() as u8;
                    }
                }
                let body = Body {
                    content: content.into(),
                    ..body.clone()
                };
                if let Ok((_, mut arguments)) = Request::read(&body, &options) {
                    while arguments.take::<Document<'_>>().is_ok() {}
                }
                let _ = Response::<Document<'_>>::read(&body, &options);
            }
        }
    }
}
