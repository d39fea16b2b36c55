//! Java's client asks us.

use std::{
    cell::RefCell,
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::BytesMut;
use settle_bolt::{Body, CloseReason, Codec, Command, Config, Frame, Outcome, Status, Switch, Version};

use super::{
    Case,
    java::{BOLT, Java},
    link::{Link, PATIENCE, STATUSES, java_hash, string_body},
};

const SECOND: Duration = Duration::from_secs(1);

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

    fn echoes(&mut self, verb: &str, word: &str, text: &str) -> Result<()> {
        let length = text.encode_utf16().count().to_string();
        let hash = java_hash(text).to_string();
        self.asks(&[verb, "a", "10000", word], &["answer", &length, &hash])
    }
}

fn connect(java: &mut Java, query: &str, name: &str) -> Result<Link> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("{}{query}", listener.local_addr()?);
    let number = java.order(&["open", &address, name])?;
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
    let said = java.result(&number, &mut link)?;
    ensure!(said == ["open"], "open came to {said:?}");
    Ok(link)
}

/// Plays all cases with a Java client that speaks as `query` says.
pub fn play(
    class_path: &str,
    open: &[String],
    spoken: (Version, Switch),
    query: &str,
    case: &mut Case<'_>,
) -> Result<()> {
    // Heartbeats soon enough to be waited for.
    let properties = ["bolt.tcp.heartbeat.interval=300"];
    let mut java = Java::start(class_path, BOLT, open, &properties, &["client"])?;
    let link = connect(&mut java, query, "a")?;
    let both = RefCell::new(Both { java, link });
    let both = &both;
    let mut case = |name: &str, run: &dyn Fn(&mut Both) -> Result<()>| case(name, &mut || run(&mut both.borrow_mut()));

    case("sync", &|both| both.echoes("sync", "hello", "hello"));
    case("speaks", &|both| {
        ensure!(
            both.link.connection.speaks() == Some(spoken),
            "{:?}",
            both.link.connection.speaks()
        );
        Ok(())
    });
    case("future", &|both| both.echoes("future", "hello", "hello"));
    case("callback", &|both| both.echoes("callback", "hello", "hello"));
    case("empty", &|both| both.echoes("sync", "", ""));
    case("unicode", &|both| both.echoes("sync", "ü中😀", "ü中😀"));
    case("large", &|both| {
        both.echoes("sync", "big:1000000", &"ü".repeat(1_000_000))
    });
    case("without-a-checksum", &|both| {
        both.asks(&["sync", "a", "10000", "hello", "false"], &["answer", "5", "99162322"])
    });
    case("oneway", &|both| {
        both.asks(&["oneway", "a", "told alone"], &["told"])?;
        both.link
            .until("a oneway", |link| link.heard.iter().any(|text| text == "told alone"))
    });
    case("two-hundred-at-once-answered-backwards", &|both| {
        let mut numbers = Vec::new();
        for at in 0..200 {
            numbers.push(both.java.order(&["sync", "a", "10000", &format!("hold:{at}")])?);
        }
        both.link.until("200 requests", |link| link.held.len() == 200)?;
        while let Some((served, text)) = both.link.held.pop() {
            both.link
                .connection
                .respond(served, Status::Success, string_body(&text))?;
        }
        for (at, number) in numbers.iter().enumerate() {
            let hash = java_hash(&format!("hold:{at}")).to_string();
            let said = both.java.result(number, &mut both.link)?;
            ensure!(said.last() == Some(&hash), "request {at} came to {said:?}");
        }
        Ok(())
    });
    case("timeout-and-a-late-answer", &|both| {
        both.asks(&["sync", "a", "200", "hold:"], &["failure", "InvokeTimeoutException"])?;
        both.link
            .until("the expiry", |link| link.connection.counters().expired_requests == 1)?;
        let (served, text) = both.link.held.remove(0);
        let late = both
            .link
            .connection
            .respond(served, Status::Success, string_body(&text));
        ensure!(late.is_err(), "an expired request was answered");
        both.echoes("sync", "after", "after")
    });
    for (number, _) in STATUSES {
        // Java's own words for what a server says.
        let class = match number {
            4 => "InvokeServerBusyException",
            7 => "InvokeTimeoutException",
            8 => "InvokeSendFailedException",
            9 => "CodecException",
            16 => "ConnectionClosedException",
            17 => "SerializationException",
            18 => "DeserializationException",
            2 => "InvokeServerException",
            _ => "InvokeException",
        };
        case(&format!("status-{number}"), &|both| {
            both.asks(
                &["sync", "a", "10000", &format!("status:{number}")],
                &["failure", class],
            )
        });
    }
    case("heartbeats-are-answered", &|both| {
        let before = both.link.connection.counters().heartbeats_answered;
        let enough = |link: &Link| link.connection.counters().heartbeats_answered >= before + 8;
        both.link.until("8 heartbeats", enough)?;
        both.asks(&["alive", "a"], &["alive", "true"])
    });
    case("asked-back", &|both| {
        let call = both.link.call("from the server", 10 * SECOND)?;
        let answer = both.link.answer(call)?;
        ensure!(answer == "from the server", "{answer}");
        Ok(())
    });
    case("told-back", &|both| {
        both.link.connection.oneway(Codec::HESSIAN2, string_body("pushed"))?;
        loop {
            let heard = both.java.wait("0", "heard", Some(&mut both.link))?;
            if heard[2] == java_hash("pushed").to_string() {
                return Ok(());
            }
        }
    });
    case("asked-back-and-it-throws", &|both| {
        let call = both.link.call("throw:no", 10 * SECOND)?;
        match both.link.outcome(call)? {
            Outcome::Answer {
                status: Status::ServerException,
                body,
                ..
            } => {
                let class = body.class_name()?;
                ensure!(
                    class == "com.alipay.remoting.rpc.exception.RpcServerException",
                    "{class}"
                );
                Ok(())
            }
            other => anyhow::bail!("{other:?}"),
        }
    });
    case("drain", &|both| {
        let number = both.java.order(&["sync", "a", "10000", "hold:last"])?;
        both.link.until("the last request", |link| !link.held.is_empty())?;
        let now = both.link.now();
        both.link.connection.drain(5 * SECOND, now);
        both.asks(
            &["sync", "a", "10000", "more"],
            &["failure", "InvokeServerBusyException"],
        )?;
        let (served, text) = both.link.held.remove(0);
        both.link
            .connection
            .respond(served, Status::Success, string_body(&text))?;
        let start = Instant::now();
        while both.link.closed.is_none() {
            ensure!(start.elapsed() < PATIENCE, "it does not close");
            both.link.pump(Duration::from_millis(5))?;
        }
        ensure!(both.link.closed == Some(CloseReason::Drained), "{:?}", both.link.closed);
        let said = both.java.result(&number, &mut both.link)?;
        ensure!(said[0] == "answer", "the last request came to {said:?}");
        Ok(())
    });
    // What Java's own decoder breaks over, which is why it is never sent.
    case("java-breaks-over-a-status-that-is-not-listed", &|both| {
        let mut link = connect(&mut both.java, query, "b")?;
        let number = both.java.order(&["sync", "b", "10000", "hold:"])?;
        link.until("a request", |link| !link.held.is_empty())?;
        let (served, _) = link.held.remove(0);
        let mut bytes = BytesMut::new();
        let command = Command::Response {
            status: Status::Success,
            body: Body::EMPTY,
        };
        let (version, switch) = (spoken.0, Switch::NONE);
        Frame::new(version, switch, served.request_id(), command).encode(&mut bytes)?;
        let at = if version == Version::V1 { 10 } else { 12 };
        bytes[at..at + 2].copy_from_slice(&[0, 0x13]);
        link.write_raw(&bytes)?;
        let said = both.java.result(&number, &mut link)?;
        ensure!(said[0] == "failure", "{said:?}");
        // The end of the call may be told before the end of the connection is seen.
        let start = Instant::now();
        while link.closed.is_none() {
            ensure!(start.elapsed() < PATIENCE, "java does not close");
            link.pump(Duration::from_millis(5))?;
        }
        ensure!(link.closed == Some(CloseReason::Transport), "{:?}", link.closed);
        Ok(())
    });
    Ok(())
}
