//! What one message may cost.

/// The bounds of a decoder. Each is met by an error that [names](crate::Limit) it, and none is reserved ahead: memory
/// grows with the bytes that were received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of the whole input. Default 64 MiB; never more than 4 GiB - 1.
    pub message_bytes: usize,
    /// Lists, maps and objects inside each other. Default 256.
    pub depth: u32,
    /// Values of any kind, those inside lists, maps and objects too. What a reference leads to counts again where it is
    /// copied, which is where a type of Rust holds it; a [`Document`](crate::Document) shares it. Default 10,000,000.
    pub nodes: u64,
    /// Lists, maps and objects, since each can be referred to. Default 2,000,000.
    pub references: u32,
    /// Definitions of classes, of which one class may have several: SOFARPC's generic calls repeat the definition for
    /// each object. Default 65,536.
    pub class_definitions: u32,
    /// Fields of one class definition. Default 4,096.
    pub class_fields: u32,
    /// Distinct places where a type name of a list or map is spelled out. Default 65,536.
    pub type_names: u32,
    /// UTF-16 units of the name of a class, type or field. Default 1,024.
    pub name_units: u32,
    /// UTF-16 units of one string. Default 16,777,216.
    pub string_units: usize,
    /// Bytes of one binary. Default 64 MiB.
    pub binary_bytes: usize,
    /// Items of one list. Default 4,194,304.
    pub list_items: usize,
}

impl Limits {
    /// The defaults named at each field.
    pub const DEFAULT: Limits = Limits {
        message_bytes: 64 << 20,
        depth: 256,
        nodes: 10_000_000,
        references: 2_000_000,
        class_definitions: 65_536,
        class_fields: 4_096,
        type_names: 65_536,
        name_units: 1_024,
        string_units: 16 << 20,
        binary_bytes: 64 << 20,
        list_items: 4 << 20,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}
