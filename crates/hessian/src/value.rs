//! Values of no type known ahead: a document of nodes that may be shared and may hold themselves.

use std::borrow::Cow;

/// A value. Lists, maps and objects are nodes of a [`Document`], so that one may stand in several places and inside
/// itself; nothing owns a node but its document, so nothing leaks.
#[derive(Clone, PartialEq, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    /// Java's `int`, `short` and `byte`.
    Int(i32),
    /// Java's `long`.
    Long(i64),
    /// Java's `double` and `float`.
    Double(f64),
    /// Milliseconds since 1970 in UTC: `java.util.Date`.
    Date(i64),
    /// Java's `String` and `char`.
    String(Cow<'a, str>),
    /// A Java `String` that is no text, since at least one of its surrogates has no partner; its UTF-16 units.
    Utf16(Vec<u16>),
    /// Java's `byte[]`.
    Binary(Cow<'a, [u8]>),
    /// A list, map or object.
    Node(NodeId),
}

/// Names a node of one document.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub(crate) u32);

/// Names a class of one document.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DocumentClass(pub(crate) u32);

/// What has a place of its own.
#[derive(Clone, PartialEq, Debug)]
pub enum Node<'a> {
    List(List<'a>),
    Map(Map<'a>),
    Object(Object<'a>),
}

/// A list or array.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct List<'a> {
    /// `None` is `java.util.ArrayList`; an array is `[int`, `[string`, `[com.example.Order`; else the Java class.
    pub type_name: Option<Cow<'a, str>>,
    /// Whether the length is not told ahead: what Java writes for an iterator.
    pub is_variable: bool,
    pub items: Vec<Value<'a>>,
}

/// A map, its entries in the order of the wire.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Map<'a> {
    /// `None` is `java.util.HashMap`; else the Java class.
    pub type_name: Option<Cow<'a, str>>,
    pub entries: Vec<(Value<'a>, Value<'a>)>,
}

/// An object of a class that need not be known here.
#[derive(Clone, PartialEq, Debug)]
pub struct Object<'a> {
    pub class: DocumentClass,
    /// As many as the class has fields, in their order.
    pub fields: Vec<Value<'a>>,
}

/// A class as its message defines it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Class<'a> {
    /// The Java name, `com.example.Order`.
    pub name: Cow<'a, str>,
    pub fields: Vec<Cow<'a, str>>,
}

/// Values and the nodes that they lead to.
///
/// ```
/// use settle_hessian::{DecodeOptions, Dialect, Document, Value};
///
/// // A map that holds itself under the key "me", twice.
/// let bytes = [b'H', 2, b'm', b'e', 0x51, 0x90, 3, b't', b'o', b'o', 0x51, 0x90, b'Z'];
/// let options = DecodeOptions::new(Dialect::Hessian2);
/// let document = Document::decode(&bytes, &options)?;
/// let [root] = document.roots() else { panic!("one value was read") };
/// let map = document.map(root).expect("it is a map");
/// assert_eq!(map.entries[0].1, *root);
/// assert_eq!(document.encode(Dialect::Hessian2)?, bytes[..]);
/// # Ok::<(), settle_hessian::HessianError>(())
/// ```
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Document<'a> {
    pub(crate) roots: Vec<Value<'a>>,
    pub(crate) nodes: Vec<Node<'a>>,
    pub(crate) classes: Vec<Class<'a>>,
}

