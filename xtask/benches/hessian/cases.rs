//! The messages that are measured; `settle.hessian.Bench` on the Java side makes the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use settle_hessian::{HessianDecode, HessianEncode};

macro_rules! order {
    ($($(#[$on:meta])? $field:ident: $of:ty = $value:expr,)*) => {
        /// The 40 fields of `settle.hessian.Bench$Order` on the Java side, with equal contents. `S` is its text.
        #[derive(Serialize, Deserialize, HessianEncode, HessianDecode)]
        #[hessian(class = "settle.hessian.Bench$Order")]
        pub struct Order<S: Ord> { $($(#[$on])? $field: $of,)* }

        pub fn order() -> Order<String> { Order { $($field: $value,)* } }
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
    #[hessian(java_lang)]
    currency: S = "CNY".to_owned(),
    #[hessian(java_lang)]
    country: S = "China".to_owned(),
    #[hessian(java_lang)]
    city: S = "杭州市".to_owned(),
    #[hessian(java_lang)]
    street: S = "Xixi Road 556".to_owned(),
    #[hessian(java_lang)]
    zip: S = "310013".to_owned(),
    #[hessian(java_lang)]
    name: S = "Zhang San".to_owned(),
    #[hessian(java_lang)]
    phone: S = "+86 571 0000 0000".to_owned(),
    #[hessian(java_lang)]
    mail: S = "zhang.san@example.com".to_owned(),
    #[hessian(java_lang)]
    carrier: S = "express".to_owned(),
    #[hessian(java_lang)]
    tracking: S = "SF1234567890123".to_owned(),
    #[hessian(java_lang)]
    invoice: S = "INV-2026-0000815".to_owned(),
    #[hessian(java_lang)]
    coupon: Option<S> = None,
    #[hessian(java_lang)]
    comment: Option<S> = Some("please ring twice".to_owned()),
    #[hessian(java_lang)]
    trace_id: S = "0a0fe91f1600000000000100112345".to_owned(),
    #[hessian(java_lang)]
    created_by: S = "system".to_owned(),
    #[hessian(java_lang)]
    changed_by: Option<S> = None,
    created_at: i64 = 1_764_000_000_123,
    changed_at: i64 = 1_764_000_360_123,
    paid_at: i64 = 1_764_000_060_000,
    lines: Vec<Line<S>> = lines(),
    tags: Vec<S> = (0..8).map(|tag| format!("tag-{tag}")).collect(),
    quantities: Vec<i32> = (0..20).collect(),
    attributes: BTreeMap<S, S> = (0..10).map(|at| (format!("attribute{at}"), format!("value {at}"))).collect(),
    limits: BTreeMap<S, i64> = (0..5).map(|at| (format!("limit{at}"), at * 1_000)).collect(),
}

#[derive(Serialize, Deserialize, HessianEncode, HessianDecode)]
#[hessian(class = "settle.hessian.Bench$Line")]
pub struct Line<S> {
    #[hessian(java_lang)]
    sku: S,
    #[hessian(java_lang)]
    title: S,
    quantity: i32,
    price: f64,
    weight: f64,
    returnable: bool,
}

fn lines() -> Vec<Line<String>> {
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
pub fn map() -> BTreeMap<String, String> {
    (0..8192)
        .map(|index| (format!("key-{index:060}"), format!("value-{index:058}")))
        .collect()
}

pub fn ints() -> Vec<i32> {
    (0..10_000).map(|index| index % 256).collect()
}
