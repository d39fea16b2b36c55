//! A consumer of ours calls a provider of Java's SOFARPC.

use std::{cell::RefCell, collections::BTreeMap, net::TcpStream, time::Duration};

use anyhow::{Result, bail, ensure};
use settle_bolt::{Codec, Config, Outcome, Status};
use settle_hessian::{Class, DecodeOptions, Dialect, Document, HessianEncode, Value, java::Throwable};
use settle_sofarpc_wire::{Answer, Request, Response, read_server_exception};

use super::{
    Case,
    java::{Java, SOFARPC},
    link::Link,
    sofarpc_client::{SERVICE, with_next_id},
};
use crate::conformance::process;

const SECOND: Duration = Duration::from_secs(1);
const STRING: &str = "java.lang.String";

struct Both {
    java: Java,
    link: Link,
}

impl Both {
    fn call(&mut self, request: &Request<'_>, arguments: &[&dyn HessianEncode], timeout: Duration) -> Result<Outcome> {
        let body = request.to_body(Dialect::Sofa3, arguments)?;
        let now = self.link.now();
        let call = self.link.connection.call(Codec::HESSIAN2, body, timeout, now)?;
        self.link.outcome(call)
    }

    /// What a method of the service answers.
    fn answer(
        &mut self,
        method: &str,
        sigs: &[&str],
        arguments: &[&dyn HessianEncode],
    ) -> Result<Answer<Document<'static>>> {
        match self.call(&request(SERVICE, method, sigs), arguments, 10 * SECOND)? {
            Outcome::Answer {
                status: Status::Success,
                body,
                ..
            } => {
                let options = DecodeOptions::new(Dialect::Sofa3);
                Ok(match Response::<Document<'_>>::read(&body, &options)?.answer {
                    Answer::Value(value) => Answer::Value(value.into_owned()),
                    Answer::Exception(exception) => Answer::Exception(exception),
                    Answer::Failure(message) => Answer::Failure(message),
                })
            }
            other => bail!("{other:?}"),
        }
    }

    fn value(&mut self, method: &str, sigs: &[&str], arguments: &[&dyn HessianEncode]) -> Result<Document<'static>> {
        match self.answer(method, sigs, arguments)? {
            Answer::Value(value) => Ok(value),
            other => bail!("{other:?}"),
        }
    }
}

fn request<'a>(service: &'a str, method: &'a str, sigs: &[&'a str]) -> Request<'a> {
    let mut props = Document::new();
    let trace = props.add_map(vec![
        ("sofaTraceId".into(), "0a0b0c".into()),
        ("sofaRpcId".into(), "0".into()),
    ]);
    let map = props.add_map(vec![
        ("rpc_trace_context".into(), trace),
        ("type".into(), "sync".into()),
        ("protocol".into(), "bolt".into()),
    ]);
    props.push(map);
    Request {
        target_app_name: None,
        method_name: method.into(),
        target_service_unique_name: service.into(),
        request_props: Some(props),
        method_arg_sigs: sigs.iter().map(|&sig| sig.into()).collect(),
    }
}

/// An order as the Java side makes it: its first item stands twice in it.
fn order() -> Document<'static> {
    let mut order = Document::new();
    let class = |order: &mut Document<'static>, name: &'static str, fields: &[&'static str]| {
        order.add_class(Class {
            name: name.into(),
            fields: fields.iter().map(|&field| field.into()).collect(),
        })
    };
    let item = class(&mut order, "settle.conformance.sofarpc.Order$Item", &["name", "count"]);
    let decimal = class(&mut order, "java.math.BigDecimal", &["value"]);
    let fields = ["id", "customer", "price", "placed", "items", "first"];
    let whole = class(&mut order, "settle.conformance.sofarpc.Order", &fields);
    let first = order.add_object(item, vec!["a".into(), Value::Int(1)]);
    let second = order.add_object(item, vec!["b".into(), Value::Int(70_000)]);
    let price = order.add_object(decimal, vec!["12.50".into()]);
    let items = order.add_list(vec![first.clone(), second]);
    let placed = Value::Date(1_700_000_000_123);
    let root = order.add_object(
        whole,
        vec![Value::Long(7), "Jörg 中😀".into(), price, placed, items, first],
    );
    order.push(root);
    order
}

