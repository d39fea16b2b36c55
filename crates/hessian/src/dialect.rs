//! The two encodings that are both called "Hessian 2", and the code table of each.

/// Which of the two encodings that share the name "hessian2" is spoken. Nothing on the wire tells them apart, so the
/// protocol that carries the bytes decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// SOFAHessian 3.x (`com.alipay.sofa:hessian` 3.5.5), from a draft of the specification: bolt, SOFARPC, SOFARegistry.
    Sofa3,
    /// The final Hessian 2.0: Caucho 4, Dubbo's `hessian-lite`.
    Hessian2,
}

/// The Java library of the final dialect whose bytes are written. It decides how a binary is cut, which matters only to
/// who compares bytes, and what the classes are called that stand for `java.time` and others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Library {
    /// `com.alibaba:hessian-lite` 3.2, which Dubbo uses: chunks of 4,093 bytes.
    #[default]
    HessianLite,
    /// `com.caucho:hessian` 4.0: chunks of what still fits in its output buffer of 8 KiB, so that a cut depends on all
    /// that was written since the last flush.
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

const fn range(table: &mut [Code; 256], from: usize, to: usize, code: Code) {
    let mut at = from;
    while at <= to {
        table[at] = code;
        at += 1;
    }
}

/// What both dialects share.
const fn shared() -> [Code; 256] {
    let mut table = [Code::Unknown; 256];
    range(&mut table, 0x00, 0x1f, Code::StringDirect);
    range(&mut table, 0x20, 0x2f, Code::BinaryDirect);
    range(&mut table, 0x38, 0x3f, Code::LongShort);
    range(&mut table, 0x80, 0xbf, Code::IntDirect);
    range(&mut table, 0xc0, 0xcf, Code::IntByte);
    range(&mut table, 0xd0, 0xd7, Code::IntShort);
    range(&mut table, 0xd8, 0xef, Code::LongDirect);
    range(&mut table, 0xf0, 0xff, Code::LongByte);
    table[b'N' as usize] = Code::Null;
    table[b'T' as usize] = Code::True;
    table[b'F' as usize] = Code::False;
    table[b'I' as usize] = Code::Int32;
    table[b'L' as usize] = Code::Long64;
    table[b'D' as usize] = Code::Double64;
    table[b'S' as usize] = Code::StringFinal;
    table[b'B' as usize] = Code::BinaryFinal;
    table
}

const fn sofa3() -> [Code; 256] {
    let mut table = shared();
    table[0x77] = Code::Long32;
    table[0x67] = Code::DoubleZero;
    table[0x68] = Code::DoubleOne;
    table[0x69] = Code::DoubleByte;
    table[0x6a] = Code::DoubleShort;
    table[0x6b] = Code::DoubleFloat;
    table[b'd' as usize] = Code::DateMillis;
    table[b's' as usize] = Code::StringChunk;
    table[b'b' as usize] = Code::BinaryChunk;
    table[b'V' as usize] = Code::ListSofa;
    table[b'v' as usize] = Code::ListSofaRef;
    table[b'M' as usize] = Code::MapSofa;
    table[b'O' as usize] = Code::ClassDef;
    table[b'o' as usize] = Code::Object;
    table[0x4a] = Code::RefByte;
    table[0x4b] = Code::RefShort;
    table[b'R' as usize] = Code::Ref32;
    table[b'z' as usize] = Code::End;
    table
}

const fn hessian2() -> [Code; 256] {
    let mut table = shared();
    range(&mut table, 0x30, 0x33, Code::StringShort);
    range(&mut table, 0x34, 0x37, Code::BinaryShort);
    range(&mut table, 0x60, 0x6f, Code::ObjectDirect);
    range(&mut table, 0x70, 0x77, Code::ListDirectTyped);
    range(&mut table, 0x78, 0x7f, Code::ListDirect);
    table[0x59] = Code::Long32;
    table[0x5b] = Code::DoubleZero;
    table[0x5c] = Code::DoubleOne;
    table[0x5d] = Code::DoubleByte;
    table[0x5e] = Code::DoubleShort;
    table[0x5f] = Code::DoubleMills;
    table[0x4a] = Code::DateMillis;
    table[0x4b] = Code::DateMinutes;
    table[b'R' as usize] = Code::StringChunk;
    table[b'A' as usize] = Code::BinaryChunk;
    table[0x55] = Code::ListVariableTyped;
    table[0x57] = Code::ListVariable;
    table[b'V' as usize] = Code::ListFixedTyped;
    table[0x58] = Code::ListFixed;
    table[b'M' as usize] = Code::MapTyped;
    table[b'H' as usize] = Code::Map;
    table[b'C' as usize] = Code::ClassDef;
    table[b'O' as usize] = Code::Object;
    table[0x51] = Code::Ref;
    table[b'Z' as usize] = Code::End;
    table
}

static SOFA3: [Code; 256] = sofa3();
static HESSIAN2: [Code; 256] = hessian2();

impl Dialect {
    pub(crate) fn codes(self) -> &'static [Code; 256] {
        match self {
            Dialect::Sofa3 => &SOFA3,
            Dialect::Hessian2 => &HESSIAN2,
        }
    }
}
