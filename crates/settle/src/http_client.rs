//! A blocking client for the server's own HTTP API, for `ctl` and `dev`.

use std::time::Duration;

use anyhow::{Context, bail};

/// Gets `url` and returns the body.
///
/// # Errors
/// When the server cannot be reached, or answers with another status than success; its own words are in the message.
pub fn get(url: &str) -> anyhow::Result<String> {
    answer(url, agent().get(url).call())
}

/// Posts JSON to `url`.
///
/// # Errors
/// As [`get`].
pub fn post(url: &str, body: &serde_json::Value) -> anyhow::Result<String> {
    answer(
        url,
        agent()
            .post(url)
            .header("content-type", "application/json")
            .send(body.to_string()),
    )
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(15)))
        .http_status_as_error(false)
        .build()
        .into()
}

fn answer(url: &str, result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> anyhow::Result<String> {
    let mut response = result.with_context(|| format!("cannot reach {url}"))?;
    let body = response
        .body_mut()
        .read_to_string()
        .with_context(|| format!("cannot read the answer of {url}"))?;
    if !response.status().is_success() {
        match serde_json::from_str(&body) {
            Ok(Refusal {
                code,
                message,
                retryable,
            }) => {
                let again = if retryable == "yes" {
                    " (it may be asked again)"
                } else {
                    ""
                };
                bail!("{code}: {message}{again}\n  Explained in docs/errors/{code}.md");
            }
            Err(_) => bail!("{url} answered {}: {}", response.status(), body.trim()),
        }
    }
    Ok(body)
}

/// What the server says of every error.
#[derive(serde::Deserialize)]
struct Refusal {
    code: String,
    message: String,
    retryable: String,
}
