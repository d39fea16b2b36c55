//! What can be wrong with Hessian bytes, or with a value that shall become bytes.

use settle_base::ErrorCode;

/// Which [limit](crate::Limits) was met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// [`Limits::message_bytes`](crate::Limits::message_bytes)
    MessageBytes,
    /// [`Limits::depth`](crate::Limits::depth)
    Depth,
    /// [`Limits::nodes`](crate::Limits::nodes)
    Nodes,
    /// [`Limits::references`](crate::Limits::references)
    References,
    /// [`Limits::class_definitions`](crate::Limits::class_definitions)
    ClassDefinitions,
    /// [`Limits::class_fields`](crate::Limits::class_fields)
    ClassFields,
    /// [`Limits::type_names`](crate::Limits::type_names)
    TypeNames,
    /// [`Limits::name_units`](crate::Limits::name_units)
    NameUnits,
    /// [`Limits::string_units`](crate::Limits::string_units)
    StringUnits,
    /// [`Limits::binary_bytes`](crate::Limits::binary_bytes)
    BinaryBytes,
    /// [`Limits::list_items`](crate::Limits::list_items)
    ListItems,
}

/// Bytes that break the encoding or a limit, or a value that the encoding cannot carry. After one the position in the
/// bytes cannot be trusted: the message is lost.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum HessianError {
    #[error("read a value at byte {at}: at least {needed} more bytes are needed")]
    Truncated { at: usize, needed: usize },
    #[error("read {expected} at byte {at}: the code {code:#04x} does not begin one in this dialect")]
    UnexpectedCode {
        at: usize,
        code: u8,
        expected: &'static str,
    },
    #[error("read text at byte {at}: it is neither UTF-8 nor Java's encoding of UTF-16")]
    BadText { at: usize },
    #[error("read a length at byte {at}: it is {length}")]
    BadLength { at: usize, length: i64 },
    #[error("read a message: the limit {limit:?} of {max} is passed at byte {at}")]
    OverLimit { limit: Limit, max: u64, at: usize },
    #[error("read a class name: {name} is not allowed")]
    ClassRefused { name: Box<str> },
    #[error("read {kind} {index} at byte {at}: only {known} came before")]
    UnknownIndex {
        kind: IndexKind,
        index: i64,
        known: usize,
        at: usize,
    },
    #[error("read a message: {count} bytes are left over")]
    TrailingBytes { count: usize },
    #[error("read a reference at byte {at}: it leads back to the value that holds it")]
    Cycle { at: usize },
    #[error("read {expected} at byte {at}: {found} stands there")]
    Mismatch {
        at: usize,
        expected: &'static str,
        found: &'static str,
    },
    #[error("read {target} at byte {at}: the value does not fit")]
    OutOfRange { at: usize, target: &'static str },
    #[error("read a string as text at byte {at}: a surrogate in it has no partner")]
    LoneSurrogate { at: usize },
    #[error("read an object of {class}: the field {field} is missing")]
    MissingField { class: &'static str, field: &'static str },
    #[error("read an object at byte {at}: it is of {found}, not of {expected}")]
    WrongClass {
        at: usize,
        expected: &'static str,
        found: Box<str>,
    },
    #[error("read a constant of {class}: there is no {name}")]
    UnknownConstant { class: &'static str, name: Box<str> },
    #[error("read or write a type of the application: {message}")]
    Refused { message: Box<str> },
    #[error("write a {what} of {length} {unit}: the encoding carries at most {max}")]
    TooLong {
        what: &'static str,
        length: usize,
        max: usize,
        unit: &'static str,
    },
    #[error("write a document: the node {node} is not part of it")]
    UnknownNode { node: u32 },
    #[error("write an object of {class}: it has {given} fields, its class {expected}")]
    FieldCount {
        class: Box<str>,
        given: usize,
        expected: usize,
    },
}

/// What an index points at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IndexKind {
    Reference,
    ClassDefinition,
    TypeName,
}

impl std::fmt::Display for IndexKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            IndexKind::Reference => "the reference",
            IndexKind::ClassDefinition => "the class definition",
            IndexKind::TypeName => "the type name",
        })
    }
}

impl HessianError {
    /// The stable code of this error, area `HE`.
    pub const fn code(&self) -> ErrorCode {
        const fn he(number: u16) -> ErrorCode {
            ErrorCode::new("HE", number)
        }
        match self {
            HessianError::Truncated { .. } => he(1),
            HessianError::UnexpectedCode { .. } => he(2),
            HessianError::BadText { .. } => he(3),
            HessianError::BadLength { .. } => he(4),
            HessianError::OverLimit { limit, .. } => match limit {
                Limit::MessageBytes => he(10),
                Limit::Depth => he(11),
                Limit::Nodes => he(12),
                Limit::References => he(13),
                Limit::ClassDefinitions => he(14),
                Limit::ClassFields => he(15),
                Limit::TypeNames => he(16),
                Limit::NameUnits => he(17),
                Limit::StringUnits => he(18),
                Limit::BinaryBytes => he(19),
                Limit::ListItems => he(20),
            },
            HessianError::ClassRefused { .. } => he(5),
            HessianError::UnknownIndex { .. } => he(6),
            HessianError::TrailingBytes { .. } => he(7),
            HessianError::Cycle { .. } => he(8),
            HessianError::Mismatch { .. } => he(21),
            HessianError::OutOfRange { .. } => he(22),
            HessianError::LoneSurrogate { .. } => he(23),
            HessianError::MissingField { .. } => he(24),
            HessianError::WrongClass { .. } => he(25),
            HessianError::UnknownConstant { .. } => he(26),
            HessianError::Refused { .. } => he(27),
            HessianError::TooLong { .. } => he(30),
            HessianError::UnknownNode { .. } => he(31),
            HessianError::FieldCount { .. } => he(32),
        }
    }

    /// Whether more bytes could make the input good: what was read so far is the beginning of a message.
    pub const fn is_incomplete(&self) -> bool {
        matches!(self, HessianError::Truncated { .. })
    }
}
