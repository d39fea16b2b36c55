//! The tables of a message: definitions of classes, names of types. They hold places in the input, not copies.

use std::borrow::Cow;

use crate::{
    ClassId, HessianError, IndexKind, Limit, Reader, Text, TypeId,
    dialect::Code,
    reader::{unexpected, unknown},
    text::{self, Assembly, chunk},
    typed::{SHORT_NAME, Shape},
};

/// A name whose bytes stay where they are in the message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    at: u32,
    units: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ClassEntry {
    name: Name,
    /// Where the names of the fields begin.
    fields_at: u32,
    pub(crate) fields: u32,
    /// How the fields of the derived type that last met this class are found.
    pub(crate) plan: Option<Plan>,
}

/// Where each field of a class goes in a derived type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The address of the type's shape.
    pub shape: usize,
    /// Where the places begin in the reader's table; `None` when the class has the fields in Java's order, as the
    /// shape tells them.
    pub places: Option<u32>,
}

impl Plan {
    pub fn in_java_order(shape: &'static Shape) -> Plan {
        Plan {
            shape: std::ptr::from_ref(shape).addr(),
            places: None,
        }
    }
}

impl<'a> Reader<'a, '_> {
    /// The Java name of a class of this message.
    pub fn class_name(&self, class: ClassId) -> Cow<'a, str> {
        self.text_of(self.classes[class.index()].name)
    }

    /// How many fields each object of `class` has.
    #[inline]
    pub fn field_count(&self, class: ClassId) -> usize {
        self.classes[class.index()].fields as usize
    }

    /// The names of the fields of `class`, in the order in which the fields of each object follow.
    pub fn field_names(&self, class: ClassId) -> impl Iterator<Item = Cow<'a, str>> + use<'_, 'a> {
        let entry = self.classes[class.index()];
        let mut at = entry.fields_at as usize;
        (0..entry.fields).map(move |_| {
            let (name, end) = self.field_name(at);
            at = end;
            name
        })
    }

    /// Where the name of the first field of `class` stands, for [`field_name`](Reader::field_name).
    pub(crate) fn first_field_name(&self, class: ClassId) -> usize {
        self.classes[class.index()].fields_at as usize
    }

    /// The name of a field that stands at `at`, and where the next one does.
    pub(crate) fn field_name(&self, at: usize) -> (Cow<'a, str>, usize) {
        let (name, end) = self
            .string_name(at)
            .expect("the names were read when the class was defined");
        (self.text_of(name), end)
    }

    /// The Java name of a type of a list or map of this message.
    pub fn type_text(&self, name: TypeId) -> Cow<'a, str> {
        self.text_of(self.types[name.0 as usize])
    }

    pub(crate) fn class_definition(&mut self) -> Result<(), HessianError> {
        self.definition(None)
    }

    /// Takes in the definition that comes next, most likely of a class of this shape.
    pub(crate) fn definition_of(&mut self, shape: &'static Shape) -> Result<(), HessianError> {
        self.at += 1;
        self.definition(Some(shape))
    }

    /// What stands behind the code of a definition.
    fn definition(&mut self, likely: Option<&'static Shape>) -> Result<(), HessianError> {
        let name = if self.is_sofa {
            let at = self.at;
            let units = i64::from(self.int("the length of a class name")?);
            let units = u32::try_from(units).map_err(|_| HessianError::BadLength { at, length: units })?;
            let (name, end) = self.counted_name(self.at, units)?;
            self.at = end;
            name
        } else {
            let (name, end) = self.string_name(self.at)?;
            self.at = end;
            name
        };
        let at = self.at;
        let count = i64::from(self.int("the number of fields of a class")?);
        let fields = u32::try_from(count).map_err(|_| HessianError::BadLength { at, length: count })?;
        let limits = &self.options.limits;
        if fields > limits.class_fields {
            return Err(self.over(Limit::ClassFields, u64::from(limits.class_fields)));
        }
        let fields_at = self.at as u32;
        if (self.classes_at as usize) < self.classes.len() {
            // Read again: all of it is known and was checked.
            for _ in 0..fields {
                (_, self.at) = self.string_name(self.at)?;
            }
            self.classes_at += 1;
            return Ok(());
        }
        if self.classes_at >= limits.class_definitions {
            return Err(self.over(Limit::ClassDefinitions, u64::from(limits.class_definitions)));
        }
        let class = self.text_of(name);
        self.options.class_names.check(&class)?;
        // Found in one comparison what is else found name by name, here and in the plan.
        let of_shape = likely.filter(|shape| {
            let rest = &self.bytes[self.at..];
            shape.names.len() == fields as usize
                && !shape.definition.is_empty()
                && rest.starts_with(shape.definition)
                && shape.classes.contains(&class.as_ref())
                && limits.name_units as usize >= SHORT_NAME
        });
        match of_shape {
            Some(shape) => self.at += shape.definition.len(),
            None => {
                for _ in 0..fields {
                    (_, self.at) = self.string_name(self.at)?;
                }
            }
        }
        self.classes.push(ClassEntry {
            name,
            fields_at,
            fields,
            plan: of_shape.map(Plan::in_java_order),
        });
        self.classes_at += 1;
        Ok(())
    }

    /// The final dialect's type: a string, which is thereby known, or the index of a known one.
    pub(crate) fn type_name(&mut self) -> Result<TypeId, HessianError> {
        let start = self.at;
        match self.peek().map(|byte| self.codes[usize::from(byte)]) {
            Some(Code::StringDirect | Code::StringShort | Code::StringFinal | Code::StringChunk) => {
                let (name, end) = self.string_name(start)?;
                self.at = end;
                self.new_type(name)
            }
            _ => self.known_type(),
        }
    }

    /// SOFA's optional type: `t` and a counted name, or 0x75 and the index of a known one.
    pub(crate) fn sofa_type(&mut self) -> Result<Option<TypeId>, HessianError> {
        match self.peek_inside()? {
            Some(b't') => {
                self.at += 1;
                let units = u32::from(self.u16()?);
                let (name, end) = self.counted_name(self.at, units)?;
                self.at = end;
                self.new_type(name).map(Some)
            }
            Some(0x75) => {
                self.at += 1;
                self.known_type().map(Some)
            }
            _ => Ok(None),
        }
    }

    pub(crate) fn new_type(&mut self, name: Name) -> Result<TypeId, HessianError> {
        let id = TypeId(self.types_at);
        if (self.types_at as usize) == self.types.len() {
            let limits = &self.options.limits;
            if self.types_at >= limits.type_names {
                return Err(self.over(Limit::TypeNames, u64::from(limits.type_names)));
            }
            self.options.class_names.check(&self.text_of(name))?;
            self.types.push(name);
        }
        self.types_at += 1;
        Ok(id)
    }

    pub(crate) fn known_type(&mut self) -> Result<TypeId, HessianError> {
        let start = self.at;
        let index = i64::from(self.int("a type name or the index of one")?);
        let known = self.types_at as usize;
        match u32::try_from(index) {
            Ok(index) if (index as usize) < known => Ok(TypeId(index)),
            _ => Err(unknown(IndexKind::TypeName, index, known, start)),
        }
    }

    /// The string at `at` as a name, and where it ends.
    fn string_name(&self, at: usize) -> Result<(Name, usize), HessianError> {
        let byte = *self.bytes.get(at).ok_or(HessianError::Truncated { at, needed: 1 })?;
        let two = |width: usize| match self.bytes.get(at + 1..at + 1 + width) {
            Some([low]) => Ok(u32::from(*low)),
            Some([high, low]) => Ok(u32::from(*high) << 8 | u32::from(*low)),
            _ => Err(HessianError::Truncated {
                at,
                needed: at + 1 + width - self.bytes.len(),
            }),
        };
        let (units, from) = match self.codes[usize::from(byte)] {
            Code::StringDirect => (u32::from(byte), at + 1),
            Code::StringShort => ((u32::from(byte) - 0x30) << 8 | two(1)?, at + 2),
            Code::StringFinal => (two(2)?, at + 3),
            // A name of several chunks would be longer than any that is taken.
            Code::StringChunk => return Err(self.over(Limit::NameUnits, u64::from(self.options.limits.name_units))),
            _ => return Err(unexpected(at, byte, "a name")),
        };
        self.counted_name(from, units)
    }

    fn counted_name(&self, at: usize, units: u32) -> Result<(Name, usize), HessianError> {
        let max = self.options.limits.name_units;
        if units > max {
            return Err(self.over(Limit::NameUnits, u64::from(max)));
        }
        let units_len = units as usize;
        if self.bytes.get(at..at + units_len).is_some_and(<[u8]>::is_ascii) {
            return Ok((Name { at: at as u32, units }, at + units_len));
        }
        let measured = chunk(self.bytes.get(at..).unwrap_or_default(), units_len, at)?;
        if measured.plain.is_none() {
            let mut name = Assembly::default();
            name.add(&measured, at)?;
            if let Text::Utf16(_) = name.finish() {
                return Err(HessianError::BadText { at });
            }
        }
        let end = at + measured.bytes.len();
        Ok((Name { at: at as u32, units }, end))
    }

    pub(crate) fn text_of(&self, name: Name) -> Cow<'a, str> {
        let at = name.at as usize;
        let bytes: &'a [u8] = self.bytes;
        let ascii = &bytes[at..bytes.len().min(at + name.units as usize)];
        if let Some(text) = text::ascii(ascii) {
            return Cow::Borrowed(text);
        }
        let mut text = Assembly::default();
        let read = chunk(&self.bytes[at..], name.units as usize, at).and_then(|chunk| text.add(&chunk, at));
        match (read, text.finish()) {
            (Ok(()), Text::Str(text)) => text,
            _ => unreachable!("a name is kept once it was read as text"),
        }
    }
}
