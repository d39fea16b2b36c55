//! What derived code stands on: objects field by field, in the order of their class.

use crate::{ClassId, HessianError, ObjectHead, Reader, Text, Token, Writer, names::Plan};

use super::mismatch;

/// The name of a field in Java, and whether Java's serializers write it among the first: primitives and what is in
/// `java.lang` come before everything else, those of a class before those of its parent.
pub type Field = (&'static str, bool);

/// A class as a derived type knows it.
#[derive(Debug)]
pub struct Shape {
    /// The Java name; where there is a second one, it is what `hessian-lite` calls the class.
    pub classes: &'static [&'static str],
    /// The fields in the order in which Java writes them.
    pub names: &'static [&'static str],
    /// For each of them, its place among the type's own fields followed by those of its parent.
    pub places: &'static [u16],
    /// The names as the definition of the class has them in either dialect; empty when one is not short ASCII.
    pub definition: &'static [u8],
}

/// Writes the fields of a derived type, which may be the parent of another.
pub trait EncodeFields {
    const FIELDS: &'static [Field];

    /// Writes those fields of which [`Field`] says `is_first`.
    fn encode_fields(&self, is_first: bool, writer: &mut Writer<'_>) -> Result<(), HessianError>;
}

/// Reads the fields of a derived type, which may be the parent of another.
pub trait DecodeFields<'a>: Sized {
    type Builder: FieldBuilder<'a, Out = Self>;
    const FIELDS: &'static [Field];
    const SHAPE: &'static Shape;

    /// Reads the fields of an object that has just these, in Java's order.
    fn in_java_order(reader: &mut Reader<'a, '_>) -> Result<Self, HessianError> {
        let mut builder = Self::Builder::default();
        for place in Self::SHAPE.places {
            builder.read(usize::from(*place), reader)?;
        }
        builder.finish()
    }
}

/// A value that gets its fields one by one.
pub trait FieldBuilder<'a>: Default {
    type Out;

    /// Reads the next value into the field at `place` of [`DecodeFields::FIELDS`].
    fn read(&mut self, place: usize, reader: &mut Reader<'a, '_>) -> Result<(), HessianError>;

    fn finish(self) -> Result<Self::Out, HessianError>;
}

/// A type's own fields, then its parent's.
pub const fn joined<const N: usize>(own: &[Field], parent: &[Field]) -> [Field; N] {
    assert!(own.len() + parent.len() == N, "N counts both");
    let mut all = [("", false); N];
    let mut at = 0;
    while at < N {
        all[at] = if at < own.len() {
            own[at]
        } else {
            parent[at - own.len()]
        };
        at += 1;
    }
    all
}

/// For each field in Java's order, its place in `all`.
pub const fn places_in_java_order<const N: usize>(all: &[Field; N]) -> [u16; N] {
    assert!(N <= u16::MAX as usize, "a class has less than 65,536 fields");
    let mut places = [0; N];
    let (mut filled, mut pass) = (0, 0);
    while pass < 2 {
        let mut at = 0;
        while at < N {
            if all[at].1 == (pass == 0) {
                places[filled] = at as u16;
                filled += 1;
            }
            at += 1;
        }
        pass += 1;
    }
    places
}

/// The names of all fields in Java's order.
pub const fn names_in_java_order<const N: usize>(all: &[Field; N]) -> [&'static str; N] {
    let places = places_in_java_order(all);
    let mut names = [""; N];
    let mut at = 0;
    while at < N {
        names[at] = all[places[at] as usize].0;
        at += 1;
    }
    names
}

/// A longer name is written in another form.
pub(crate) const SHORT_NAME: usize = 31;

/// How many bytes [`defined`] makes: none when a name is not short ASCII.
pub const fn defined_len<const N: usize>(all: &[Field; N]) -> usize {
    let (mut len, mut at) = (0, 0);
    while at < N {
        let name = all[at].0;
        if name.len() > SHORT_NAME || !name.is_ascii() {
            return 0;
        }
        len += 1 + name.len();
        at += 1;
    }
    len
}

/// The names as they stand in the definition of a class.
pub const fn defined<const LEN: usize>(names: &[&str]) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let (mut filled, mut at) = (0, 0);
    while LEN > 0 && at < names.len() {
        let name = names[at].as_bytes();
        bytes[filled] = name.len() as u8;
        let mut from = 0;
        while from < name.len() {
            bytes[filled + 1 + from] = name[from];
            from += 1;
        }
        filled += 1 + name.len();
        at += 1;
    }
    bytes
}

/// Reads the next value, in front of which its class may be defined.
pub fn read_next<'a, T: DecodeFields<'a>>(reader: &mut Reader<'a, '_>) -> Result<T, HessianError> {
    if reader.is_before_definition() {
        reader.definition_of(T::SHAPE)?;
    }
    if let Some(class) = reader.quick_object() {
        let reference = reader.enter(reader.token_at)?;
        return read_object(Token::Object(ObjectHead { reference, class }), reader);
    }
    match reader.token()? {
        Token::Ref(reference) => reader.replay(reference, read_next),
        token => read_object(token, reader),
    }
}

