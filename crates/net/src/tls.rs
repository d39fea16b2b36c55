//! TLS as this server speaks it: from PEM to configurations that may be replaced while connections stand on older ones.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use settle_base::ErrorCode;

/// What every gRPC client asks for; clients that ask for nothing get nothing.
const H2: &[u8] = b"h2";

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the {what} is not PEM of one, or holds none: {problem}")]
    Pem { what: &'static str, problem: String },
    #[error("the certificate cannot be used with its key, or an authority's cannot be trusted: {0}")]
    Refused(String),
}

impl TlsError {
    pub fn code(&self) -> ErrorCode {
        match self {
            TlsError::Pem { .. } => ErrorCode::new("NT", 5),
            TlsError::Refused(_) => ErrorCode::new("NT", 6),
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> TlsError {
        TlsError::Refused(error.to_string())
    }
}

/// A certificate with what leads to its authority, its key, and whom it trusts; all PEM.
#[derive(Clone, Copy)]
pub struct Pem<'a> {
    /// Empty, with the key: a client that shows none.
    pub certificate: &'a [u8],
    pub key: &'a [u8],
    /// Who signs the certificates of the other side; empty: it shows none.
    pub authorities: &'a [u8],
}

/// The listening side. Clones share what is in force.
#[derive(Clone, Debug)]
pub struct TlsServer {
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl TlsServer {
    /// # Errors
    /// When something of `pem` cannot be used.
    pub fn new(pem: Pem<'_>) -> Result<TlsServer, TlsError> {
        Ok(TlsServer {
            config: Arc::new(RwLock::new(server_config(pem)?)),
        })
    }

    /// Takes what is in force in `other`, for connections from now on; the others go on with what they began with.
    pub fn replace(&self, other: &TlsServer) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = other.config();
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The dialling side. Clones share what is in force.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<RwLock<Arc<ClientConfig>>>,
}

impl TlsClient {
    /// # Errors
    /// When something of `pem` cannot be used.
    pub fn new(pem: Pem<'_>) -> Result<TlsClient, TlsError> {
        Ok(TlsClient {
            config: Arc::new(RwLock::new(client_config(pem)?)),
        })
    }

    /// As [`TlsServer::replace`].
    pub fn replace(&self, other: &TlsClient) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = other.config();
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_config(pem: Pem<'_>) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match pem.authorities.is_empty() {
        true => builder.with_no_client_auth(),
        false => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pem)?), provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::Refused(error.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain(pem)?, key(pem)?)?;
    config.alpn_protocols = vec![H2.to_vec()];
    Ok(Arc::new(config))
}

fn client_config(pem: Pem<'_>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(pem)?);
    Ok(Arc::new(match pem.certificate.is_empty() {
        true => builder.with_no_client_auth(),
        false => builder.with_client_auth_cert(chain(pem)?, key(pem)?)?,
    }))
}

fn certificates(bytes: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(TlsError::Pem {
            what,
            problem: "there is no certificate in it".to_owned(),
        }),
        Err(error) => Err(TlsError::Pem {
            what,
            problem: error.to_string(),
        }),
    }
}

fn chain(pem: Pem<'_>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates(pem.certificate, "certificate")
}

fn key(pem: Pem<'_>) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.key).map_err(|error| {
        use rustls::pki_types::pem::Error;
        // What the reader quotes may be the key.
        let problem = match error {
            Error::NoItemsFound => "there is no private key in it",
            Error::MissingSectionEnd { .. } => "a section in it has no end, or its lines are not apart",
            Error::Base64Decode(_) => "what is in it is not base64",
            _ => "it does not read",
        };
        TlsError::Pem {
            what: "key",
            problem: problem.to_owned(),
        }
    })
}

fn roots(pem: Pem<'_>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem.authorities, "file of authorities")? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// The DNS names in a certificate that has been verified.
pub(crate) fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    match webpki::EndEntityCert::try_from(certificate) {
        Ok(certificate) => certificate.valid_dns_names().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    }
}

/// Whether a certificate that has been verified is `host`'s, a DNS name or an IP address.
pub(crate) fn is_of_host(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let (Ok(certificate), Ok(name)) = (webpki::EndEntityCert::try_from(certificate), ServerName::try_from(host)) else {
        return false;
    };
    certificate.verify_is_valid_for_subject_name(&name).is_ok()
}

/// The host of `host:port`, without the brackets of an IPv6 address.
pub fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_key_is_told_without_the_key() {
        let secret = "c2VjcmV0c2VjcmV0c2VjcmV0";
        for text in [
            format!("-----BEGIN PRIVATE KEY----- {secret} -----END PRIVATE KEY-----"),
            format!("-----BEGIN PRIVATE KEY-----\\n{secret}\\n-----END PRIVATE KEY-----"),
            format!("-----BEGIN PRIVATE KEY-----\n{secret}"),
            format!("-----BEGIN PRIVATE KEY-----\n{secret}!\n-----END PRIVATE KEY-----"),
            secret.to_owned(),
        ] {
            let pem = Pem {
                certificate: b"",
                key: text.as_bytes(),
                authorities: b"",
            };
            let error = key(pem).expect_err("it is no key");
            let told = format!("{error} {error:?}");
            // Neither as text nor as a list of its bytes.
            assert!(!told.contains(secret) && !told.contains("99, 50, 86"), "{told}");
        }
    }
}
