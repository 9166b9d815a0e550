//! A node's own certificate, its key and the roots that it trusts: read, and judged as far as we can without a peer.
//! Pure.
//!
//! A peer that does not take our certificate says no more than that it failed. So what we can see ourselves (a clock in
//! 1970, a root that is not ours) we say ourselves.

use std::sync::Arc;
use std::time::Duration;

use crds::Reason;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};

use super::ipsec::PrivateKey;
use crate::ladder::Trouble;

/// Year 9999, which certificates without an end have.
const FAR: u64 = 253_402_300_799;

/// What proves who we are, and who others may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Our certificate, as DER.
    pub own: Vec<u8>,
    /// Its key.
    pub key: PrivateKey,
    /// Roots, as DER.
    pub roots: Vec<Vec<u8>>,
    /// Seconds since 1970 between which it is valid; `None`: that cannot be told.
    valid: Option<(u64, u64)>,
    /// Whether one of the roots signed it, as far as we can tell.
    trusted: bool,
}

impl Certificate {
    /// Reads PEM: `tls.crt`, `tls.key`, and one or more `ca.crt`.
    ///
    /// # Errors
    /// What is wrong, and with which of them.
    pub fn read(certificate: &[u8], key: &[u8], roots: &[Vec<u8>]) -> Result<Self, String> {
        let mut chain = read_certificates(certificate, "tls.crt")?;
        if chain.len() != 1 {
            return Err(format!(
                "tls.crt holds {} certificates: keep the node's own there alone, and put the one that signed it into \
                 ca.crt",
                chain.len()
            ));
        }
        let own = chain.remove(0);
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| "tls.key holds no private key as PEM: put the key of tls.crt there".to_owned())?;
        let mut store = RootCertStore::empty();
        let mut all = Vec::new();
        for root in roots {
            for root in read_certificates(root, "ca.crt")? {
                store
                    .add(root.clone())
                    .map_err(|e| format!("ca.crt holds a certificate that is none: {e}"))?;
                all.push(root.to_vec());
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        match CertifiedKey::from_der(vec![own.clone()], key.clone_key(), &provider) {
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(
                    "tls.key does not belong to tls.crt: put the key that it was made with there".to_owned()
                );
            }
            Err(rustls::Error::InvalidCertificate(CertificateError::BadEncoding)) => {
                return Err("tls.crt holds a certificate that cannot be read: issue it anew".to_owned());
            }
            // A kind of key that the IKE daemon may know, and we do not.
            Ok(_) | Err(_) => {}
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
            .build()
            .map_err(|e| format!("ca.crt cannot be used: {e}"))?;
        let at = |seconds: u64| verify(verifier.as_ref(), &own, seconds);
        // The verifier tells the limits when it is asked about times beyond them.
        let from = match at(0) {
            Some(CertificateError::NotValidYetContext { not_before, .. }) => Some(not_before.as_secs()),
            _ => None,
        };
        let until = match at(FAR) {
            Some(CertificateError::ExpiredContext { not_after, .. }) => Some(not_after.as_secs()),
            _ => None,
        };
        let valid = from.zip(until);
        let trusted = valid.is_none_or(|(from, _)| at(from) != Some(CertificateError::UnknownIssuer));
        let key = match &key {
            PrivateKeyDer::Pkcs1(_) => PrivateKey::new("rsa", key.secret_der()),
            PrivateKeyDer::Sec1(_) => PrivateKey::new("ecdsa", key.secret_der()),
            _ => PrivateKey::new("any", key.secret_der()),
        };
        Ok(Self { own: own.to_vec(), key, roots: all, valid, trusted })
    }

    /// Why nobody will take it at `now`, in seconds since 1970.
    pub fn trouble(&self, now: u64) -> Option<Trouble> {
        let (reason, what) = match self.valid {
            Some((from, _)) if now < from => {
                let what =
                    format!("our certificate is valid from {}, and the clock says {}", day(from), day(now));
                (Reason::CertificateNotYetValid, what)
            }
            Some((_, until)) if now > until => {
                (Reason::CertificateExpired, format!("our certificate was valid until {}", day(until)))
            }
            _ if !self.trusted => {
                (Reason::CertificateNotTrusted, "none of our roots signed our certificate".to_owned())
            }
            _ => return None,
        };
        Some(Trouble::new(reason, format!("{what}: {}", reason.cure())))
    }
}

fn read_certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(format!("{what} holds no certificate as PEM: put one there")),
    }
}

/// What is wrong with a certificate at a time, as far as that is known.
fn verify(
    verifier: &dyn ClientCertVerifier,
    own: &CertificateDer<'_>,
    seconds: u64,
) -> Option<CertificateError> {
    let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    match verifier.verify_client_cert(own, &[], at) {
        Err(rustls::Error::InvalidCertificate(why)) => Some(why),
        Ok(_) | Err(_) => None,
    }
}

/// A time as people read it.
fn day(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|s| k8s_openapi::jiff::Timestamp::from_second(s).ok());
    at.map_or_else(|| seconds.to_string(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

    use super::*;

    /// A root, by name: its PEM, and a leaf with its key.
    fn issue(root: &str) -> (String, String, String) {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, root);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec!["west.example.net".to_owned()]).unwrap();
        (leaf.not_before, leaf.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
        let leaf = leaf.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).unwrap();
        (ca_pem, leaf.pem(), key.serialize_pem())
    }

    fn read(certificate: &str, key: &str, root: &str) -> Result<Certificate, String> {
        Certificate::read(certificate.as_bytes(), key.as_bytes(), &[root.as_bytes().to_vec()])
    }

    #[test]
    fn what_nobody_would_take_is_known_at_home() {
        let (root, leaf, key) = issue("one");
        let (other, ..) = issue("two");
        let good = read(&leaf, &key, &root).unwrap();
        let reason = |it: &Certificate, now: u64| it.trouble(now).map(|t| (t.reason, t.message));
        assert_eq!(reason(&good, 1_750_000_000), None);
        let (early, message) = reason(&good, 3600).unwrap();
        assert_eq!(early, Reason::CertificateNotYetValid);
        assert!(message.contains("2020-01-01") && message.contains("1970-01-01"), "{message}");
        assert_eq!(reason(&good, 1_900_000_000).unwrap().0, Reason::CertificateExpired);
        let foreign = read(&leaf, &key, &other).unwrap();
        assert_eq!(reason(&foreign, 1_750_000_000).unwrap().0, Reason::CertificateNotTrusted);
        // Two roots while one is exchanged for the other.
        let both = read(&leaf, &key, &(other + &root)).unwrap();
        assert_eq!((reason(&both, 1_750_000_000), both.roots.len()), (None, 2));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let (root, leaf, key) = issue("one");
        let (_, _, foreign) = issue("two");
        let chain = format!("{leaf}{root}");
        for (certificate, key, root, want) in [
            ("x", key.as_str(), root.as_str(), "tls.crt holds no certificate"),
            (&leaf, "x", &root, "tls.key holds no private key"),
            (&leaf, &foreign, &root, "tls.key does not belong to tls.crt"),
            (&leaf, &key, "x", "ca.crt holds no certificate"),
            (&chain, &key, &root, "tls.crt holds 2 certificates"),
        ] {
            let told = read(certificate, key, root).unwrap_err();
            assert!(told.contains(want), "{told}");
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let (root, leaf, key) = issue("one");
        let shown = format!("{:?}", read(&leaf, &key, &root).unwrap().key);
        assert!(shown.contains("bytes") && shown.len() < 80, "{shown}");
    }
}
