//! Values from a seed.

use settle_base::Prng;
use settle_hessian::{Class, Document, Map, Node, Value};

/// What a document may have in it.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Values that stand in several places and inside themselves.
    pub shares: bool,
    /// Maps with keys other than text.
    pub any_key: bool,
    /// Maps of other classes than `HashMap`.
    pub any_map: bool,
    /// The root is an object, and not any value.
    pub is_object: bool,
}

/// Strings and binaries have their chunks and short forms around these lengths.
const TEXT_EDGES: [u64; 5] = [0, 31, 32, 1023, 1024];
const BINARY_EDGES: [u64; 6] = [0, 15, 16, 1023, 1024, 4093];
const CHUNK: u64 = 0x8000;

/// A document of one root.
pub fn document(prng: &mut Prng, shape: Shape) -> Document<'static> {
    let mut made = Made {
        document: Document::new(),
        shape,
        nodes: Vec::new(),
        left: prng.between(1, 40),
    };
    let root = match prng.below(4) {
        _ if shape.is_object => made.object(prng, 0),
        0 => made.value(prng, 0),
        _ => made.node(prng, 0),
    };
    made.document.push(root);
    made.document
}

struct Made {
    document: Document<'static>,
    shape: Shape,
    nodes: Vec<Value<'static>>,
    /// How many values may still be made.
    left: u64,
}

impl Made {
    fn value(&mut self, prng: &mut Prng, depth: u64) -> Value<'static> {
        self.left = self.left.saturating_sub(1);
        match prng.below(12) {
            0 => Value::Null,
            1 => Value::Bool(prng.percent(50)),
            2 => Value::Int(near_an_edge(prng) as i32),
            3 => Value::Long(near_an_edge(prng)),
            4 => Value::Double(double(prng)),
            5 => Value::Date(date(prng)),
            6 | 7 => text(prng),
            8 => binary(prng),
            9 if self.shape.shares && !self.nodes.is_empty() => {
                let index = prng.below(self.nodes.len() as u64);
                self.nodes[index as usize].clone()
            }
            _ if depth < 5 && self.left > 0 => self.node(prng, depth),
            _ => Value::Int(prng.below(100) as i32),
        }
    }

    fn node(&mut self, prng: &mut Prng, depth: u64) -> Value<'static> {
        match prng.below(3) {
            0 => {
                let types = [None, None, Some("[int"), Some("[string"), Some("java.util.LinkedList")];
                let node = match types[prng.below(5) as usize] {
                    None => self.document.add_list(Vec::new()),
                    Some(name) => self.document.add_typed_list(name, Vec::new()),
                };
                self.nodes.push(node.clone());
                let len = match prng.below(10) {
                    0 => prng.between(250, 260),
                    _ => prng.below(10),
                };
                for _ in 0..len {
                    let item = self.value(prng, depth + 1);
                    self.change(&node, |node| match node {
                        Node::List(list) => list.items.push(item),
                        _ => unreachable!("a list was added"),
                    });
                }
                node
            }
            1 => {
                let types = [None, Some("java.util.TreeMap"), Some("java.util.LinkedHashMap")];
                let classes = if self.shape.any_map { 3 } else { 1 };
                let keys = if self.shape.any_key { 3 } else { 1 };
                let node = self.document.add(Node::Map(Map {
                    type_name: types[prng.below(classes) as usize].map(Into::into),
                    entries: Vec::new(),
                }));
                self.nodes.push(node.clone());
                for index in 0..prng.below(5) {
                    let key = match prng.below(keys) {
                        0 => Value::from(format!("key {index} {}", prng.below(1000))),
                        1 => Value::Int(index as i32 * 100),
                        _ => Value::Long(-1 - index as i64 * 5_000),
                    };
                    let value = self.value(prng, depth + 1);
                    self.change(&node, |node| match node {
                        Node::Map(map) => map.entries.push((key, value)),
                        _ => unreachable!("a map was added"),
                    });
                }
                node
            }
            _ => self.object(prng, depth),
        }
    }

    fn object(&mut self, prng: &mut Prng, depth: u64) -> Value<'static> {
        // A class has the same fields wherever it comes up; there are more classes than have a code of one byte.
        let kind = prng.below(20);
        let fields = (0..kind % 5).map(|index| format!("field{index}").into());
        let class = self.document.add_class(Class {
            name: format!("com.example.Kind{kind}").into(),
            fields: fields.collect(),
        });
        let node = self.document.add_object(class, Vec::new());
        self.nodes.push(node.clone());
        for _ in 0..kind % 5 {
            let value = self.value(prng, depth + 1);
            self.change(&node, |node| match node {
                Node::Object(object) => object.fields.push(value),
                _ => unreachable!("an object was added"),
            });
        }
        node
    }

    fn change(&mut self, value: &Value<'static>, change: impl FnOnce(&mut Node<'static>)) {
        let Value::Node(id) = value else {
            unreachable!("only nodes are changed")
        };
        change(self.document.node_mut(*id));
    }
}

/// A whole number close to a power of two, where the forms of ints and longs end.
fn near_an_edge(prng: &mut Prng) -> i64 {
    let near = (1i64 << prng.below(63)).wrapping_add(prng.below(5) as i64 - 2);
    if prng.percent(50) { near } else { near.wrapping_neg() }
}

fn double(prng: &mut Prng) -> f64 {
    let found = match prng.below(5) {
        0 => f64::from(near_an_edge(prng) as i32),
        1 => f64::from(near_an_edge(prng) as i32) * 0.001,
        2 => f64::from(f32::from_bits(prng.next_u64() as u32)),
        3 => near_an_edge(prng) as f64 / 8.0,
        _ => f64::from_bits(prng.next_u64()),
    };
    // There is one zero on the wire, and NaN is no number that could be compared.
    if found.is_nan() || found == 0.0 { 0.0 } else { found }
}

/// Within what JavaScript's dates hold.
fn date(prng: &mut Prng) -> i64 {
    let millis = prng.below(8_000_000_000_000) as i64 - 4_000_000_000_000;
    if prng.percent(50) {
        millis
    } else {
        millis / 60_000 * 60_000
    }
}

fn length(prng: &mut Prng, edges: &[u64]) -> u64 {
    match prng.below(20) {
        0 => CHUNK + prng.below(3) - 1,
        1..=4 => edges[prng.below(edges.len() as u64) as usize] + prng.below(2),
        _ => prng.below(20),
    }
}

fn text(prng: &mut Prng) -> Value<'static> {
    let alphabets: [&[char]; 4] = [
        &['a', 'b', ' ', '"', '\\'],
        &['a', 'é', 'ß', '\u{7ff}'],
        &['中', '文', '\u{ffff}', '\u{800}', 'x'],
        &['😀', 'a', '𝄞', 'é', '\0'],
    ];
    let alphabet = alphabets[prng.below(4) as usize];
    let len = length(prng, &TEXT_EDGES);
    let text: String = (0..len)
        .map(|_| alphabet[prng.below(alphabet.len() as u64) as usize])
        .collect();
    if prng.percent(95) {
        return Value::from(text);
    }
    // A surrogate without its partner.
    let units = text.encode_utf16().chain([0xd800 + prng.below(0x800) as u16, 0x61]);
    Value::Utf16(units.collect())
}

fn binary(prng: &mut Prng) -> Value<'static> {
    let len = length(prng, &BINARY_EDGES);
    let bytes: Vec<u8> = (0..len).map(|_| prng.next_u64() as u8).collect();
    Value::Binary(bytes.into())
}
