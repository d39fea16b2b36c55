//! A consumer of Java's SOFARPC calls a provider of ours.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use settle_bolt::{Body, Config, HeaderMap, Status, Version};
use settle_hessian::{DecodeOptions, Dialect, Document, HessianEncode, Node, Value, java::Throwable};
use settle_sofarpc_wire::{Answer, Request, Response, header, server_exception};

use super::{
    Case,
    java::{Java, SOFARPC},
    link::{Link, PATIENCE, java_hash},
};

pub const SERVICE: &str = "settle.conformance.sofarpc.Greeter:1.0";

/// Our provider of the service.
pub fn provide(body: &Body) -> Result<Option<(Status, Body)>> {
    let map = HeaderMap::decode(&body.header)?;
    ensure!(map.get(header::SERVICE) == Some(SERVICE), "the header says {map:?}");
    let options = DecodeOptions::new(Dialect::Sofa3);
    let (request, mut arguments) = Request::read(body, &options)?;
    // Node sends the service alone.
    let named = map.get(header::METHOD_NAME);
    ensure!(named.is_none_or(|name| name == request.method_name), "{named:?}");
    ensure!(request.target_service_unique_name == SERVICE);
    let answered = match request.method_name.as_ref() {
        "echo" => {
            let text: String = arguments.take()?;
            match text.as_str() {
                "mute" => return Ok(None),
                "busy" => return Ok(Some((Status::ServerThreadpoolBusy, Body::EMPTY))),
                "server exception" => {
                    let body = server_exception(Dialect::Sofa3, "[Server] of ours")?;
                    return Ok(Some((Status::ServerException, body)));
                }
                "failure" => respond::<String>(Answer::Failure("of ours".to_owned()))?,
                _ => respond(Answer::Value(text))?,
            }
        }
        "sum" => {
            let first: i32 = arguments.take()?;
            let others: Vec<i32> = arguments.take()?;
            respond(Answer::Value(first + others.iter().sum::<i32>()))?
        }
        "order" => respond(Answer::Value(with_next_id(arguments.take()?)?))?,
        "count" => {
            let mut counts: BTreeMap<String, i64> = BTreeMap::new();
            for word in arguments.take::<Vec<String>>()? {
                *counts.entry(word).or_default() += 1;
            }
            *counts.entry(arguments.take()?).or_default() += 1;
            respond(Answer::Value(counts))?
        }
        "bytes" => respond(Answer::Value(arguments.take::<Vec<u8>>()?))?,
        "nothing" => respond(Answer::Value(None::<i32>))?,
        "fail" => respond::<i32>(Answer::Exception(Throwable {
            class: "java.lang.IllegalStateException".to_owned(),
            message: arguments.take()?,
            ..Throwable::default()
        }))?,
        other => bail!("a method {other}"),
    };
    arguments.finish()?;
    Ok(Some((Status::Success, answered)))
}

fn respond<T: HessianEncode>(answer: Answer<T>) -> Result<Body> {
    Ok(Response::new(answer).to_body(Dialect::Sofa3)?)
}

/// The order with the next id, all else as it came.
pub fn with_next_id(mut order: Document<'_>) -> Result<Document<'_>> {
    let Some(Value::Node(root)) = order.roots().first().cloned() else {
        bail!("an order is an object");
    };
    let at = match order.node(root) {
        Node::Object(object) => order.class_of(object).fields.iter().position(|name| name == "id"),
        _ => None,
    };
    let Node::Object(object) = order.node_mut(root) else {
        bail!("an order is an object");
    };
    match &mut object.fields[at.context("an order has an id")?] {
        Value::Long(id) => *id += 1,
        other => bail!("an id is {other:?}"),
    }
    Ok(order)
}

struct Both {
    java: Java,
    link: Link,
}

impl Both {
    fn asks(&mut self, words: &[&str], expected: &[&str]) -> Result<()> {
        let said = self.java.obey(words, &mut self.link)?;
        let fits = said.iter().zip(expected).all(|(said, expected)| said == expected);
        ensure!(
            said.len() >= expected.len() && fits,
            "{words:?} came to {said:?} and not {expected:?}"
        );
        Ok(())
    }
}

/// Plays all cases with a Java consumer.
pub fn play(class_path: &str, open: &[String], case: &mut Case<'_>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let mut java = Java::start(class_path, SOFARPC, open, &[], &["client", &port])?;
    // The consumer connects with its first call.
    let first = java.order(&["sync", "echo", "first"])?;
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) => {
                ensure!(start.elapsed() < PATIENCE, "java does not connect");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    };
    stream.set_nonblocking(false)?;
    let mut link = Link::new(stream, Config::server())?;
    link.service = Some(provide);
    let said = java.result(&first, &mut link)?;
    ensure!(said == ["answer", "first"], "{said:?}");
    let both = RefCell::new(Both { java, link });
    let both = &both;
    let mut case = |name: &str, run: &dyn Fn(&mut Both) -> Result<()>| case(name, &mut || run(&mut both.borrow_mut()));

    case("echo", &|both| {
        both.asks(&["sync", "echo", "ü中😀"], &["answer", "ü中😀"])
    });
    case("speaks-protocol-1", &|both| {
        let speaks = both.link.connection.speaks();
        ensure!(speaks.is_some_and(|(version, _)| version == Version::V1), "{speaks:?}");
        Ok(())
    });
    case("future", &|both| {
        both.asks(&["future", "echo", "later"], &["answer", "later"])
    });
    case("large", &|both| {
        let text = "ü".repeat(500_000);
        let shown = format!("500000 {}", java_hash(&text));
        both.asks(&["sync", "echo", "big:500000"], &["answer", &shown])
    });
    case("primitives-and-arrays", &|both| {
        both.asks(&["sync", "sum"], &["answer", "6"])
    });
    case("objects-that-are-shared", &|both| {
        let shown = "1099511627777 Jörg 中😀 12.50 1700000000123 item0x0! item1x1000 item2x2000";
        both.asks(&["sync", "order"], &["answer", shown])
    });
    case("lists-and-maps", &|both| {
        both.asks(&["sync", "count"], &["answer", "{a=2, b=2}"])
    });
    case("bytes", &|both| {
        both.asks(&["sync", "bytes"], &["answer", "[1, 2, -1]"])
    });
    case("void", &|both| both.asks(&["sync", "nothing"], &["answer", "null"]));
    case("an-exception-of-the-business", &|both| {
        let exception = ["exception", "java.lang.IllegalStateException", "no"];
        both.asks(&["sync", "fail", "no"], &exception)
    });
    case("a-failure-of-the-framework", &|both| {
        both.asks(&["sync", "echo", "failure"], &["failure", "199", "of ours"])
    });
    case("busy", &|both| {
        both.asks(&["sync", "echo", "busy"], &["failure", "100"])
    });
    case("server-exception", &|both| {
        both.asks(&["sync", "echo", "server exception"], &["failure", "199"])
    });
    case("timeout", &|both| {
        both.asks(&["sync", "echo", "mute"], &["failure", "200"])?;
        both.asks(&["sync", "echo", "after"], &["answer", "after"])
    });
    Ok(())
}
