//! Documents from bytes and into bytes, without recursion: a deep value costs heap, never stack.

use std::collections::BTreeMap;

use bytes::BytesMut;

use crate::{
    Class, ClassId, DecodeOptions, Dialect, Document, DocumentClass, HessianDecode, HessianEncode, HessianError,
    Library, List, ListHead, Map, MapHead, Node, NodeId, Object, ObjectHead, Reader, RefId, Text, Token, Value, Writer,
    reader::Place,
};

impl<'a> Document<'a> {
    /// Reads all of `bytes`, which hold one value or several that share their tables.
    pub fn decode(bytes: &'a [u8], options: &DecodeOptions) -> Result<Document<'a>, HessianError> {
        let mut reader = Reader::new(bytes, options)?;
        let mut builder = Builder::new(&reader);
        while !reader.is_at_end() {
            let first = reader.token()?;
            let root = builder.value(first, &mut reader)?;
            builder.document.roots.push(root);
        }
        Ok(builder.document)
    }

    /// Reads the next value of `reader` as a document of one root. What it refers to outside of itself is read again
    /// into the document.
    pub fn read(reader: &mut Reader<'a, '_>) -> Result<Document<'a>, HessianError> {
        Document::decode_next(reader)
    }

    /// The bytes of all roots as one message.
    ///
    /// # Errors
    /// What [`write`](Document::write) may answer.
    pub fn encode(&self, dialect: Dialect) -> Result<BytesMut, HessianError> {
        self.encode_with(dialect, Library::default())
    }

    /// As [`encode`](Document::encode), with a choice of how binaries are cut.
    pub fn encode_with(&self, dialect: Dialect, library: Library) -> Result<BytesMut, HessianError> {
        let mut out = BytesMut::new();
        self.write(&mut Writer::with_library(dialect, library, &mut out))?;
        Ok(out)
    }

    /// Writes all roots. A node is written where it is met first and referred to afterwards.
    ///
    /// # Errors
    /// A value that names a node or class that is not in this document, an object with more or fewer fields than its
    /// class, a length that the encoding cannot say.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        let mut state = Writing {
            document: self,
            references: vec![None; self.nodes.len()],
            classes: vec![None; self.classes.len()],
            open: Vec::new(),
        };
        self.roots.iter().try_for_each(|root| state.value(root, writer))
    }
}

impl<'a> HessianDecode<'a> for Document<'a> {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<Document<'a>, HessianError> {
        let first = match &token {
            Token::List(head) => head.reference.index(),
            Token::Map(head) => head.reference.index(),
            Token::Object(head) => head.reference.index(),
            _ => reader.references(),
        };
        let mut builder = Builder::from(first);
        let root = builder.value(token, reader)?;
        builder.document.roots.push(root);
        Ok(builder.document)
    }
}

impl HessianEncode for Document<'_> {
    /// Writes the only root, or null for a document without values.
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        match self.roots.len() {
            0 => {
                writer.null();
                Ok(())
            }
            1 => self.write(writer),
            length => Err(HessianError::TooLong {
                what: "document as one value",
                length,
                max: 1,
                unit: "values",
            }),
        }
    }
}

/// A list, map or object whose contents are being read.
enum Open<'a> {
    List(NodeId, ListHead),
    /// With the key that waits for its value.
    Map(NodeId, MapHead, Option<Value<'a>>),
    Object(NodeId, ObjectHead, usize),
    /// Something before this document's own part of the message is read again; afterwards it goes on here.
    Again(Place),
}

struct Builder<'a> {
    document: Document<'a>,
    /// Where this document begins among the message's references, and the nodes of those from there on.
    first: usize,
    nodes: Vec<Option<NodeId>>,
    /// The nodes of references before that.
    earlier: BTreeMap<RefId, NodeId>,
    classes: Vec<Option<DocumentClass>>,
}

