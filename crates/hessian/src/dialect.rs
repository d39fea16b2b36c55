//! The two encodings that are both called "Hessian 2", and the code table of each.

/// Which of the two encodings that share the name "hessian2" is spoken. Nothing on the wire tells them apart, so the
/// protocol that carries the bytes decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// SOFAHessian 3.x (`com.alipay.sofa:hessian` 3.5.5), from a draft of the specification: bolt, SOFARPC, SOFARegistry.
    Sofa3,
    /// The final Hessian 2.0: Caucho 4, SOFAHessian 4.x, Dubbo's `hessian-lite`.
    Hessian2,
}

/// The Java library of the final dialect whose bytes are written. It decides how a binary is cut, which matters only to
/// who compares bytes, and what the classes are called that stand for `java.time` and others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Library {
    /// `com.alibaba:hessian-lite` 3.2, which Dubbo uses: chunks of 4,093 bytes.
    #[default]
    HessianLite,
    /// `com.caucho:hessian` 4.0 and `com.alipay.sofa:hessian` 4.0, which is made from it: chunks of what still fits in its
    /// output buffer of 8 KiB, so that a cut depends on all that was written since the last flush.
    Caucho,
}

/// What the first byte of a value says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Code {
    Null,
    True,
    False,
    IntDirect,
    IntByte,
    IntShort,
    Int32,
    LongDirect,
    LongByte,
    LongShort,
    Long32,
    Long64,
    DoubleZero,
    DoubleOne,
    DoubleByte,
    DoubleShort,
    /// Final: a 32-bit count of thousandths.
    DoubleMills,
    /// SOFA: a 32-bit IEEE number.
    DoubleFloat,
    Double64,
    DateMillis,
    /// Final.
    DateMinutes,
    StringDirect,
    /// Final.
    StringShort,
    StringFinal,
    StringChunk,
    BinaryDirect,
    /// Final.
    BinaryShort,
    BinaryFinal,
    BinaryChunk,
    ListVariableTyped,
    ListVariable,
    ListFixedTyped,
    ListFixed,
    ListDirectTyped,
    ListDirect,
    /// SOFA: `V`, then perhaps a type, perhaps a length, the items, always an end.
    ListSofa,
    /// SOFA: `v`, the index of a type, a length, the items, no end.
    ListSofaRef,
    MapTyped,
    Map,
    /// SOFA: `M`, then perhaps a type.
    MapSofa,
    ClassDef,
    ObjectDirect,
    Object,
    /// Final: an index written as an int.
    Ref,
    RefByte,
    RefShort,
    Ref32,
    End,
    Unknown,
}

/// The codes of one value: the first and the last.
type Codes = Option<(u8, u8)>;

const fn one(code: u8) -> Codes {
    Some((code, code))
}

const fn from(first: u8, last: u8) -> Codes {
    Some((first, last))
}

/// Both tables: what a value's first byte is in SOFAHessian 3.x and in the final 2.0.
#[rustfmt::skip]
const TABLE: [(Code, Codes, Codes); 48] = [
    (Code::Null,              one(b'N'),        one(b'N')),
    (Code::True,              one(b'T'),        one(b'T')),
    (Code::False,             one(b'F'),        one(b'F')),
    (Code::IntDirect,         from(0x80, 0xbf), from(0x80, 0xbf)),
    (Code::IntByte,           from(0xc0, 0xcf), from(0xc0, 0xcf)),
    (Code::IntShort,          from(0xd0, 0xd7), from(0xd0, 0xd7)),
    (Code::Int32,             one(b'I'),        one(b'I')),
    (Code::LongDirect,        from(0xd8, 0xef), from(0xd8, 0xef)),
    (Code::LongByte,          from(0xf0, 0xff), from(0xf0, 0xff)),
    (Code::LongShort,         from(0x38, 0x3f), from(0x38, 0x3f)),
    (Code::Long32,            one(0x77),        one(0x59)),
    (Code::Long64,            one(b'L'),        one(b'L')),
    (Code::DoubleZero,        one(0x67),        one(0x5b)),
    (Code::DoubleOne,         one(0x68),        one(0x5c)),
    (Code::DoubleByte,        one(0x69),        one(0x5d)),
    (Code::DoubleShort,       one(0x6a),        one(0x5e)),
    (Code::DoubleMills,       None,             one(0x5f)),
    (Code::DoubleFloat,       one(0x6b),        None),
    (Code::Double64,          one(b'D'),        one(b'D')),
    (Code::DateMillis,        one(b'd'),        one(0x4a)),
    (Code::DateMinutes,       None,             one(0x4b)),
    (Code::StringDirect,      from(0x00, 0x1f), from(0x00, 0x1f)),
    (Code::StringShort,       None,             from(0x30, 0x33)),
    (Code::StringFinal,       one(b'S'),        one(b'S')),
    (Code::StringChunk,       one(b's'),        one(b'R')),
    (Code::BinaryDirect,      from(0x20, 0x2f), from(0x20, 0x2f)),
    (Code::BinaryShort,       None,             from(0x34, 0x37)),
    (Code::BinaryFinal,       one(b'B'),        one(b'B')),
    (Code::BinaryChunk,       one(b'b'),        one(b'A')),
    (Code::ListVariableTyped, None,             one(0x55)),
    (Code::ListVariable,      None,             one(0x57)),
    (Code::ListFixedTyped,    None,             one(b'V')),
    (Code::ListFixed,         None,             one(0x58)),
    (Code::ListDirectTyped,   None,             from(0x70, 0x77)),
    (Code::ListDirect,        None,             from(0x78, 0x7f)),
    (Code::ListSofa,          one(b'V'),        None),
    (Code::ListSofaRef,       one(b'v'),        None),
    (Code::MapTyped,          None,             one(b'M')),
    (Code::Map,               None,             one(b'H')),
    (Code::MapSofa,           one(b'M'),        None),
    (Code::ClassDef,          one(b'O'),        one(b'C')),
    (Code::ObjectDirect,      None,             from(0x60, 0x6f)),
    (Code::Object,            one(b'o'),        one(b'O')),
    (Code::Ref,               None,             one(0x51)),
    (Code::RefByte,           one(0x4a),        None),
    (Code::RefShort,          one(0x4b),        None),
    (Code::Ref32,             one(b'R'),        None),
    (Code::End,               one(b'z'),        one(b'Z')),
];

const fn column(dialect: Dialect) -> [Code; 256] {
    let mut codes = [Code::Unknown; 256];
    let mut row = 0;
    while row < TABLE.len() {
        let (code, sofa3, hessian2) = TABLE[row];
        let meant = match dialect {
            Dialect::Sofa3 => sofa3,
            Dialect::Hessian2 => hessian2,
        };
        if let Some((first, last)) = meant {
            let mut at = first as usize;
            while at <= last as usize {
                assert!(matches!(codes[at], Code::Unknown), "a byte begins one kind of value");
                codes[at] = code;
                at += 1;
            }
        }
        row += 1;
    }
    codes
}

static SOFA3: [Code; 256] = column(Dialect::Sofa3);
static HESSIAN2: [Code; 256] = column(Dialect::Hessian2);

impl Dialect {
    pub(crate) fn codes(self) -> &'static [Code; 256] {
        match self {
            Dialect::Sofa3 => &SOFA3,
            Dialect::Hessian2 => &HESSIAN2,
        }
    }
}
