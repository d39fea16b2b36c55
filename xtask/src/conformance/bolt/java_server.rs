//! We ask Java's server.

use std::{cell::RefCell, net::TcpStream, time::Duration};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use settle_bolt::{Body, Codec, Config, HeartbeatConfig, Outcome, Status, Switch, Version};

use super::{
    Case,
    java::{BOLT, Java},
    link::{Link, STRING, java_hash, string_body},
};
use crate::conformance::process;

const SECOND: Duration = Duration::from_secs(1);
const EXCEPTION: &str = "com.alipay.remoting.rpc.exception.RpcServerException";

struct Both {
    java: Java,
    link: Link,
}

impl Both {
    fn echoes(&mut self, text: &str) -> Result<()> {
        let call = self.link.call(text, 10 * SECOND)?;
        let answer = self.link.answer(call)?;
        ensure!(answer == text, "{} bytes came back", answer.len());
        Ok(())
    }

    fn fails(&mut self, body: Body, expected: Status) -> Result<()> {
        let now = self.link.now();
        let call = self.link.connection.call(Codec::HESSIAN2, body, 10 * SECOND, now)?;
        match self.link.outcome(call)? {
            Outcome::Answer { status, body, .. } if status == expected => {
                ensure!(body.class_name()? == EXCEPTION, "{}", body.class_name()?);
                ensure!(!body.content.is_empty(), "an exception without content");
                Ok(())
            }
            other => bail!("{other:?}"),
        }
    }
}

/// Plays all cases against a Java server that is spoken to as `spoken` says.
pub fn play(class_path: &str, open: &[String], spoken: (Version, Switch), case: &mut Case<'_>) -> Result<()> {
    let port = process::free_ports(1)?[0];
    let java = Java::start(class_path, BOLT, open, &[], &["server", &port.to_string()])?;
    let config = Config {
        speaks: Some(spoken),
        // The ids wrap at once.
        first_id: i32::MAX - 1,
        heartbeat: Some(HeartbeatConfig {
            interval: Duration::from_millis(150),
            ..HeartbeatConfig::default()
        }),
        ..Config::client()
    };
    let link = Link::new(TcpStream::connect(("127.0.0.1", port))?, config)?;
    let both = RefCell::new(Both { java, link });
    let both = &both;
    let mut case = |name: &str, run: &dyn Fn(&mut Both) -> Result<()>| case(name, &mut || run(&mut both.borrow_mut()));

    case("echo", &|both| both.echoes("hello"));
    case("ids-wrap", &|both| (0..4).try_for_each(|_| both.echoes("hello")));
    case("empty", &|both| both.echoes(""));
    case("unicode", &|both| both.echoes("ü中😀"));
    case("large", &|both| both.echoes(&"ü".repeat(1_000_000)));
    case("no-answer", &|both| {
        let call = both.link.call("null", 10 * SECOND)?;
        match both.link.outcome(call)? {
            Outcome::Answer {
                status: Status::Success,
                body,
                ..
            } => {
                ensure!(body.class.is_empty(), "{:?}", body.class);
                Ok(())
            }
            other => bail!("{other:?}"),
        }
    });
    case("oneway", &|both| {
        both.link
            .connection
            .oneway(Codec::HESSIAN2, string_body("told alone"))?;
        loop {
            let heard = both.java.wait("0", "heard", Some(&mut both.link))?;
            if heard[2] == java_hash("told alone").to_string() {
                return Ok(());
            }
        }
    });
    case("two-hundred-at-once", &|both| {
        let calls: Vec<_> = (0..200)
            .map(|at| {
                let text = if at % 3 == 0 {
                    format!("sleep:{}", 200 - at)
                } else {
                    at.to_string()
                };
                Ok((both.link.call(&text, 10 * SECOND)?, text))
            })
            .collect::<Result<_>>()?;
        for (call, text) in calls {
            let answer = both.link.answer(call)?;
            ensure!(answer == text, "{text} came to {answer}");
        }
        Ok(())
    });
    case("timeout-and-a-late-answer", &|both| {
        let call = both.link.call("sleep:500", Duration::from_millis(100))?;
        let outcome = both.link.outcome(call)?;
        ensure!(outcome == Outcome::Timeout, "{outcome:?}");
        both.link
            .until("the late answer", |link| link.connection.counters().late_responses == 1)?;
        both.echoes("after")
    });
    case("an-exception", &|both| {
        both.fails(string_body("throw:no"), Status::ServerException)
    });
    case("an-unknown-class", &|both| {
        let body = Body {
            class: Bytes::from_static(b"java.lang.Long"),
            ..string_body("hello")
        };
        both.fails(body, Status::ServerException)
    });
    case("content-that-cannot-be-read", &|both| {
        let body = Body {
            class: Bytes::from_static(STRING.as_bytes()),
            header: Bytes::new(),
            content: Bytes::from_static(b"\x40\x40"),
        };
        both.fails(body, Status::ServerDeserialException)?;
        both.echoes("after")
    });
    case("heartbeats-are-answered", &|both| {
        let before = both.link.connection.counters().heartbeats_sent;
        both.link.until("5 heartbeats", |link| {
            link.connection.counters().heartbeats_sent >= before + 5
        })?;
        both.echoes("after")?;
        let counters = both.link.connection.counters();
        ensure!(counters.heartbeats_missed == 0, "{counters:?}");
        Ok(())
    });
    case("asked-back", &|both| {
        let said = both
            .java
            .obey(&["ask-back", "10000", "from the server"], &mut both.link)?;
        let hash = java_hash("from the server").to_string();
        ensure!(said.last() == Some(&hash), "{said:?}");
        Ok(())
    });
    case("told-back", &|both| {
        both.java.obey(&["tell-back", "pushed"], &mut both.link)?;
        both.link
            .until("a oneway", |link| link.heard.iter().any(|text| text == "pushed"))
    });
    Ok(())
}
