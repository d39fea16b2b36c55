//! `sofa-bolt-node` calls us, and we it. It speaks SOFARPC's content alone.

use std::{
    cell::RefCell,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use settle_bolt::{Codec, Config, HeartbeatConfig, Outcome, Status, Switch, Version};
use settle_hessian::{DecodeOptions, Dialect};
use settle_sofarpc_wire::{Answer, Request, Response, read_server_exception};

use super::{
    Case,
    java::Java,
    link::Link,
    sofarpc_client::{SERVICE, provide},
};
use crate::conformance::{npm, process};

const SECOND: Duration = Duration::from_secs(1);

/// What is spoken, and how the script is told to. It takes the switch for the checksum in both versions of protocol 2,
/// so with `ver1` 1 it is left off.
pub const SPOKEN: [(&str, Version, Switch, [&str; 3]); 3] = [
    ("v1", Version::V1, Switch::NONE, ["bolt", "1", "false"]),
    ("v2", Version::V2Plain, Switch::NONE, ["bolt2", "1", "false"]),
    (
        "v2 checked",
        Version::V2Checked,
        Switch::CHECKSUM,
        ["bolt2", "2", "true"],
    ),
];

/// Brings the package and the script to `out`; gives the script.
pub fn install(root: &Path, out: &Path, version: &str) -> Result<PathBuf> {
    npm::install(out, &[("sofa-bolt-node", version)])?;
    let script = out.join("peer.js");
    std::fs::copy(root.join("conformance/bolt/node/peer.js"), &script)?;
    Ok(script)
}

fn start(script: &Path, role: &str, port: u16, words: [&str; 3]) -> Result<Java> {
    let mut command = Command::new("node");
    command.arg(script).arg(role).arg(port.to_string()).args(words);
    Java::spawn(command)
}

struct Both {
    node: Java,
    link: Link,
}

impl Both {
    fn asks(&mut self, words: &[&str], expected: &[&str]) -> Result<()> {
        let said = self.node.obey(words, &mut self.link)?;
        let fits = said
            .iter()
            .zip(expected)
            .all(|(said, expected)| said.contains(expected));
        ensure!(
            said.len() >= expected.len() && fits,
            "{words:?} came to {said:?} and not {expected:?}"
        );
        Ok(())
    }

    fn call(&mut self, method: &str, text: &str) -> Result<Outcome> {
        let request = Request {
            method_name: method.into(),
            target_service_unique_name: SERVICE.into(),
            method_arg_sigs: vec!["java.lang.String".into()],
            ..Request::default()
        };
        let body = request.to_body(Dialect::Sofa3, &[&text])?;
        let now = self.link.now();
        let call = self.link.connection.call(Codec::HESSIAN2, body, SECOND, now)?;
        self.link.outcome(call)
    }

    fn answer(&mut self, method: &str, text: &str) -> Result<Answer<String>> {
        match self.call(method, text)? {
            Outcome::Answer {
                status: Status::Success,
                body,
                ..
            } => {
                let options = DecodeOptions::new(Dialect::Sofa3);
                Ok(Response::read(&body, &options)?.answer)
            }
            other => bail!("{other:?}"),
        }
    }

    fn echoes(&mut self, text: &str) -> Result<()> {
        let answer = self.answer("echo", text)?;
        ensure!(answer == Answer::Value(text.to_owned()), "{answer:?}");
        Ok(())
    }
}

/// Node's client calls us.
pub fn play_client(script: &Path, spoken: (Version, Switch), words: [&str; 3], case: &mut Case<'_>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut node = start(script, "client", listener.local_addr()?.port(), words)?;
    node.wait("0", "ready", None)?;
    let mut link = Link::new(listener.accept()?.0, Config::server())?;
    link.service = Some(provide);
    let both = RefCell::new(Both { node, link });
    let both = &both;
    let mut case = |name: &str, run: &dyn Fn(&mut Both) -> Result<()>| case(name, &mut || run(&mut both.borrow_mut()));

    case("heartbeat", &|both| both.asks(&["heartbeat", "", ""], &["ack"]));
    case("speaks", &|both| {
        ensure!(
            both.link.connection.speaks() == Some(spoken),
            "{:?}",
            both.link.connection.speaks()
        );
        Ok(())
    });
    case("echo", &|both| {
        both.asks(&["call", "echo", "ü中😀"], &["answer", "ü中😀"])
    });
    case("large", &|both| {
        both.asks(&["call", "echo", "big:200000"], &["answer", "200000 units"])
    });
    case("an-exception-of-the-business", &|both| {
        both.asks(&["call", "fail", "no"], &["failure", "no"])
    });
    case("a-failure-of-the-framework", &|both| {
        both.asks(&["call", "echo", "failure"], &["failure", "of ours"])
    });
    case("busy", &|both| {
        both.asks(&["call", "echo", "busy"], &["failure", "Server exception"])
    });
    case("server-exception", &|both| {
        both.asks(&["call", "echo", "server exception"], &["failure", "[Server] of ours"])
    });
    case("oneway", &|both| {
        both.asks(&["oneway", "echo", "told"], &["told"])?;
        both.asks(&["call", "echo", "after"], &["answer", "after"])?;
        ensure!(both.link.told == 1, "{} were told", both.link.told);
        Ok(())
    });
    Ok(())
}

/// We call node's server.
pub fn play_server(script: &Path, spoken: (Version, Switch), words: [&str; 3], case: &mut Case<'_>) -> Result<()> {
    let port = process::free_ports(1)?[0];
    let mut node = start(script, "server", port, words)?;
    node.wait("0", "ready", None)?;
    let config = Config {
        speaks: Some(spoken),
        heartbeat: Some(HeartbeatConfig {
            interval: Duration::from_millis(100),
            ..HeartbeatConfig::default()
        }),
        ..Config::client()
    };
    let link = Link::new(TcpStream::connect(("127.0.0.1", port))?, config)?;
    let both = RefCell::new(Both { node, link });
    let both = &both;
    let mut case = |name: &str, run: &dyn Fn(&mut Both) -> Result<()>| case(name, &mut || run(&mut both.borrow_mut()));

    case("echo", &|both| both.echoes("ü中😀"));
    case("empty", &|both| both.echoes(""));
    case("large", &|both| both.echoes(&"ü".repeat(200_000)));
    case(
        "an-exception-of-the-business",
        &|both| match both.answer("fail", "no")? {
            Answer::Exception(exception) => {
                let message = exception.message.unwrap_or_default();
                ensure!(message.contains("no"), "{message}");
                Ok(())
            }
            other => bail!("{other:?}"),
        },
    );
    case(
        "a-failure-of-the-framework",
        &|both| match both.call("failure", "no such thing")? {
            Outcome::Answer {
                status: Status::ServerException,
                body,
                ..
            } => {
                let exception = read_server_exception(&body, &DecodeOptions::new(Dialect::Sofa3))?;
                ensure!(
                    exception
                        .message
                        .is_some_and(|message| message.contains("no such thing"))
                );
                Ok(())
            }
            other => bail!("{other:?}"),
        },
    );
    case("timeout-and-what-comes-after", &|both| {
        let outcome = both.call("mute", "x")?;
        ensure!(outcome == Outcome::Timeout, "{outcome:?}");
        both.echoes("after")
    });
    case("heartbeats-are-answered", &|both| {
        let before = both.link.connection.counters().heartbeats_sent;
        both.link.until("3 heartbeats", |link| {
            link.connection.counters().heartbeats_sent >= before + 3
        })?;
        both.echoes("after")?;
        let counters = both.link.connection.counters();
        ensure!(counters.heartbeats_missed == 0, "{counters:?}");
        Ok(())
    });
    Ok(())
}
