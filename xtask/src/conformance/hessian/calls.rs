//! Values in the words of the Java side's recorder: which calls its serializers made, with no byte of either encoding.
//!
//! `N` null, `T` `F`, `I5`, `L5`, `D` and the bits of a double, `A` and milliseconds, `S` and UTF-16 units, `Y` and
//! bytes; `[length:type … ]`, `{type … }`; `Cname,field,…` defines a class, `O0` begins an object of the class of that
//! index; `R0` is the list, map or object of that number again. All text is written as hex.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};
use settle_hessian::{Class, Document, DocumentClass, List, Map, Node, NodeId, Object, Value};

/// The calls that would write all values of `document`.
pub fn of(document: &Document<'_>) -> String {
    let mut state = Telling {
        document,
        out: String::new(),
        numbers: Vec::new(),
        classes: Vec::new(),
        open: Vec::new(),
    };
    document.roots().iter().for_each(|root| state.tell(root));
    state.out
}

struct Telling<'d, 'a> {
    document: &'d Document<'a>,
    out: String,
    /// In the order of their numbers.
    numbers: Vec<NodeId>,
    classes: Vec<DocumentClass>,
    open: Vec<(&'d Node<'a>, usize)>,
}

impl<'d, 'a> Telling<'d, 'a> {
    fn note(&mut self, call: std::fmt::Arguments<'_>) {
        if !self.out.is_empty() {
            self.out.push(' ');
        }
        self.out.write_fmt(call).expect("writing into a string does not fail");
    }

    fn tell(&mut self, root: &'d Value<'a>) {
        let mut numbers = std::collections::BTreeMap::new();
        for (number, id) in self.numbers.iter().enumerate() {
            numbers.insert(*id, number);
        }
        self.begin(root, &mut numbers);
        while let Some((node, next)) = self.open.last_mut() {
            let (node, index) = (*node, *next);
            *next += 1;
            let value = match node {
                Node::List(list) => list.items.get(index),
                Node::Map(map) => map.entries.get(index / 2).map(|(key, value)| [key, value][index % 2]),
                Node::Object(object) => object.fields.get(index),
            };
            if let Some(value) = value {
                self.begin(value, &mut numbers);
                continue;
            }
            self.open.pop();
            match node {
                Node::List(_) => self.note(format_args!("]")),
                Node::Map(_) => self.note(format_args!("}}")),
                Node::Object(_) => {}
            }
        }
    }

    fn begin(&mut self, value: &'d Value<'a>, numbers: &mut std::collections::BTreeMap<NodeId, usize>) {
        let id = match value {
            Value::Null => return self.note(format_args!("N")),
            Value::Bool(true) => return self.note(format_args!("T")),
            Value::Bool(false) => return self.note(format_args!("F")),
            Value::Int(value) => return self.note(format_args!("I{value}")),
            Value::Long(value) => return self.note(format_args!("L{value}")),
            Value::Double(value) => return self.note(format_args!("D{:x}", value.to_bits())),
            Value::Date(millis) => return self.note(format_args!("A{millis}")),
            Value::String(text) => return self.note(format_args!("S{}", hex_text(text))),
            Value::Utf16(units) => return self.note(format_args!("S{}", hex_units(units.iter().copied()))),
            Value::Binary(bytes) => return self.note(format_args!("Y{}", hex(bytes))),
            Value::Node(id) => *id,
        };
        if let Some(number) = numbers.get(&id) {
            return self.note(format_args!("R{number}"));
        }
        numbers.insert(id, self.numbers.len());
        self.numbers.push(id);
        let node = self.document.node(id);
        match node {
            Node::List(list) => {
                let length = if list.is_variable { -1 } else { list.items.len() as i64 };
                match &list.type_name {
                    None => self.note(format_args!("[{length}")),
                    Some(name) => self.note(format_args!("[{length}:{}", hex_text(name))),
                }
            }
            Node::Map(map) => {
                let name = map.type_name.as_deref().unwrap_or("");
                self.note(format_args!("{{{}", hex_text(name)));
            }
            Node::Object(object) => {
                let class = self.document.class_of(object);
                let known = self
                    .classes
                    .iter()
                    .position(|known| self.document.class(*known) == class);
                let index = known.unwrap_or_else(|| {
                    let mut definition = hex_text(&class.name);
                    for field in &class.fields {
                        definition.push(',');
                        definition.push_str(&hex_text(field));
                    }
                    self.note(format_args!("C{definition}"));
                    self.classes.push(object.class);
                    self.classes.len() - 1
                });
                self.note(format_args!("O{index}"));
            }
        }
        self.open.push((node, 0));
    }
}

