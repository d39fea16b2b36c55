//! `cargo bench -p xtask --bench hessian`: how fast Hessian is written and read, beside serde_json and bincode, and how
//! many allocations a message costs. It is here since the codec's own crate may not read a clock. Beside Java:
//! `cargo xtask compare hessian`.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "../allocations/mod.rs"]
mod allocations;
mod cases;

use std::{hint::black_box, time::Duration};

use allocations::allocations;
use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::{Serialize, de::DeserializeOwned};
use settle_hessian::{DecodeOptions, Dialect, Document, HessianDecode, HessianEncode, Writer, from_bytes, to_bytes};

fn bench<T>(criterion: &mut Criterion, name: &str, value: T)
where
    T: HessianEncode + for<'a> HessianDecode<'a> + Serialize + DeserializeOwned,
{
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(1));
    let mut counts = Vec::new();
    for dialect in [Dialect::Sofa3, Dialect::Hessian2] {
        let options = DecodeOptions::new(dialect);
        let bytes = to_bytes(dialect, &value).unwrap();
        let label = match dialect {
            Dialect::Sofa3 => "sofa3",
            Dialect::Hessian2 => "hessian2",
        };
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut out = BytesMut::with_capacity(2 * bytes.len());
        let mut encode = || {
            out.clear();
            value.encode(&mut Writer::new(dialect, &mut out)).unwrap();
            out.len()
        };
        counts.push(format!("{label}/encode {}", allocations(&mut encode)));
        group.bench_function(format!("{label}/encode"), |bencher| bencher.iter(&mut encode));
        let decode = || from_bytes::<T>(black_box(&bytes), &options).unwrap();
        counts.push(format!("{label}/decode {}", allocations(decode)));
        group.bench_function(format!("{label}/decode"), |bencher| bencher.iter(decode));
        let document = || Document::decode(black_box(&bytes), &options).unwrap();
        counts.push(format!("{label}/document {}", allocations(document)));
        group.bench_function(format!("{label}/document"), |bencher| bencher.iter(document));
    }

    let json = serde_json::to_vec(&value).unwrap();
    group.throughput(Throughput::Bytes(json.len() as u64));
    let mut out = Vec::with_capacity(2 * json.len());
    let mut encode = || {
        out.clear();
        serde_json::to_writer(&mut out, &value).unwrap();
        out.len()
    };
    counts.push(format!("json/encode {}", allocations(&mut encode)));
    group.bench_function("json/encode", |bencher| bencher.iter(&mut encode));
    let decode = || serde_json::from_slice::<T>(black_box(&json)).unwrap();
    counts.push(format!("json/decode {}", allocations(decode)));
    group.bench_function("json/decode", |bencher| bencher.iter(decode));

    let packed = bincode::serialize(&value).unwrap();
    group.throughput(Throughput::Bytes(packed.len() as u64));
    let mut out = Vec::with_capacity(2 * packed.len());
    let mut encode = || {
        out.clear();
        bincode::serialize_into(&mut out, &value).unwrap();
        out.len()
    };
    counts.push(format!("bincode/encode {}", allocations(&mut encode)));
    group.bench_function("bincode/encode", |bencher| bencher.iter(&mut encode));
    let decode = || bincode::deserialize::<T>(black_box(&packed)).unwrap();
    counts.push(format!("bincode/decode {}", allocations(decode)));
    group.bench_function("bincode/decode", |bencher| bencher.iter(decode));
    group.finish();
    println!("{name}: allocations per message: {}\n", counts.join(", "));
}

fn all(criterion: &mut Criterion) {
    bench(criterion, "order", cases::order());
    bench(criterion, "map", cases::map());
    bench(criterion, "ints", cases::ints());
}

criterion_group!(benches, all);
criterion_main!(benches);
