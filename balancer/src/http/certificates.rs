//! Whether certificates can be used, before they are: `balancer check-config`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};

use super::tls;
use crate::config::Http;

/// Reads the certificates and keys of a service, as `attach` does, and looks at their dates. `now` is the time since 1970.
///
/// # Errors
///
/// A file can't be read, a key isn't its certificate's, or clients would refuse a certificate, as its time hasn't come or is over.
pub fn check(http: &Http, now: Duration) -> Result<()> {
    if http.certificates.is_empty() {
        return Ok(());
    }
    let pairs = http.certificates.iter();
    tls::load(pairs.map(|pair| (pair.certificate.as_path(), pair.key.as_path())))?;
    for pair in &http.certificates {
        let path = &pair.certificate;
        check_dates(path, now).with_context(|| format!("cannot use {}", path.display()))?;
    }
    Ok(())
}

fn check_dates(path: &Path, now: Duration) -> Result<()> {
    let certificate = CertificateDer::from_pem_file(path)?;
    let verified = verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(&certificate)?,
        // Nobody's word is taken: dates are looked at first, and who signed it is for clients to judge.
        &RootCertStore::empty(),
        &[],
        UnixTime::since_unix_epoch(now),
        ring::default_provider()
            .signature_verification_algorithms
            .all,
    );
    let Err(Error::InvalidCertificate(error)) = verified else {
        return Ok(());
    };
    let hours = |from: UnixTime, to: UnixTime| to.as_secs().saturating_sub(from.as_secs()) / 3_600;
    match error {
        CertificateError::ExpiredContext { time, not_after } => bail!(
            "it expired {} h ago, and clients refuse it: put a new one there",
            hours(not_after, time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => bail!(
            "it is not valid for another {} h, and clients refuse it: is this host's clock right?",
            hours(time, not_before)
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;

    /// An hour, in seconds.
    const HOUR: u64 = 3_600;

    /// From 2026-11-23 23:28:13 UTC on.
    const BEGIN: u64 = 1_795_476_493;

    /// To 30 days later.
    const END: u64 = BEGIN + 30 * 24 * HOUR;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBbTCCAROgAwIBAgIUK+QJIBxxIfk+S/Qp45D1s80nUwcwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBYTAeFw0yNjExMjMyMzI4MTNaFw0yNjEyMjMyMzI4MTNaMAwx
CjAIBgNVBAMMAWEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR/ohMgvPXhUpVF
P4UDt+O64NnbUm87ZZlHJx+kPOUdZq9CY00iFCYrj3P7aoGpPc+vsHmjRUaue/CJ
CpR24lwJo1MwUTAdBgNVHQ4EFgQUIAUAH3XOa9xnEk5Fs1bi6KacVHEwHwYDVR0j
BBgwFoAUIAUAH3XOa9xnEk5Fs1bi6KacVHEwDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNIADBFAiEAgeTjzx/WHamJiqX/LiAdG9Hj2ZlHwUqj+6NpuvG/cuoC
IAQZnFUl5F1XL39I/PsvARLRuCOIsTXvtmNnbDtPRjaz
-----END CERTIFICATE-----
";

    const KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgf8HU+/sc5FnlqT7g
6dDS2lEcjjJQGs8lsgYboEf3TDahRANCAAR/ohMgvPXhUpVFP4UDt+O64NnbUm87
ZZlHJx+kPOUdZq9CY00iFCYrj3P7aoGpPc+vsHmjRUaue/CJCpR24lwJ
-----END PRIVATE KEY-----
";

    const OTHER_KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgJQ0SeE8yhwmE0Ory
OehLLqs043cpwlD+6W2pz4D1qjuhRANCAARpqi6PZy4Jp7cHrFEaZ9+fpLMmRdgk
2yeLzUIS9kW3Ulcc/6eCR5vIOSK3VtsKxF2jDILnr4QaIhrUCU8OKNkC
-----END PRIVATE KEY-----
";

    fn judged(certificate: &str, key: &str, now: u64) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [("www.pem", certificate), ("www.key", key)] {
            if !text.is_empty() {
                fs::write(dir.path().join(file), text).unwrap();
            }
        }
        let text = "[[http]]\nservice = \"www\"\nbackend = \"127.0.0.1:8080\"\n\
                    certificates = [{ certificate = \"DIR/www.pem\", key = \"DIR/www.key\" }]\n";
        let dir = dir.path().display().to_string();
        let config = Config::parse(&text.replace("DIR", &dir), "test").unwrap();
        match check(&config.http[0], Duration::from_secs(now)) {
            Ok(()) => "fine".to_owned(),
            Err(error) => format!("{error:#}").replace(&dir, "DIR"),
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_of() {
        for now in [BEGIN, END - HOUR] {
            assert_eq!(judged(CERTIFICATE, KEY, now), "fine");
        }
        for (certificate, key, now, parts) in [
            (
                CERTIFICATE,
                KEY,
                END + 50 * HOUR,
                ["DIR/www.pem", "expired 50 h ago"],
            ),
            (
                CERTIFICATE,
                KEY,
                BEGIN - 3 * HOUR,
                ["DIR/www.pem", "for another 3 h"],
            ),
            (
                CERTIFICATE,
                OTHER_KEY,
                BEGIN,
                ["DIR/www.pem with the key DIR/www.key", "KeyMismatch"],
            ),
            ("", KEY, BEGIN, ["cannot use DIR/www.pem", "No such file"]),
            (
                CERTIFICATE,
                "",
                BEGIN,
                ["cannot use DIR/www.key", "No such file"],
            ),
            (KEY, KEY, BEGIN, ["DIR/www.pem", "no certificate in it"]),
            (
                CERTIFICATE,
                CERTIFICATE,
                BEGIN,
                ["cannot use DIR/www.key", ""],
            ),
        ] {
            let judged = judged(certificate, key, now);
            assert!(
                parts.iter().all(|part| judged.contains(part)),
                "{judged}: {parts:?}"
            );
        }
    }
}
