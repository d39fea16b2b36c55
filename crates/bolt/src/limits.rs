//! What one frame may cost.

/// The bounds of a decoder. Each is met by its own error, as soon as the head of a frame is there; nothing is reserved
/// ahead of the bytes received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of a whole frame with its head and checksum. Default 8 MiB, SOFARPC's `transport.payload.max`; Java's bolt
    /// itself has no bound.
    pub frame_bytes: usize,
    /// Bytes of the class name. Default 1,024.
    pub class_bytes: usize,
    /// Bytes of the header. Default 32,767, the most that the format can say.
    pub header_bytes: usize,
}

impl Limits {
    /// The defaults named at each field.
    pub const DEFAULT: Limits = Limits {
        frame_bytes: 8 << 20,
        class_bytes: 1_024,
        header_bytes: 32_767,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}
