use settle_base::{ErrorCode, Retryable};

/// Why a client is not taken, or may not do what it asks for. What the client said of itself is cut to a length for a log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthError {
    #[error("application `{application}` registered without a signature, and no certificate speaks for it")]
    Unsigned { application: String },
    #[error("access key `{access}` is unknown")]
    UnknownKey { access: String },
    #[error("the signature with access key `{access}` is not that of its secret")]
    WrongSignature { access: String },
    #[error("the registration was signed {seconds} s ago by this server's time, and {limit_s} s are allowed")]
    Stale { seconds: u64, limit_s: u64 },
    #[error("the registration was signed {seconds} s ahead of this server's time, and {limit_s} s are allowed")]
    Ahead { seconds: u64, limit_s: u64 },
    #[error("the registration is signed in the way `{version}`, and only `V4` is known")]
    SignatureVersion { version: String },
    #[error("the registration's timestamp is no number of milliseconds")]
    BadTimestamp,
    #[error("`{principal}` may not register as application `{application}`")]
    ForeignApplication { principal: String, application: String },
    #[error("application `{application}` may not use service group `{service_group}`")]
    ServiceGroup { application: String, service_group: String },
    #[error("application `{application}` may not use resource `{resource}`")]
    Resource { application: String, resource: String },
    #[error(
        "resource manager `{application}` signs nothing, as Java's never do, and no transaction manager of it has \
         authenticated from its address"
    )]
    NothingBeside { application: String },
    #[error("what application `{application}` was let in by does not stand any more")]
    Withdrawn { application: String },
    #[error("the connection is of application `{first}` and registered as `{second}`")]
    ApplicationChanged { first: String, second: String },
}

impl AuthError {
    /// The stable code, with a page under `docs/errors/`.
    pub fn code(&self) -> ErrorCode {
        let number = match self {
            AuthError::Unsigned { .. } => 1,
            AuthError::UnknownKey { .. } => 2,
            AuthError::WrongSignature { .. } => 3,
            AuthError::Stale { .. } | AuthError::Ahead { .. } => 4,
            AuthError::SignatureVersion { .. } => 5,
            AuthError::BadTimestamp => 6,
            AuthError::ForeignApplication { .. } => 7,
            AuthError::ServiceGroup { .. } => 8,
            AuthError::Resource { .. } => 9,
            AuthError::NothingBeside { .. } => 10,
            AuthError::ApplicationChanged { .. } => 11,
            AuthError::Withdrawn { .. } => 13,
        };
        ErrorCode::new("AU", number)
    }

    /// What the client is told, its code in front. Who guesses at access keys does not come to know which there are.
    pub fn told(&self) -> String {
        match self {
            AuthError::UnknownKey { access } | AuthError::WrongSignature { access } => {
                let error = AuthError::WrongSignature { access: access.clone() };
                format!("{}: {error}, or there is no such key", error.code())
            }
            error => format!("{}: {error}", error.code()),
        }
    }

    /// Whether the same registration or request can succeed later.
    pub fn retryable(&self) -> Retryable {
        match self {
            AuthError::NothingBeside { .. } => Retryable::Yes,
            _ => Retryable::No,
        }
    }
}

/// A policy that contradicts itself.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("{what} `{name}` is there twice")]
    Twice { what: &'static str, name: String },
    #[error("{what} `{name}` speaks for application `{application}`, which is not there")]
    UnknownApplication {
        what: &'static str,
        name: String,
        application: String,
    },
    #[error("the secret of access key `{access}` has {bytes} bytes; take {min} or more")]
    ShortSecret { access: String, bytes: usize, min: usize },
    #[error("{what} without a name")]
    Nameless { what: &'static str },
    #[error("no {what} is in it, so that nobody would be let in")]
    Empty { what: &'static str },
    #[error("`{pattern}` has a `*` that is not its end")]
    BadPattern { pattern: String },
}

impl PolicyError {
    /// The stable code, with a page under `docs/errors/`.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::new("AU", 12)
    }
}
