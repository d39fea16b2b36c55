//! The files that TLS is made of. Read at the start, and again when one of them changes.

use std::path::Path;

use settle_base::ErrorCode;
use settle_net::{Pem, TlsClient, TlsError, TlsServer};

use super::{TlsSettings, TxTls};

/// A bundle of all public authorities is shorter.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    #[error("cannot read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} has {bytes} bytes, and at most {FILE_BYTES_MAX} are read")]
    TooLong { path: String, bytes: u64 },
    #[error("TLS with {certificate}: {error}")]
    Tls { certificate: String, error: TlsError },
}

impl CertificatesError {
    pub fn code(&self) -> ErrorCode {
        match self {
            CertificatesError::Read { .. } | CertificatesError::TooLong { .. } => ErrorCode::new("CF", 9),
            CertificatesError::Tls { error, .. } => error.code(),
        }
    }
}

/// What TLS is made of, and what stood in its files the last time.
#[derive(Debug)]
pub struct Certificates {
    settings: TlsSettings,
    /// What was put in force, or told of as bad.
    taken: Files,
    /// What stood in them at the last look, if that was something else.
    looked: Option<Files>,
    tx: Option<TlsServer>,
    peer: Option<(TlsServer, TlsClient)>,
    http: Option<TlsServer>,
}

#[derive(Clone, PartialEq, Eq, Default)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_authorities: Vec<u8>,
    peer_authorities: Vec<u8>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A key is among them.
        f.write_str("…")
    }
}

impl Files {
    fn read(settings: &TlsSettings) -> Result<Files, CertificatesError> {
        Ok(Files {
            certificate: read(&settings.certificate)?,
            key: read(&settings.key)?,
            client_authorities: read(&settings.client_authorities)?,
            peer_authorities: read(&settings.peer_authorities)?,
        })
    }

    fn for_tx(&self) -> Pem<'_> {
        Pem {
            certificate: &self.certificate,
            key: &self.key,
            authorities: &self.client_authorities,
        }
    }

    /// Operators show tokens.
    fn for_http(&self) -> Pem<'_> {
        Pem {
            authorities: &[],
            ..self.for_tx()
        }
    }

    fn for_peers(&self) -> Pem<'_> {
        Pem {
            authorities: &self.peer_authorities,
            ..self.for_tx()
        }
    }
}

impl Certificates {
    /// Reads the files for the first time. Nothing is read when TLS is off.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn open(settings: &TlsSettings) -> Result<Certificates, CertificatesError> {
        Certificates::of(settings, Files::read(settings)?)
    }

    fn of(settings: &TlsSettings, seen: Files) -> Result<Certificates, CertificatesError> {
        let refused = |error| CertificatesError::Tls {
            certificate: settings.certificate.display().to_string(),
            error,
        };
        let (mut tx, mut peer, mut http) = (None, None, None);
        if settings.tx != TxTls::Off {
            tx = Some(TlsServer::new(seen.for_tx()).map_err(refused)?);
        }
        if settings.peer {
            let server = TlsServer::new(seen.for_peers()).map_err(refused)?;
            peer = Some((server, TlsClient::new(seen.for_peers()).map_err(refused)?));
        }
        if settings.http {
            http = Some(TlsServer::for_http(seen.for_http()).map_err(refused)?);
        }
        Ok(Certificates {
            settings: settings.clone(),
            taken: seen,
            looked: None,
            tx,
            peer,
            http,
        })
    }

    pub fn tx(&self) -> Option<TlsServer> {
        self.tx.clone()
    }

    pub fn http(&self) -> Option<TlsServer> {
        self.http.clone()
    }

    /// The listening and the dialling side between servers.
    pub fn peer(&self) -> Option<(TlsServer, TlsClient)> {
        self.peer.clone()
    }

    /// Whether there is nothing to look at.
    pub fn are_none(&self) -> bool {
        self.tx.is_none() && self.peer.is_none() && self.http.is_none()
    }

    /// Puts the files in force if one has another content than what was taken, and two looks in a row found the same: one
    /// that is being written is half there. Says whether it has. What cannot be used is told of once, and changes nothing:
    /// a certificate and its key are never replaced at the same moment.
    ///
    /// # Errors
    /// As [`Certificates::open`].
    pub fn changed(&mut self) -> Result<bool, CertificatesError> {
        let files = Files::read(&self.settings)?;
        if files == self.taken {
            self.looked = None;
            return Ok(false);
        }
        if self.looked.as_ref() != Some(&files) {
            self.looked = Some(files);
            return Ok(false);
        }
        self.looked = None;
        self.taken = files.clone();
        // All of it must be good before any of it is used.
        let new = Certificates::of(&self.settings, files)?;
        if let (Some(tx), Some(new)) = (&self.tx, &new.tx) {
            tx.replace(new);
        }
        if let (Some((server, client)), Some((new_server, new_client))) = (&self.peer, &new.peer) {
            server.replace(new_server);
            client.replace(new_client);
        }
        if let (Some(http), Some(new)) = (&self.http, &new.http) {
            http.replace(new);
        }
        Ok(true)
    }
}

/// Nothing for a path that was not set.
fn read(path: &Path) -> Result<Vec<u8>, CertificatesError> {
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let shown = || path.display().to_string();
    let failed = |source| CertificatesError::Read { path: shown(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(CertificatesError::TooLong { path: shown(), bytes });
    }
    std::fs::read(path).map_err(failed)
}
