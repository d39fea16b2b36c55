//! A blocking client for the server's own HTTP API, for `ctl` and `dev`.

use std::{io::Read, time::Duration};

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

/// Gets `url`, whose answer may be of any length and take any time, as it comes.
///
/// # Errors
/// As [`get`].
pub fn get_stream(url: &str) -> anyhow::Result<Box<dyn Read>> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .http_status_as_error(false)
        .build()
        .into();
    let response = agent.get(url).call().with_context(|| format!("cannot reach {url}"))?;
    match response.status().is_success() {
        true => Ok(Box::new(response.into_body().into_reader())),
        false => answer(url, Ok(response)).and_then(|_| bail!("{url} answered without success")),
    }
}

/// Posts bytes to `url`; asked again for as long as `patience` when the server says that it may be.
///
/// # Errors
/// As [`get`].
pub fn post_bytes(url: &str, bytes: &[u8], patience: Duration) -> anyhow::Result<String> {
    let clock = settle_telemetry::Clock::start();
    let begun = clock.now();
    loop {
        let posted = agent()
            .post(url)
            .header("content-type", "application/octet-stream")
            .send(bytes);
        let is_again = match &posted {
            Ok(response) => matches!(response.status().as_u16(), 503 | 504),
            Err(_) => true,
        };
        if !is_again || clock.now().since(begun) >= patience {
            return answer(url, posted);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a pause before the server is asked again, whose condition only it knows"
        )]
        std::thread::sleep(Duration::from_millis(200));
    }
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
