//! A blocking client for the server's own HTTP API, for `ctl` and `dev`.

use std::{io::Read, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use ureq::{
    RequestBuilder,
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

/// How a server is asked: whom its certificate may be signed by, and who asks.
#[derive(Clone, Default)]
pub struct Client {
    authorities: Vec<Certificate<'static>>,
    token: Option<String>,
}

/// [`Client::get`] of a server that asks nobody who he is.
///
/// # Errors
/// As that.
pub fn get(url: &str) -> anyhow::Result<String> {
    Client::default().get(url)
}

impl Client {
    /// `authorities` is a file of PEM, for servers that speak TLS.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no certificate.
    pub fn new(authorities: Option<&Path>, token: Option<String>) -> anyhow::Result<Client> {
        let mut client = Client {
            authorities: Vec::new(),
            token,
        };
        if let Some(path) = authorities {
            let cannot = || format!("cannot read certificates from {}", path.display());
            let pem = std::fs::read(path).with_context(cannot)?;
            for item in parse_pem(&pem) {
                if let PemItem::Certificate(certificate) = item.with_context(cannot)? {
                    client.authorities.push(certificate);
                }
            }
            ensure!(
                !client.authorities.is_empty(),
                "there is no certificate in {}",
                path.display()
            );
        }
        Ok(client)
    }

    /// Gets `url` and returns the body.
    ///
    /// # Errors
    /// When the server cannot be reached, or answers with another status than success; its own words are in the message.
    pub fn get(&self, url: &str) -> anyhow::Result<String> {
        answer(url, self.signed(self.agent(url)?.get(url)).call())
    }

    /// Posts JSON to `url`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, url: &str, body: &serde_json::Value) -> anyhow::Result<String> {
        let post = self.agent(url)?.post(url).header("content-type", "application/json");
        answer(url, self.signed(post).send(body.to_string()))
    }

    /// Gets `url`, whose answer may be of any length and take any time, as it comes.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn get_stream(&self, url: &str) -> anyhow::Result<Box<dyn Read>> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .tls_config(self.tls(url)?)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .http_status_as_error(false)
            .build()
            .into();
        let response = self.signed(agent.get(url)).call();
        let response = response.with_context(|| format!("cannot reach {url}"))?;
        match response.status().is_success() {
            true => Ok(Box::new(response.into_body().into_reader())),
            false => answer(url, Ok(response)).and_then(|_| bail!("{url} answered without success")),
        }
    }

    /// Posts bytes to `url`; asked again for as long as `patience` when the server says that it may be.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post_bytes(&self, url: &str, bytes: &[u8], patience: Duration) -> anyhow::Result<String> {
        let clock = settle_telemetry::Clock::start();
        let begun = clock.now();
        loop {
            let post = self.agent(url)?.post(url);
            let post = post.header("content-type", "application/octet-stream");
            let posted = self.signed(post).send(bytes);
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

    fn signed<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn agent(&self, url: &str) -> anyhow::Result<ureq::Agent> {
        let config = ureq::Agent::config_builder()
            .tls_config(self.tls(url)?)
            .timeout_global(Some(Duration::from_secs(15)))
            // Whoever is sent elsewhere would show his token there.
            .max_redirects(0)
            .http_status_as_error(false);
        Ok(config.build().into())
    }

    fn tls(&self, url: &str) -> anyhow::Result<TlsConfig> {
        ensure!(
            !self.authorities.is_empty() || !url.starts_with("https:"),
            "say whom to trust for {url}: --authorities"
        );
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&self.authorities))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build())
    }
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

#[cfg(test)]
mod tests {
    use axum::{Router, http::HeaderMap};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use settle_net::{Pem, StopHandle, TlsServer, bind};

    use super::*;

    #[tokio::test]
    async fn a_server_by_tls_is_asked_by_who_trusts_it_and_hears_the_token() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let authority = |name: &str| -> anyhow::Result<_> {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let path = folder.path().join(name);
            std::fs::write(&path, params.self_signed(&key)?.pem())?;
            Ok((Issuer::new(params, key), path))
        };
        let ((issuer, ours), (_, strangers)) = (authority("ours")?, authority("strangers")?);
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
        let tls = TlsServer::for_http(Pem {
            certificate: certificate.pem().as_bytes(),
            key: key.serialize_pem().as_bytes(),
            authorities: b"",
        })?;
        let listener = bind("127.0.0.1:0".parse()?, "test", 9).await?.with_tls(Some(tls));
        let url = format!("https://{}/", listener.address());
        let say = async |headers: HeaderMap| format!("{:?}", headers.get("authorization"));
        let router = Router::new().fallback(say);
        let (handle, stop) = StopHandle::new();
        let asked = tokio::task::spawn_blocking(move || {
            let client = Client::new(Some(&ours), Some("a token".to_owned()))?;
            ensure!(client.get(&url)?.contains("Bearer a token"));
            let error = Client::new(Some(&strangers), None)?.get(&url);
            ensure!(error.is_err(), "it trusts a stranger");
            let error = Client::default().get(&url).err().context("it trusts nobody")?;
            ensure!(error.to_string().contains("--authorities"), "{error}");
            handle.stop();
            anyhow::Ok(())
        });
        let (asked, ()) = tokio::join!(asked, crate::server::serve_http(listener, router, stop));
        asked?
    }
}