/// Plays all cases against a Java provider.
pub fn play(class_path: &str, open: &[String], case: &mut Case<'_>) -> Result<()> {
    let port = process::free_ports(1)?[0];
    let java = Java::start(class_path, SOFARPC, open, &[], &["server", &port.to_string()])?;
    let link = Link::new(TcpStream::connect(("127.0.0.1", port))?, Config::client())?;
    let both = RefCell::new(Both { java, link });
    let both = &both;
    let mut case = |name: &str, run: &dyn Fn(&mut Both) -> Result<()>| case(name, &mut || run(&mut both.borrow_mut()));
    let echoes = |both: &mut Both, text: &str| {
        let value = both.value("echo", &[STRING], &[&text])?;
        ensure!(value.roots() == [Value::from(text)], "{value:?}");
        Ok(())
    };

    case("echo", &|both| echoes(both, "ü中😀"));
    case("large", &|both| echoes(both, &"ü".repeat(500_000)));
    case("primitives-and-arrays", &|both| {
        let mut others = Document::new();
        let list = others.add_typed_list("[int", vec![Value::Int(2), Value::Int(3)]);
        others.push(list);
        let value = both.value("sum", &["int", "[I"], &[&1i32, &others])?;
        ensure!(value.roots() == [Value::Int(6)], "{value:?}");
        Ok(())
    });
    case("objects-that-are-shared", &|both| {
        let sent = order();
        let value = both.value("order", &["settle.conformance.sofarpc.Order"], &[&sent])?;
        while both.java.wait("0", "heard", Some(&mut both.link))?[1] != "7 Jörg 中😀 12.50 1700000000123 ax1! bx70000"
        {
        }
        let expected = with_next_id(sent)?.encode(Dialect::Sofa3)?;
        ensure!(value.encode(Dialect::Sofa3)? == expected, "{value:?}");
        Ok(())
    });
    case("lists-and-maps", &|both| {
        let words = vec!["a", "b", "a"];
        let value = both.value("count", &["java.util.List", STRING], &[&words, &"b"])?;
        let map = value.roots().first().and_then(|root| value.map(root));
        let counts: BTreeMap<String, i64> = map
            .into_iter()
            .flat_map(|map| &map.entries)
            .filter_map(|(word, count)| match (word, count) {
                (Value::String(word), Value::Long(count)) => Some((word.to_string(), *count)),
                _ => None,
            })
            .collect();
        ensure!(
            counts == BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 2)]),
            "{value:?}"
        );
        Ok(())
    });
    case("bytes", &|both| {
        let bytes = vec![1u8, 2, 255];
        let value = both.value("bytes", &["[B"], &[&bytes])?;
        ensure!(value.roots() == [Value::Binary(bytes.into())], "{value:?}");
        Ok(())
    });
    case("void", &|both| {
        let value = both.value("nothing", &[], &[])?;
        ensure!(value.roots() == [Value::Null], "{value:?}");
        Ok(())
    });
    case(
        "an-exception-of-the-business",
        &|both| match both.answer("fail", &[STRING], &[&"no"])? {
            Answer::Exception(Throwable {
                class,
                message,
                stack_trace,
                ..
            }) => {
                ensure!(
                    class == "java.lang.IllegalStateException" && message.as_deref() == Some("no"),
                    "{class}"
                );
                let inner = stack_trace.first().map(|call| call.method_name.as_str());
                ensure!(inner == Some("fail"), "{stack_trace:?}");
                Ok(())
            }
            other => bail!("{other:?}"),
        },
    );
    case("a-service-that-is-not-there", &|both| {
        let request = request("settle.conformance.sofarpc.Nobody:1.0", "echo", &[STRING]);
        let outcome = both.call(&request, &[&"x"], 10 * SECOND)?;
        let Outcome::Answer {
            status: Status::Success,
            body,
            ..
        } = outcome
        else {
            bail!("{outcome:?}");
        };
        let options = DecodeOptions::new(Dialect::Sofa3);
        match Response::<String>::read(&body, &options)?.answer {
            Answer::Failure(message) => ensure!(message.contains("Nobody"), "{message}"),
            other => bail!("{other:?}"),
        }
        Ok(())
    });
    case(
        "a-method-that-is-not-there",
        &|both| match both.answer("nobody", &[], &[])? {
            Answer::Failure(message) => {
                ensure!(message.contains("nobody"), "{message}");
                Ok(())
            }
            other => bail!("{other:?}"),
        },
    );
    case("content-in-the-other-dialect", &|both| {
        let body = request(SERVICE, "echo", &[STRING]).to_body(Dialect::Hessian2, &[&"x"])?;
        let now = both.link.now();
        let call = both.link.connection.call(Codec::HESSIAN2, body, 10 * SECOND, now)?;
        match both.link.outcome(call)? {
            Outcome::Answer {
                status: Status::ServerDeserialException,
                body,
                ..
            } => {
                let options = DecodeOptions::new(Dialect::Sofa3);
                let exception = read_server_exception(&body, &options)?;
                ensure!(exception.message.is_some(), "{exception:?}");
            }
            other => bail!("{other:?}"),
        }
        echoes(both, "after")
    });
    case("oneway", &|both| {
        let body = request(SERVICE, "echo", &[STRING]).to_body(Dialect::Sofa3, &[&"told"])?;
        both.link.connection.oneway(Codec::HESSIAN2, body)?;
        loop {
            let heard = both.java.wait("0", "heard", Some(&mut both.link))?;
            if heard[1] == "told" {
                return Ok(());
            }
        }
    });
    case("timeout-and-what-comes-after", &|both| {
        let slow = request(SERVICE, "slow", &["int"]);
        let outcome = both.call(&slow, &[&600i32], Duration::from_millis(150))?;
        ensure!(outcome == Outcome::Timeout, "{outcome:?}");
        echoes(both, "after")
    });
    case("a-hundred-at-once", &|both| {
        let mut calls = Vec::new();
        for at in 0..100 {
            let text = format!("text {at}");
            let body = request(SERVICE, "echo", &[STRING]).to_body(Dialect::Sofa3, &[&text])?;
            let now = both.link.now();
            calls.push((
                both.link.connection.call(Codec::HESSIAN2, body, 10 * SECOND, now)?,
                text,
            ));
        }
        let options = DecodeOptions::new(Dialect::Sofa3);
        for (call, text) in calls {
            let Outcome::Answer { body, .. } = both.link.outcome(call)? else {
                bail!("{text} has no answer");
            };
            let answer = Response::<String>::read(&body, &options)?.answer;
            ensure!(answer == Answer::Value(text), "{answer:?}");
        }
        Ok(())
    });
    Ok(())
}
