//! `cargo bench -p xtask --bench hessian`: how fast Hessian is written and read, beside serde_json and bincode, and how
//! many allocations a message costs. It is here since the codec's own crate may not read a clock.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::BTreeMap,
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use settle_hessian::{DecodeOptions, Dialect, Document, HessianDecode, HessianEncode, Writer, from_bytes, to_bytes};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations<T>(work: impl FnOnce() -> T) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    black_box(work());
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

macro_rules! order {
    ($($field:ident: $of:ty = $value:expr,)*) => {
        /// The 40 fields of `settle.hessian.Bench$Order` on the Java side, with equal contents.
        #[derive(Serialize, Deserialize, HessianEncode, HessianDecode)]
        #[hessian(class = "settle.hessian.Bench$Order")]
        struct Order { $($field: $of,)* }

        fn order() -> Order { Order { $($field: $value,)* } }
    };
}

order! {
    order_id: i64 = 7_203_685_477_580,
    customer_id: i64 = 4_711,
    version: i32 = 3,
    status: i32 = 200,
    priority: i32 = -1,
    channel: i32 = 12,
    shop_id: i32 = 1_000_001,
    warehouse_id: i32 = 77,
    is_paid: bool = true,
    is_gift: bool = false,
    is_express: bool = true,
    is_test: bool = false,
    total: f64 = 1_234.56,
    discount: f64 = 0.15,
    tax: f64 = 98.0,
    weight: f64 = 2.375,
    currency: String = "CNY".to_owned(),
    country: String = "China".to_owned(),
    city: String = "杭州市".to_owned(),
    street: String = "Xixi Road 556".to_owned(),
    zip: String = "310013".to_owned(),
    name: String = "Zhang San".to_owned(),
    phone: String = "+86 571 0000 0000".to_owned(),
    mail: String = "zhang.san@example.com".to_owned(),
    carrier: String = "express".to_owned(),
    tracking: String = "SF1234567890123".to_owned(),
    invoice: String = "INV-2026-0000815".to_owned(),
    coupon: Option<String> = None,
    comment: Option<String> = Some("please ring twice".to_owned()),
    trace_id: String = "0a0fe91f1600000000000100112345".to_owned(),
    created_by: String = "system".to_owned(),
    changed_by: Option<String> = None,
    created_at: i64 = 1_764_000_000_123,
    changed_at: i64 = 1_764_000_360_123,
    paid_at: i64 = 1_764_000_060_000,
    lines: Vec<Line> = lines(),
    tags: Vec<String> = (0..8).map(|tag| format!("tag-{tag}")).collect(),
    quantities: Vec<i32> = (0..20).collect(),
    attributes: BTreeMap<String, String> = (0..10).map(|at| (format!("attribute{at}"), format!("value {at}"))).collect(),
    limits: BTreeMap<String, i64> = (0..5).map(|at| (format!("limit{at}"), at * 1_000)).collect(),
}

#[derive(Serialize, Deserialize, HessianEncode, HessianDecode)]
#[hessian(class = "settle.hessian.Bench$Line")]
struct Line {
    sku: String,
    title: String,
    quantity: i32,
    price: f64,
    weight: f64,
    returnable: bool,
}

fn lines() -> Vec<Line> {
    (0..10)
        .map(|index| Line {
            sku: format!("SKU-{index:08}"),
            title: format!("An article with a title of some length, number {index}"),
            quantity: index + 1,
            price: f64::from(index) * 19.99,
            weight: 0.25,
            returnable: index % 2 == 0,
        })
        .collect()
}

/// Keys and values of 1 MiB in all.
fn map() -> BTreeMap<String, String> {
    (0..8192)
        .map(|index| (format!("key-{index:060}"), format!("value-{index:058}")))
        .collect()
}

fn ints() -> Vec<i32> {
    (0..10_000).map(|index| index % 256).collect()
}

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
    bench(criterion, "order", order());
    bench(criterion, "map", map());
    bench(criterion, "ints", ints());
}

criterion_group!(benches, all);
criterion_main!(benches);
