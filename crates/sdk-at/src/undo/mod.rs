//! The undo log of a branch: what Seata's AT writes beside an application's rows, so that any resource manager of the
//! database can take the branch back.

mod context;
mod json;
mod zip;

pub use context::{Compressor, Context, DEFENCE_CONTENT};
pub use json::{decode, encode};

/// Why an undo log cannot be read or written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UndoError {
    #[error(
        "it was written by the parser `{name}`, and only `jackson` can be read here (client.undo.logSerialization)"
    )]
    Parser { name: String },
    #[error("it is compressed with `{name}`, which cannot be read here (client.undo.compress.type)")]
    Compressor { name: String },
    #[error("it cannot be unpacked: {problem}")]
    Packed { problem: &'static str },
    #[error("it is no undo log: {problem}")]
    Json { problem: String },
    #[error("it has a `{class}` where {wanted} is expected")]
    Class { class: String, wanted: &'static str },
    #[error("column `{column}`: {problem}")]
    Value { column: String, problem: String },
    #[error("it is larger than {limit} bytes (option `undo_bytes_max`)")]
    TooLarge { limit: usize },
    #[error("it is that of branch {branch_id} of `{xid}`")]
    Another { xid: String, branch_id: i64 },
}

/// Under which root Java's classes are named: it reads only its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JavaPackage {
    /// `io.seata`: up to 2.0.
    IoSeata,
    /// `org.apache.seata`: from 2.1 on.
    OrgApacheSeata,
}

impl JavaPackage {
    fn root(self) -> &'static str {
        match self {
            JavaPackage::IoSeata => "io.seata",
            JavaPackage::OrgApacheSeata => "org.apache.seata",
        }
    }
}

/// `BranchUndoLog`: all that one branch changed, in its order.
#[derive(Clone, PartialEq, Debug)]
pub struct BranchUndo {
    pub xid: String,
    pub branch_id: i64,
    pub statements: Vec<StatementUndo>,
}

/// `SQLUndoLog`: one statement's rows before and after.
#[derive(Clone, PartialEq, Debug)]
pub struct StatementUndo {
    pub kind: ChangeKind,
    pub table: String,
    pub before: Image,
    pub after: Image,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    Insert,
    Update,
    Delete,
}

impl ChangeKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ChangeKind::Insert => "INSERT",
            ChangeKind::Update => "UPDATE",
            ChangeKind::Delete => "DELETE",
        }
    }
}

/// `TableRecords`.
#[derive(Clone, PartialEq, Debug)]
pub struct Image {
    pub table: String,
    pub rows: Vec<Vec<Field>>,
}

impl Image {
    pub(crate) fn empty(table: &str) -> Image {
        Image {
            table: table.to_owned(),
            rows: Vec::new(),
        }
    }
}

/// `Field`: one column of one row.
#[derive(Clone, PartialEq, Debug)]
pub struct Field {
    pub name: String,
    pub is_key: bool,
    /// `java.sql.Types`.
    pub type_code: i32,
    pub value: JavaValue,
}

/// What Java's JDBC driver gives for a column, by its class.
#[derive(Clone, PartialEq, Debug)]
pub enum JavaValue {
    Null,
    Boolean(bool),
    Integer(i64),
    Long(i64),
    /// Digits with an optional sign.
    BigInteger(String),
    Double(f64),
    /// Without an exponent: as many digits after the point as the column has.
    BigDecimal(String),
    String(String),
    Bytes(Vec<u8>),
    /// Microseconds since 1970 in UTC.
    Timestamp(i64),
    /// As `Timestamp`, with Java's time zone taken for the date's.
    LocalDateTime(i64),
    /// Midnight in Java's time zone, in microseconds.
    Date(i64),
    /// `12:34:56`.
    Time(String),
}