impl<'a> Document<'a> {
    /// Without values.
    pub fn new() -> Document<'a> {
        Document::default()
    }

    /// The values that were read or pushed, in order: more than one where a message has several.
    pub fn roots(&self) -> &[Value<'a>] {
        &self.roots
    }

    /// Appends a value to the message.
    pub fn push(&mut self, value: Value<'a>) {
        self.roots.push(value);
    }

    /// The node of this name.
    ///
    /// # Panics
    /// When the name is of another document and too large for this one.
    pub fn node(&self, id: NodeId) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    /// As [`node`](Document::node), to be changed in place.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node<'a> {
        &mut self.nodes[id.0 as usize]
    }

    /// The list that `value` is, if it is one.
    pub fn list(&self, value: &Value<'a>) -> Option<&List<'a>> {
        match value {
            Value::Node(id) => match self.node(*id) {
                Node::List(list) => Some(list),
                _ => None,
            },
            _ => None,
        }
    }

    /// The map that `value` is, if it is one.
    pub fn map(&self, value: &Value<'a>) -> Option<&Map<'a>> {
        match value {
            Value::Node(id) => match self.node(*id) {
                Node::Map(map) => Some(map),
                _ => None,
            },
            _ => None,
        }
    }

    /// The object that `value` is, if it is one.
    pub fn object(&self, value: &Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Node(id) => match self.node(*id) {
                Node::Object(object) => Some(object),
                _ => None,
            },
            _ => None,
        }
    }

    /// The class of this name; panics as [`node`](Document::node) does.
    pub fn class(&self, id: DocumentClass) -> &Class<'a> {
        &self.classes[id.0 as usize]
    }

    /// The class of `object`.
    pub fn class_of(&self, object: &Object<'a>) -> &Class<'a> {
        self.class(object.class)
    }

    /// The field of `object` that is called `name`.
    pub fn field<'d>(&'d self, object: &'d Object<'a>, name: &str) -> Option<&'d Value<'a>> {
        let index = self.class_of(object).fields.iter().position(|field| field == name)?;
        object.fields.get(index)
    }

    /// Adds a node, which belongs to the message once a value leads to it.
    ///
    /// # Panics
    /// At more than 4,294,967,295 nodes.
    pub fn add(&mut self, node: Node<'a>) -> Value<'a> {
        let id = u32::try_from(self.nodes.len()).expect("a document has less than 2^32 nodes");
        self.nodes.push(node);
        Value::Node(NodeId(id))
    }

    /// Adds an untyped list, in Java an `ArrayList`.
    pub fn add_list(&mut self, items: Vec<Value<'a>>) -> Value<'a> {
        self.add(Node::List(List {
            items,
            ..List::default()
        }))
    }

    /// Adds a list of a Java type: a class, or an array such as `[int` or `[string`.
    pub fn add_typed_list(&mut self, type_name: impl Into<Cow<'a, str>>, items: Vec<Value<'a>>) -> Value<'a> {
        self.add(Node::List(List {
            type_name: Some(type_name.into()),
            is_variable: false,
            items,
        }))
    }

    /// Adds an untyped map, in Java a `HashMap`.
    pub fn add_map(&mut self, entries: Vec<(Value<'a>, Value<'a>)>) -> Value<'a> {
        self.add(Node::Map(Map {
            type_name: None,
            entries,
        }))
    }

    /// Adds a map of a Java class.
    pub fn add_typed_map(
        &mut self,
        type_name: impl Into<Cow<'a, str>>,
        entries: Vec<(Value<'a>, Value<'a>)>,
    ) -> Value<'a> {
        self.add(Node::Map(Map {
            type_name: Some(type_name.into()),
            entries,
        }))
    }

    /// Adds a class; the same class again gives the same name again.
    pub fn add_class(&mut self, class: Class<'a>) -> DocumentClass {
        let known = self.classes.iter().position(|known| *known == class);
        let index = known.unwrap_or_else(|| {
            self.classes.push(class);
            self.classes.len() - 1
        });
        DocumentClass(u32::try_from(index).expect("a document has less than 2^32 classes"))
    }

    /// Adds an object of `class`, its fields in the order of the class.
    pub fn add_object(&mut self, class: DocumentClass, fields: Vec<Value<'a>>) -> Value<'a> {
        self.add(Node::Object(Object { class, fields }))
    }

    /// A copy that borrows nothing from the input.
    pub fn into_owned(self) -> Document<'static> {
        Document {
            roots: self.roots.into_iter().map(Value::into_owned).collect(),
            nodes: self.nodes.into_iter().map(Node::into_owned).collect(),
            classes: self
                .classes
                .into_iter()
                .map(|class| Class {
                    name: owned(class.name),
                    fields: class.fields.into_iter().map(owned).collect(),
                })
                .collect(),
        }
    }
}

impl Value<'_> {
    /// A copy that borrows nothing from the input; it names the same node.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Bool(value) => Value::Bool(value),
            Value::Int(value) => Value::Int(value),
            Value::Long(value) => Value::Long(value),
            Value::Double(value) => Value::Double(value),
            Value::Date(value) => Value::Date(value),
            Value::String(text) => Value::String(owned(text)),
            Value::Utf16(units) => Value::Utf16(units),
            Value::Binary(bytes) => Value::Binary(Cow::Owned(bytes.into_owned())),
            Value::Node(id) => Value::Node(id),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Value<'a> {
        Value::String(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::String(Cow::Owned(text))
    }
}

impl Node<'_> {
    fn into_owned(self) -> Node<'static> {
        let all = |values: Vec<Value<'_>>| values.into_iter().map(Value::into_owned).collect();
        match self {
            Node::List(list) => Node::List(List {
                type_name: list.type_name.map(owned),
                is_variable: list.is_variable,
                items: all(list.items),
            }),
            Node::Map(map) => Node::Map(Map {
                type_name: map.type_name.map(owned),
                entries: map
                    .entries
                    .into_iter()
                    .map(|(key, value)| (key.into_owned(), value.into_owned()))
                    .collect(),
            }),
            Node::Object(object) => Node::Object(Object {
                class: object.class,
                fields: all(object.fields),
            }),
        }
    }
}

fn owned(text: Cow<'_, str>) -> Cow<'static, str> {
    Cow::Owned(text.into_owned())
}
