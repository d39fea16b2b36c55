//! TLS as this server speaks it: from PEM to configurations that may be replaced while connections stand on older ones.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use settle_base::ErrorCode;
use settle_telemetry::Clock;
use tokio::sync::watch;

/// What every gRPC client asks for; clients that ask for nothing get nothing.
const H2: &[u8] = b"h2";
/// As what every HTTP client can do.
const HTTP: &[u8] = b"http/1.1";

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

/// What is in force, and word of it when that is something else.
#[derive(Debug)]
struct InForce<T> {
    what: RwLock<T>,
    changes: watch::Sender<()>,
}

impl<T: Clone> InForce<T> {
    fn new(what: T) -> Arc<InForce<T>> {
        Arc::new(InForce {
            what: RwLock::new(what),
            changes: watch::Sender::new(()),
        })
    }

    fn get(&self) -> T {
        self.what.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, what: T) {
        *self.what.write().unwrap_or_else(PoisonError::into_inner) = what;
        self.changes.send_replace(());
    }
}

#[derive(Clone, Debug)]
struct ServerSide {
    config: Arc<ServerConfig>,
    /// Who judges the clients' certificates, if they show any.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

#[derive(Clone, Debug)]
struct ClientSide {
    config: Arc<ClientConfig>,
    verifier: Arc<WebPkiServerVerifier>,
}

/// The listening side. Clones share what is in force.
#[derive(Clone, Debug)]
pub struct TlsServer {
    side: Arc<InForce<ServerSide>>,
}

impl TlsServer {
    /// # Errors
    /// When something of `pem` cannot be used.
    pub fn new(pem: Pem<'_>) -> Result<TlsServer, TlsError> {
        Ok(TlsServer {
            side: InForce::new(server_side(pem, H2)?),
        })
    }

    /// As [`TlsServer::new`], for HTTP/1.1.
    ///
    /// # Errors
    /// As [`TlsServer::new`].
    pub fn for_http(pem: Pem<'_>) -> Result<TlsServer, TlsError> {
        Ok(TlsServer {
            side: InForce::new(server_side(pem, HTTP)?),
        })
    }

    /// Takes what is in force in `other`, for connections from now on. Those that stand go on with what they began with,
    /// but for those whose client's certificate is not trusted any more: reading from them fails.
    pub fn replace(&self, other: &TlsServer) {
        self.side.put(other.side.get());
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.side.get().config
    }
}

/// The dialling side. Clones share what is in force.
#[derive(Clone, Debug)]
pub struct TlsClient {
    side: Arc<InForce<ClientSide>>,
}

impl TlsClient {
    /// # Errors
    /// When something of `pem` cannot be used.
    pub fn new(pem: Pem<'_>) -> Result<TlsClient, TlsError> {
        Ok(TlsClient {
            side: InForce::new(client_side(pem)?),
        })
    }

    /// As [`TlsServer::replace`].
    pub fn replace(&self, other: &TlsClient) {
        self.side.put(other.side.get());
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.side.get().config
    }
}

/// Who judges the other side of a connection, again when somebody else is to be trusted.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    OfClients(TlsServer),
    OfServer(TlsClient, ServerName<'static>),
}

impl Trust {
    /// Word of every change from now on; it ends with the last clone of what it is of.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        match self {
            Trust::OfClients(server) => server.side.changes.subscribe(),
            Trust::OfServer(client, _) => client.side.changes.subscribe(),
        }
    }

    /// Whether a connection of whoever has shown these certificates would be made now.
    pub(crate) fn holds(&self, shown: Option<&[CertificateDer<'_>]>) -> bool {
        let now = UnixTime::since_unix_epoch(Clock::wall());
        match (self, shown) {
            (Trust::OfClients(server), Some([own, between @ ..])) => {
                let verifier = server.side.get().verifier;
                verifier.is_none_or(|verifier| verifier.verify_client_cert(own, between, now).is_ok())
            }
            (Trust::OfClients(server), _) => server.side.get().verifier.is_none(),
            (Trust::OfServer(client, name), Some([own, between @ ..])) => {
                let verifier = client.side.get().verifier;
                verifier.verify_server_cert(own, between, name, &[], now).is_ok()
            }
            (Trust::OfServer(..), _) => false,
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_side(pem: Pem<'_>, alpn: &[u8]) -> Result<ServerSide, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let verifier = match pem.authorities.is_empty() {
        true => None,
        false => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pem)?), provider()).build();
            Some(verifier.map_err(|error| TlsError::Refused(error.to_string()))?)
        }
    };
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
    };
    let mut config = builder.with_single_cert(chain(pem)?, key(pem)?)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    let config = Arc::new(config);
    Ok(ServerSide { config, verifier })
}

fn client_side(pem: Pem<'_>) -> Result<ClientSide, TlsError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(pem)?), provider()).build();
    let verifier = verifier.map_err(|error| TlsError::Refused(error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_webpki_verifier(verifier.clone());
    let config = match pem.certificate.is_empty() {
        true => builder.with_no_client_auth(),
        false => builder.with_client_auth_cert(chain(pem)?, key(pem)?)?,
    };
    let config = Arc::new(config);
    Ok(ClientSide { config, verifier })
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