/// A document that would be written by these calls; the opposite of [`of`].
pub fn document(calls: &str) -> Result<Document<'static>> {
    let mut document = Document::new();
    let mut numbers = Vec::new();
    let mut classes = Vec::new();
    // What is open: the node and how many values are still to come, where that is known.
    let mut open: Vec<(Value<'static>, Option<usize>)> = Vec::new();
    for call in calls.split(' ') {
        let (kind, rest) = call
            .split_at_checked(1)
            .with_context(|| format!("read the call {call:?}"))?;
        let mut opens = None;
        let value = match kind {
            "N" => Value::Null,
            "T" => Value::Bool(true),
            "F" => Value::Bool(false),
            "I" => Value::Int(rest.parse()?),
            "L" => Value::Long(rest.parse()?),
            "D" => Value::Double(f64::from_bits(u64::from_str_radix(rest, 16)?)),
            "A" => Value::Date(rest.parse()?),
            "S" => {
                let units = units(rest)?;
                match String::from_utf16(&units) {
                    Ok(text) => Value::from(text),
                    Err(_) => Value::Utf16(units),
                }
            }
            "Y" => Value::Binary(bytes(rest)?.into()),
            "[" => {
                let (length, name) = match rest.split_once(':') {
                    Some((length, name)) => (length, Some(text(name)?.into())),
                    None => (rest, None),
                };
                opens = Some(None);
                document.add(Node::List(List {
                    type_name: name,
                    is_variable: length == "-1",
                    items: Vec::new(),
                }))
            }
            "{" => {
                opens = Some(None);
                let name = text(rest)?;
                document.add(Node::Map(Map {
                    type_name: (!name.is_empty()).then(|| name.into()),
                    entries: Vec::new(),
                }))
            }
            "C" => {
                let mut names = rest.split(',').map(text);
                let name = names.next().context("a class has a name")??.into();
                let fields = names.map(|name| Ok(name?.into())).collect::<Result<_>>()?;
                classes.push(document.add_class(Class { name, fields }));
                continue;
            }
            "O" => {
                let class = *classes.get(rest.parse::<usize>()?).context("the class was defined")?;
                opens = Some(Some(document.class(class).fields.len()));
                let fields = Vec::new();
                document.add(Node::Object(Object { class, fields }))
            }
            "R" => {
                let number: usize = rest.parse()?;
                numbers.get(number).cloned().context("the number was given out")?
            }
            "]" | "}" => {
                let (value, left) = open.pop().context("something is open")?;
                ensure!(left.is_none(), "an object is closed by its last field");
                put(&mut document, &mut open, value)?;
                continue;
            }
            _ => bail!("the call {call:?} is not known"),
        };
        match opens {
            None => put(&mut document, &mut open, value)?,
            Some(left) => {
                numbers.push(value.clone());
                open.push((value, left));
                close(&mut document, &mut open)?;
            }
        }
    }
    ensure!(open.is_empty(), "something was not closed");
    Ok(document)
}

/// Puts a value that is complete into what is open, which may complete that.
fn put(
    document: &mut Document<'static>,
    open: &mut Vec<(Value<'static>, Option<usize>)>,
    value: Value<'static>,
) -> Result<()> {
    let Some((around, left)) = open.last_mut() else {
        document.push(value);
        return Ok(());
    };
    let Value::Node(id) = *around else {
        bail!("only nodes are open");
    };
    match document.node_mut(id) {
        Node::List(list) => list.items.push(value),
        Node::Map(map) => match map.entries.last_mut() {
            Some((_, slot @ Value::Utf16(_))) if *slot == waiting() => *slot = value,
            _ => map.entries.push((value, waiting())),
        },
        Node::Object(object) => object.fields.push(value),
    }
    if let Some(left) = left {
        *left -= 1;
    }
    close(document, open)
}

/// Stands where the value of a key will be: a text that no string has, since it is empty and yet no text.
fn waiting() -> Value<'static> {
    Value::Utf16(Vec::new())
}

/// Closes an object that has all its fields.
fn close(document: &mut Document<'static>, open: &mut Vec<(Value<'static>, Option<usize>)>) -> Result<()> {
    if let Some((_, Some(0))) = open.last() {
        let (value, _) = open.pop().context("something is open")?;
        put(document, open, value)?;
    }
    Ok(())
}

fn hex_text(text: &str) -> String {
    hex_units(text.encode_utf16())
}

fn hex_units(units: impl Iterator<Item = u16>) -> String {
    let mut out = String::new();
    for unit in units {
        out.write_fmt(format_args!("{unit:04x}"))
            .expect("writing into a string does not fail");
    }
    out
}

/// `bytes` as hex.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        out.write_fmt(format_args!("{byte:02x}"))
            .expect("writing into a string does not fail");
    }
    out
}

/// The bytes that `hex` says.
pub fn bytes(hex: &str) -> Result<Vec<u8>> {
    ensure!(
        hex.len().is_multiple_of(2) && hex.is_ascii(),
        "hex has two digits per byte"
    );
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).context("read hex"))
        .collect()
}

fn units(hex: &str) -> Result<Vec<u16>> {
    let bytes = bytes(hex)?;
    ensure!(bytes.len().is_multiple_of(2), "a unit has four digits");
    Ok(bytes
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect())
}

fn text(hex: &str) -> Result<String> {
    String::from_utf16(&units(hex)?).context("a name is text")
}