impl<'a> Builder<'a> {
    fn new(reader: &Reader<'a, '_>) -> Builder<'a> {
        Builder::from(reader.references())
    }

    /// For values whose references begin at `first`.
    fn from(first: usize) -> Builder<'a> {
        Builder {
            document: Document::new(),
            first,
            nodes: Vec::new(),
            earlier: BTreeMap::new(),
            classes: Vec::new(),
        }
    }

    /// The value that begins with the token `first`, which was just read.
    fn value(&mut self, first: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<Value<'a>, HessianError> {
        let mut open: Vec<Open<'a>> = Vec::new();
        let mut token = first;
        loop {
            let mut is_complete = true;
            let mut value = match token {
                Token::Null => Value::Null,
                Token::Bool(value) => Value::Bool(value),
                Token::Int(value) => Value::Int(value),
                Token::Long(value) => Value::Long(value),
                Token::Double(value) => Value::Double(value),
                Token::Date(millis) => Value::Date(millis),
                Token::String(Text::Str(text)) => Value::String(text),
                Token::String(Text::Utf16(units)) => Value::Utf16(units),
                Token::Binary(bytes) => Value::Binary(bytes),
                Token::Ref(reference) => match self.node_of(reference) {
                    Some(id) => Value::Node(id),
                    None => {
                        open.push(Open::Again(reader.rewind(reference)?));
                        token = reader.token()?;
                        continue;
                    }
                },
                Token::List(head) => {
                    let items = Vec::with_capacity(reader.reserve(head.len, size_of::<Value<'_>>()));
                    let node = Node::List(List {
                        type_name: head.type_name.map(|name| reader.type_text(name)),
                        is_variable: head.len.is_none(),
                        items,
                    });
                    let id = self.add(head.reference, node);
                    open.push(Open::List(id, head));
                    is_complete = false;
                    Value::Node(id)
                }
                Token::Map(head) => {
                    let node = Node::Map(Map {
                        type_name: head.type_name.map(|name| reader.type_text(name)),
                        entries: Vec::new(),
                    });
                    let id = self.add(head.reference, node);
                    open.push(Open::Map(id, head, None));
                    is_complete = false;
                    Value::Node(id)
                }
                Token::Object(head) => {
                    let class = self.class(head.class, reader);
                    let count = reader.field_count(head.class);
                    let fields = Vec::with_capacity(reader.reserve(Some(count), size_of::<Value<'_>>()));
                    let id = self.add(head.reference, Node::Object(Object { class, fields }));
                    open.push(Open::Object(id, head, count));
                    is_complete = false;
                    Value::Node(id)
                }
            };
            loop {
                let Some(parent) = open.last_mut() else {
                    return Ok(value);
                };
                if is_complete {
                    match parent {
                        Open::List(id, _) => match &mut self.document.nodes[id.0 as usize] {
                            Node::List(list) => list.items.push(value),
                            _ => unreachable!("the node was made as a list"),
                        },
                        Open::Map(id, _, key) => match key.take() {
                            None => *key = Some(value),
                            Some(key) => match &mut self.document.nodes[id.0 as usize] {
                                Node::Map(map) => map.entries.push((key, value)),
                                _ => unreachable!("the node was made as a map"),
                            },
                        },
                        Open::Object(id, ..) => match &mut self.document.nodes[id.0 as usize] {
                            Node::Object(object) => object.fields.push(value),
                            _ => unreachable!("the node was made as an object"),
                        },
                        Open::Again(place) => {
                            reader.resume(*place);
                            open.pop();
                            continue;
                        }
                    }
                }
                let (ended, has_more) = match open.last_mut() {
                    Some(Open::List(id, head)) => {
                        let Node::List(list) = &mut self.document.nodes[id.0 as usize] else {
                            unreachable!("the node was made as a list")
                        };
                        let has_more = loop {
                            if !reader.next_item(head)? {
                                break false;
                            }
                            match quick_scalar(reader) {
                                Some(item) => list.items.push(item),
                                None => break true,
                            }
                        };
                        (*id, has_more)
                    }
                    Some(Open::Map(id, head, key)) => (*id, key.is_some() || reader.next_entry(head)?),
                    Some(Open::Object(id, head, left)) => {
                        let Node::Object(object) = &mut self.document.nodes[id.0 as usize] else {
                            unreachable!("the node was made as an object")
                        };
                        let has_more = loop {
                            if *left == 0 {
                                reader.end_object(head);
                                break false;
                            }
                            *left -= 1;
                            match quick_scalar(reader) {
                                Some(field) => object.fields.push(field),
                                None => break true,
                            }
                        };
                        (*id, has_more)
                    }
                    Some(Open::Again(_)) | None => unreachable!("taken off above"),
                };
                if has_more {
                    break;
                }
                open.pop();
                value = Value::Node(ended);
                is_complete = true;
            }
            token = reader.token()?;
        }
    }

    fn node_of(&self, reference: RefId) -> Option<NodeId> {
        match reference.index().checked_sub(self.first) {
            Some(index) => self.nodes.get(index).copied().flatten(),
            None => self.earlier.get(&reference).copied(),
        }
    }

    fn add(&mut self, reference: RefId, node: Node<'a>) -> NodeId {
        let id = NodeId(self.document.nodes.len() as u32);
        self.document.nodes.push(node);
        match reference.index().checked_sub(self.first) {
            Some(index) => {
                if self.nodes.len() <= index {
                    self.nodes.resize(index + 1, None);
                }
                self.nodes[index] = Some(id);
            }
            None => {
                self.earlier.insert(reference, id);
            }
        }
        id
    }

    fn class(&mut self, class: ClassId, reader: &Reader<'a, '_>) -> DocumentClass {
        if self.classes.len() <= class.index() {
            self.classes.resize(class.index() + 1, None);
        }
        if let Some(known) = self.classes[class.index()] {
            return known;
        }
        let id = DocumentClass(self.document.classes.len() as u32);
        self.document.classes.push(Class {
            name: reader.class_name(class),
            fields: reader.field_names(class).collect(),
        });
        self.classes[class.index()] = Some(id);
        id
    }
}

/// The next value, when it is one of those that most messages are made of.
fn quick_scalar<'a>(reader: &mut Reader<'a, '_>) -> Option<Value<'a>> {
    if let Some(value) = reader.quick_int() {
        return Some(Value::Int(value));
    }
    if let Some(text) = reader.quick_str() {
        return Some(Value::String(text.into()));
    }
    if let Some(value) = reader.quick_long() {
        return Some(Value::Long(value));
    }
    if let Some(value) = reader.quick_double() {
        return Some(Value::Double(value));
    }
    if let Some(value) = reader.quick_bool() {
        return Some(Value::Bool(value));
    }
    reader.quick_null().then_some(Value::Null)
}

/// A node whose contents are being written, and how many of them were.
struct OpenNode<'d, 'a> {
    node: &'d Node<'a>,
    next: usize,
    end: Option<crate::ListEnd>,
}

struct Writing<'d, 'a> {
    document: &'d Document<'a>,
    references: Vec<Option<RefId>>,
    classes: Vec<Option<u32>>,
    open: Vec<OpenNode<'d, 'a>>,
}

impl<'d, 'a> Writing<'d, 'a> {
    fn value(&mut self, root: &'d Value<'a>, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        self.begin(root, writer)?;
        while let Some(open) = self.open.last_mut() {
            let index = open.next;
            open.next += 1;
            let next = match open.node {
                Node::List(list) => list.items.get(index),
                Node::Map(map) => map.entries.get(index / 2).map(|(key, value)| match index % 2 {
                    0 => key,
                    _ => value,
                }),
                Node::Object(object) => object.fields.get(index),
            };
            if let Some(value) = next {
                self.begin(value, writer)?;
                continue;
            }
            match (open.node, open.end) {
                (Node::List(_), Some(end)) => writer.end_list(end),
                (Node::Map(_), _) => writer.end_map(),
                _ => {}
            }
            self.open.pop();
        }
        Ok(())
    }

    /// Writes a value, of a node only its head.
    fn begin(&mut self, value: &'d Value<'a>, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        let Some(id) = scalar(value, writer) else {
            return Ok(());
        };
        let index = id.0 as usize;
        let Some(node) = self.document.nodes.get(index) else {
            return Err(HessianError::UnknownNode { node: id.0 });
        };
        if let Some(reference) = self.references[index] {
            writer.reference(reference);
            return Ok(());
        }
        let mut end = None;
        // A definition comes before the object and takes no number of its own.
        match node {
            Node::List(list) => {
                self.references[index] = Some(writer.next_reference());
                let len = (!list.is_variable).then_some(list.items.len());
                end = Some(writer.begin_list(list.type_name.as_deref(), len)?);
            }
            Node::Map(map) => {
                self.references[index] = Some(writer.next_reference());
                writer.begin_map(map.type_name.as_deref())?;
            }
            Node::Object(object) => {
                let class = self.class(object, writer)?;
                self.references[index] = Some(writer.next_reference());
                writer.begin_instance(class);
            }
        }
        self.open.push(OpenNode { node, next: 0, end });
        Ok(())
    }

    fn class(&mut self, object: &Object<'a>, writer: &mut Writer<'_>) -> Result<u32, HessianError> {
        let index = object.class.0 as usize;
        let Some(class) = self.document.classes.get(index) else {
            return Err(HessianError::UnknownNode { node: object.class.0 });
        };
        if object.fields.len() != class.fields.len() {
            return Err(HessianError::FieldCount {
                class: class.name.as_ref().into(),
                given: object.fields.len(),
                expected: class.fields.len(),
            });
        }
        if let Some(known) = self.classes[index] {
            return Ok(known);
        }
        let fields = class.fields.iter().map(|field| field.as_ref());
        let defined = writer.define_class(&class.name, fields);
        self.classes[index] = Some(defined);
        Ok(defined)
    }
}

/// Writes a value that is complete in itself, or names the node that it is.
fn scalar(value: &Value<'_>, writer: &mut Writer<'_>) -> Option<NodeId> {
    match value {
        Value::Null => writer.null(),
        Value::Bool(value) => writer.bool(*value),
        Value::Int(value) => writer.int(*value),
        Value::Long(value) => writer.long(*value),
        Value::Double(value) => writer.double(*value),
        Value::Date(millis) => writer.date(*millis),
        Value::String(text) => writer.string(text),
        Value::Utf16(units) => writer.utf16(units),
        Value::Binary(bytes) => writer.binary(bytes),
        Value::Node(id) => return Some(*id),
    }
    None
}
