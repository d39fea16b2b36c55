//! The signature of a Seata registration, and the lines that carry it.
//!
//! A key for the day and the service is derived from the secret by four rounds of HMAC-SHA256, then the text
//! `service group,ip,timestamp` is signed with it. Source: `core/auth/{DefaultAuthSigner,RamSignAdapter}` and
//! `TmNettyRemotingClient.getExtraData` of Seata 1.5.2 to 2.6.0, which all do the same and call it `V4`.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// What Java's default signer calls its way to sign.
pub const VERSION: &str = "V4";
const PREFIX: &str = "aliyun_v4";
const ROUNDS: [&str; 3] = ["cn-beijing", "seata", "aliyun_v4_request"];
/// Java signs this when it finds no address of its own.
const NO_IP: &str = "127.0.0.1";
const DAY_MS: u64 = 86_400_000;
/// Java's `LocalDateTime` goes further; no clock that anybody wants to be believed does.
const TIMESTAMP_MAX: u64 = 253_402_300_799_999;

/// What a registration says of its signature.
#[derive(Clone, Copy, Default)]
pub struct Signed<'a> {
    /// The access key; none when nothing is signed.
    pub access: Option<&'a str>,
    digest: &'a str,
    timestamp: &'a str,
    /// The way in which it says that it is signed.
    pub version: Option<&'a str>,
    ip: Option<&'a str>,
}

impl<'a> Signed<'a> {
    /// Of `extra_data`, which is `key=value` lines. A client without a key sends `ak=null`.
    pub fn of(extra_data: &'a str) -> Signed<'a> {
        let mut signed = Signed::default();
        for (key, value) in extra_data.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "ak" if value != "null" && !value.is_empty() => signed.access = Some(value),
                "digest" => signed.digest = value,
                "timestamp" => signed.timestamp = value,
                "authVersion" => signed.version = Some(value),
                "ip" => signed.ip = Some(value),
                _ => {}
            }
        }
        signed
    }

    /// Milliseconds since the epoch.
    pub fn timestamp_ms(&self) -> Option<u64> {
        self.timestamp.parse().ok().filter(|ms| *ms <= TIMESTAMP_MAX)
    }

    /// Whether `secret` made the digest of a registration for `service_group`.
    pub fn is_by(&self, secret: &str, service_group: &str) -> bool {
        let Some(timestamp_ms) = self.timestamp_ms() else {
            return false;
        };
        let Ok(digest) = STANDARD.decode(self.digest) else {
            return false;
        };
        let text = format!("{service_group},{},{}", self.ip.unwrap_or(NO_IP), self.timestamp);
        // In constant time.
        mac(&key_of(secret, timestamp_ms), &text).verify_slice(&digest).is_ok()
    }
}

/// The `extra_data` of a transaction manager that registers for `service_group`, as Java's client writes it.
pub fn sign(access: &str, secret: &str, service_group: &str, ip: &str, timestamp_ms: u64) -> String {
    let text = format!("{service_group},{ip},{timestamp_ms}");
    let digest = STANDARD.encode(mac(&key_of(secret, timestamp_ms), &text).finalize().into_bytes());
    format!(
        "ak={access}\ndigest={digest}\ntimestamp={timestamp_ms}\nauthVersion={VERSION}\nvgroup={service_group}\nip={ip}\n"
    )
}

fn mac(key: &[u8], text: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac
}

fn key_of(secret: &str, timestamp_ms: u64) -> Vec<u8> {
    let day = day_of(timestamp_ms);
    let rounds = [day.as_str()].into_iter().chain(ROUNDS);
    rounds.fold(format!("{PREFIX}{secret}").into_bytes(), |key, round| {
        mac(&key, round).finalize().into_bytes().to_vec()
    })
}

/// The day in UTC as `yyyyMMdd`. Source of the arithmetic: H. Hinnant, *chrono-compatible low-level date algorithms*,
/// `civil_from_days`.
fn day_of(timestamp_ms: u64) -> String {
    let days = timestamp_ms / DAY_MS + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a secret of the bank";

    /// Made by `RamSignAdapter.getRamSign` of `seata-all` 2.6.0.
    const JAVAS: [(&str, &str, u64, &str); 2] = [
        (
            "default_tx_group",
            "192.168.1.7",
            1_700_000_000_000,
            "5vn6wPXKWm4Jfblq2xQUHORHnmmkWjR6LGxyswirVbU=",
        ),
        (
            "orders",
            "127.0.0.1",
            1_709_251_199_999,
            "c3cw/6DcmFPaNAGnQgPiZouHmP2HWaChxkWWOXRZIPM=",
        ),
    ];

    #[test]
    fn what_java_signed_is_signed_alike_and_believed() {
        for (group, ip, at, digest) in JAVAS {
            let extra = sign("key", SECRET, group, ip, at);
            assert!(extra.contains(&format!("\ndigest={digest}\n")), "{extra}");
            assert!(Signed::of(&extra).is_by(SECRET, group));
        }
    }

    #[test]
    fn no_part_of_what_was_signed_can_be_another() {
        let (group, ip, at, _) = JAVAS[0];
        let extra = sign("key", SECRET, group, ip, at);
        assert!(!Signed::of(&extra).is_by("another secret", group));
        assert!(!Signed::of(&extra).is_by(SECRET, "another group"));
        for (part, other) in [
            ("192.168.1.7", "192.168.1.8"),
            ("timestamp=17", "timestamp=16"),
            ("digest=5", "digest=6"),
            ("digest=5", "digest=*"),
        ] {
            let changed = extra.replace(part, other);
            assert_ne!(changed, extra);
            assert!(!Signed::of(&changed).is_by(SECRET, group), "{part}");
        }
        for nothing in [
            "",
            "ak=key\ndigest=\ntimestamp=\n",
            "digest=AA==\ntimestamp=1",
            "timestamp=-1",
        ] {
            assert!(!Signed::of(nothing).is_by(SECRET, group), "{nothing}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (at, day) in [
            (0, "19700101"),
            (951_782_399_999, "20000228"),
            (951_782_400_000, "20000229"),
            (1_709_251_199_999, "20240229"),
            (1_709_251_200_000, "20240301"),
            (4_107_542_399_999, "21000228"),
            (4_107_542_400_000, "21000301"),
            (TIMESTAMP_MAX, "99991231"),
        ] {
            assert_eq!(day_of(at), day, "{at}");
        }
    }
}
