//! `cargo bench -p xtask --bench bolt`: what a frame costs to write and to read, and a whole call through two
//! connections, with SOFARPC's content and without; and how many allocations each makes. It is here since the codec's
//! own crate may not read a clock.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "../allocations/mod.rs"]
mod allocations;

use std::{hint::black_box, time::Duration};

use allocations::allocations;
use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use settle_base::Mono;
use settle_bolt::{
    Body, Codec, Command, Config, Connection, Event, Frame, FrameDecoder, HeaderMap, Limits, Outcome, Status, Switch,
    Version,
};
use settle_hessian::{DecodeOptions, Dialect};
use settle_sofarpc_wire::{Answer, Request, Response};

const SECOND: Duration = Duration::from_secs(1);

/// A request of SOFARPC's size with `content` bytes.
fn body(content: usize) -> Body {
    let mut header = HeaderMap::new();
    header.push("service", "com.example.Greeter:1.0");
    header.push("sofa_head_method_name", "sayHello");
    header.push("sofa_head_target_service", "com.example.Greeter:1.0");
    Body {
        class: Bytes::from_static(b"com.alipay.sofa.rpc.core.request.SofaRequest"),
        header: header.encode().unwrap(),
        content: vec![7; content].into(),
    }
}

fn one<T>(group: &mut BenchmarkGroup<'_, WallTime>, counts: &mut Vec<String>, name: &str, mut work: impl FnMut() -> T) {
    work();
    counts.push(format!("{name} {}", allocations(&mut work)));
    group.bench_function(name, |bencher| bencher.iter(&mut work));
}

fn frames(criterion: &mut Criterion) {
    let versions = [
        ("v1", Version::V1, Switch::NONE),
        ("v2", Version::V2Plain, Switch::NONE),
        ("v2 checked", Version::V2Checked, Switch::CHECKSUM),
    ];
    for content in [100, 4096, 65_536] {
        let mut group = criterion.benchmark_group(format!("frame of {content} bytes"));
        group.sample_size(20);
        group.warm_up_time(Duration::from_millis(300));
        group.measurement_time(Duration::from_millis(700));
        let mut counts = Vec::new();
        for (name, version, switch) in versions {
            let command = Command::Request {
                timeout_ms: 3_000,
                body: body(content),
            };
            let frame = Frame::new(version, switch, 1, command);
            let mut out = BytesMut::new();
            frame.encode(&mut out).unwrap();
            let bytes = out.split().freeze();
            group.throughput(Throughput::Bytes(bytes.len() as u64));
            one(&mut group, &mut counts, &format!("{name}/encode"), || {
                out.clear();
                frame.encode(&mut out).unwrap();
                out.len()
            });
            // The copy into the buffer is what a transport's read does.
            let decoder = FrameDecoder::new(Limits::DEFAULT);
            let mut input = BytesMut::new();
            one(&mut group, &mut counts, &format!("{name}/decode"), || {
                input.extend_from_slice(&bytes);
                decoder.decode(&mut input).unwrap().unwrap()
            });
        }
        group.finish();
        println!(
            "frame of {content} bytes: allocations per frame: {}\n",
            counts.join(", ")
        );
    }
}

/// One end's bytes into the other's input.
fn carry(from: &mut Connection, input: &mut BytesMut) {
    input.extend_from_slice(from.unsent());
    from.sent(from.unsent().len(), Mono::ZERO);
}

fn calls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("call");
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_millis(700));
    let mut counts = Vec::new();
    let now = Mono::ZERO;
    let (mut client, mut server) = (
        Connection::new(Config::client(), now),
        Connection::new(Config::server(), now),
    );
    let (mut to_client, mut to_server) = (BytesMut::new(), BytesMut::new());
    let mut call = |body: Body, answer: &mut dyn FnMut(&Body) -> Body| {
        client.call(Codec::HESSIAN2, body, SECOND, now).unwrap();
        carry(&mut client, &mut to_server);
        let Some(Event::Request { served, body, .. }) = server.step(&mut to_server, now) else {
            panic!("the request arrives")
        };
        server.respond(served, Status::Success, answer(&body)).unwrap();
        carry(&mut server, &mut to_client);
        match client.step(&mut to_client, now) {
            Some(Event::Done {
                outcome: Outcome::Answer { body, .. },
                ..
            }) => body,
            other => panic!("{other:?} is no answer"),
        }
    };
    let fixed = body(100);
    one(&mut group, &mut counts, "100 bytes there and back", || {
        call(fixed.clone(), &mut Body::clone)
    });

    let options = DecodeOptions::new(Dialect::Sofa3);
    let request = Request {
        method_name: "sayHello".into(),
        target_service_unique_name: "com.example.Greeter:1.0".into(),
        method_arg_sigs: vec!["java.lang.String".into()],
        ..Request::default()
    };
    one(&mut group, &mut counts, "SOFARPC", || {
        let asked = request.to_body(Dialect::Sofa3, &[&"peter"]).unwrap();
        let answered = call(asked, &mut |body| {
            let (_, mut arguments) = Request::read(body, &options).unwrap();
            let name: String = arguments.take().unwrap();
            arguments.finish().unwrap();
            Response::new(Answer::Value(name)).to_body(Dialect::Sofa3).unwrap()
        });
        let response = Response::<String>::read(&answered, &options).unwrap();
        black_box(&response.answer);
    });
    group.finish();
    println!("call: allocations on both sides together: {}\n", counts.join(", "));
}

criterion_group!(benches, frames, calls);
criterion_main!(benches);