/// Makes a derived type of an object of its class, or of a map with the names of its fields as keys. Fields that it
/// does not have are skipped.
pub fn read_object<'a, T: DecodeFields<'a>>(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<T, HessianError> {
    let mut builder;
    match token {
        Token::Object(head) => {
            let plan = reader.plan(head.class, T::SHAPE)?;
            if plan.places.is_none() {
                let value = T::in_java_order(reader)?;
                reader.end_object(&head);
                return Ok(value);
            }
            builder = T::Builder::default();
            for index in 0..reader.field_count(head.class) {
                let place = match plan.places {
                    None => Some(T::SHAPE.places[index]),
                    Some(start) => reader.places[start as usize + index],
                };
                match place {
                    Some(place) => builder.read(usize::from(place), reader)?,
                    None => reader.skip()?,
                }
            }
            reader.end_object(&head);
        }
        Token::Map(head) => {
            builder = T::Builder::default();
            while reader.next_entry(&head)? {
                let place = match reader.token()? {
                    Token::String(Text::Str(name)) => T::FIELDS.iter().position(|(field, _)| *field == name),
                    other => return Err(mismatch("the name of a field", &other, reader)),
                };
                match place {
                    Some(place) => builder.read(place, reader)?,
                    None => reader.skip()?,
                }
            }
        }
        other => return Err(mismatch(T::SHAPE.classes[0], &other, reader)),
    }
    builder.finish()
}

/// The name of a constant of an enum: an object with a name, or only the name.
pub fn read_constant<'a>(
    token: Token<'a>,
    reader: &mut Reader<'a, '_>,
    class: &'static str,
) -> Result<std::borrow::Cow<'a, str>, HessianError> {
    let head = match token {
        Token::String(Text::Str(name)) => return Ok(name),
        Token::Object(head) => head,
        other => return Err(mismatch(class, &other, reader)),
    };
    let found = reader.class_name(head.class);
    // A constant with a body has a class of its own: the enum's name, `$` and a number.
    let is_body = |rest: &str| {
        rest.strip_prefix('$')
            .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if !found
        .strip_prefix(class)
        .is_some_and(|rest| rest.is_empty() || is_body(rest))
    {
        return Err(HessianError::WrongClass {
            at: reader.token_at,
            expected: class,
            found: found.into(),
        });
    }
    let at = reader.field_names(head.class).position(|field| field == "name");
    let Some(at) = at else {
        return Err(HessianError::MissingField { class, field: "name" });
    };
    let mut constant = None;
    for index in 0..reader.field_count(head.class) {
        if index == at {
            constant = Some(super::HessianDecode::decode_next(reader)?);
        } else {
            reader.skip()?;
        }
    }
    reader.end_object(&head);
    Ok(constant.expect("the position is one of the fields"))
}

/// The error for a value that is of no class of an enum's variants.
pub fn no_variant(expected: &'static str, found: &Token<'_>, reader: &Reader<'_, '_>) -> HessianError {
    match found {
        Token::Object(head) => HessianError::WrongClass {
            at: reader.token_at,
            expected,
            found: reader.class_name(head.class).into(),
        },
        other => mismatch(expected, other, reader),
    }
}

impl Reader<'_, '_> {
    /// How the fields of `class` go into a type of this shape. Made once for the objects of a message that meet it.
    #[inline]
    fn plan(&mut self, class: ClassId, shape: &'static Shape) -> Result<Plan, HessianError> {
        match self.classes[class.index()].plan {
            Some(plan) if plan.shape == std::ptr::from_ref(shape).addr() => Ok(plan),
            _ => self.make_plan(class, shape),
        }
    }

    fn make_plan(&mut self, class: ClassId, shape: &'static Shape) -> Result<Plan, HessianError> {
        let found = self.class_name(class);
        if !shape.classes.contains(&found.as_ref()) {
            return Err(HessianError::WrongClass {
                at: self.token_at,
                expected: shape.classes[0],
                found: found.into(),
            });
        }
        let mut at = Some(self.first_field_name(class));
        for name in shape.names {
            at = at.and_then(|from| self.quick_name(from, name));
        }
        let is_java_order = at.is_some() && self.field_count(class) == shape.names.len();
        let places = (!is_java_order).then(|| {
            let start = self.places.len() as u32;
            let found: Vec<Option<u16>> = self
                .field_names(class)
                .map(|found| {
                    let index = shape.names.iter().position(|name| *name == found)?;
                    Some(shape.places[index])
                })
                .collect();
            self.places.extend(found);
            start
        });
        let plan = Plan {
            shape: std::ptr::from_ref(shape).addr(),
            places,
        };
        self.classes[class.index()].plan = Some(plan);
        Ok(plan)
    }
}
