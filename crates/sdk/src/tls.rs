//! TLS to the coordinators, by `rustls`.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard},
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::Error;

/// Whom a client trusts, and the certificate that it shows. The name that a coordinator's certificate has to be of is the
/// host in its address. Clones are the same: what one of them [replaces](Tls::replace) is replaced for every client that
/// was given one.
#[derive(Clone)]
pub struct Tls {
    config: Arc<Mutex<Arc<ClientConfig>>>,
}

impl Tls {
    /// As the application says.
    pub fn new(config: Arc<ClientConfig>) -> Tls {
        Tls {
            config: Arc::new(Mutex::new(config)),
        }
    }

    /// From now on connections are made with what `other` has, as when certificates are renewed. Those that stand go on as
    /// they are.
    pub fn replace(&self, other: &Tls) {
        let config = other.config().clone();
        *self.config() = config;
    }

    fn config(&self) -> MutexGuard<'_, Arc<ClientConfig>> {
        self.config.lock().expect("no holder of this lock panics")
    }

    /// Trusts coordinators whose certificates `authorities` have signed, and shows the certificate `own` with its key if
    /// there is one. All in PEM; a chain begins with the own certificate.
    ///
    /// # Errors
    /// [`Error::Options`] when that is no PEM, or does not fit together.
    pub fn from_pem(authorities: &[u8], own: Option<(&[u8], &[u8])>) -> Result<Tls, Error> {
        let options = |problem| Error::Options { problem };
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(authorities) {
            let authority = authority.map_err(|_| options("the authorities of TLS are no PEM"))?;
            let added = roots.add(authority);
            added.map_err(|_| options("an authority of TLS is no certificate"))?;
        }
        if roots.is_empty() {
            return Err(options("there are no authorities of TLS"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|_| options("TLS has no protocol version"))?;
        let builder = builder.with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
                let chain = chain.map_err(|_| options("the certificate of TLS is no PEM"))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| options("the key of TLS is no PEM"))?;
                let config = builder.with_client_auth_cert(chain, key);
                config.map_err(|_| options("the certificate of TLS and its key do not fit"))?
            }
        };
        Ok(Tls::new(Arc::new(config)))
    }

    pub(crate) async fn connect(&self, address: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let config = self.config().clone();
        TlsConnector::from(config).connect(name, stream).await
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Tls) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
