use std::io;

use settle_base::ErrorCode;
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// One line of text for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error("`{filter}` is no log filter")]
    Filter { filter: String, source: ParseError },
}

impl LogsError {
    pub fn code(&self) -> ErrorCode {
        ErrorCode::new("CF", 6)
    }
}

/// Sends the process's events to standard error. Called once, before anything logs; later calls change nothing.
///
/// # Errors
/// When `filter` is not of the form `info` or `info,settle_node=debug`.
pub fn init_logs(filter: &str, format: LogFormat) -> Result<(), LogsError> {
    let parsed = EnvFilter::try_new(filter).map_err(|source| LogsError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let builder = fmt().with_env_filter(parsed).with_writer(io::stderr);
    // A second call finds a subscriber in place: a test process that starts two servers, for one.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
