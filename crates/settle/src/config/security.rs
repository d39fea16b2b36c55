//! The sections `tls` and `auth`.

use std::{path::PathBuf, time::Duration};

use settle_base::ByteSize;

use super::{ConfigError, Values};

/// Which connections are by TLS, and with what.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    pub tx: TxTls,
    pub peer: bool,
    pub http: bool,
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_authorities: PathBuf,
    pub peer_authorities: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TxTls {
    Off,
    On,
    Mutual,
}

/// How clients authenticate.
#[derive(Clone, Debug)]
pub struct AuthSettings {
    pub policy: PathBuf,
    pub signature_age: Duration,
    pub signature_ahead: Duration,
    pub unsigned_beside: bool,
    pub register_within: Duration,
    pub max_registration_bytes: usize,
}

pub(super) fn tls(values: &Values) -> Result<TlsSettings, ConfigError> {
    let path = |name| values.text(name).map(PathBuf::from);
    let settings = TlsSettings {
        tx: match values.choice("tls.tx")?.as_str() {
            "on" => TxTls::On,
            "mutual" => TxTls::Mutual,
            _ => TxTls::Off,
        },
        peer: values.choice("tls.peer")? == "mutual",
        http: values.choice("tls.http")? == "on",
        certificate: path("tls.certificate")?,
        key: path("tls.key")?,
        client_authorities: path("tls.client-authorities")?,
        peer_authorities: path("tls.peer-authorities")?,
    };
    let is_any = settings.tx != TxTls::Off || settings.peer || settings.http;
    for (name, path, is_needed, why) in [
        ("tls.certificate", &settings.certificate, is_any, "TLS is on"),
        ("tls.key", &settings.key, is_any, "TLS is on"),
        (
            "tls.client-authorities",
            &settings.client_authorities,
            settings.tx == TxTls::Mutual,
            "tls.tx is \"mutual\"",
        ),
        (
            "tls.peer-authorities",
            &settings.peer_authorities,
            settings.peer,
            "tls.peer is \"mutual\"",
        ),
    ] {
        let reason = match (is_needed, path.as_os_str().is_empty()) {
            (true, true) => format!("{name} is needed when {why}"),
            // Whoever wrote it believes that it is used.
            (false, false) => format!("{name} is used only when {why}"),
            _ => continue,
        };
        return Err(ConfigError::Contradiction { reason });
    }
    Ok(settings)
}

pub(super) fn auth(values: &Values) -> Result<Option<AuthSettings>, ConfigError> {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let settings = AuthSettings {
        policy: values.text("auth.policy")?.into(),
        signature_age: values.duration("auth.signature-age", Duration::from_secs(1), minutes(1_440))?,
        signature_ahead: values.duration("auth.signature-ahead", Duration::ZERO, minutes(60))?,
        unsigned_beside: values.choice("auth.unsigned-resource-managers")? != "refuse",
        register_within: values.duration("auth.register-within", Duration::from_millis(100), minutes(10))?,
        max_registration_bytes: values.size("auth.max-registration", ByteSize::kib(1), ByteSize::mib(8))? as usize,
    };
    let is_required = values.choice("auth.clients")? == "required";
    match (is_required, settings.policy.as_os_str().is_empty()) {
        (true, true) => Err(ConfigError::Contradiction {
            reason: "auth.clients is \"required\", but auth.policy names no file that says who may connect".to_owned(),
        }),
        // Whoever wrote a policy believes that it holds.
        (false, false) => Err(ConfigError::Contradiction {
            reason: "auth.policy names a file, but auth.clients is \"none\", so that nothing in it would hold"
                .to_owned(),
        }),
        (is_required, _) => Ok(is_required.then_some(settings)),
    }
}
