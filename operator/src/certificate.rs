//! The certificate of the secrets endpoint: a CA of our own and what it signed, in a Secret; the CA is published in a
//! ConfigMap, where agents read it. The leader makes it when it is missing or near its end; every replica serves with what
//! the Secret says, from the moment it says it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::{Timestamp, ToSpan, tz::TimeZone};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::json;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::args::RunArgs;
use crate::lease::Leadership;
use crate::watch::Stores;

/// Days that a certificate lasts.
const DAYS: i64 = 365;
/// A new one is made so many days before the end.
const RENEW_DAYS: i64 = 30;
/// How often it is looked at, beside changes.
const LOOK: Duration = Duration::from_secs(3600);
/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// Keys of the Secret.
const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const CERT: &str = "tls.crt";
const KEY: &str = "tls.key";

/// The name that the certificate is made for.
pub fn dns_name(service: &str, namespace: &str) -> String {
    format!("{service}.{namespace}.svc")
}

/// A CA, and a certificate that it signed; all as PEM.
#[derive(Clone)]
struct Bundle {
    /// The CA, and after it the one before, while agents may still meet a replica that serves with that.
    ca_cert: String,
    ca_key: String,
    cert: String,
    key: String,
}

impl Bundle {
    /// Makes both anew. The CA's name has its date, so that two of them can be told apart.
    fn make(dns_name: &str, now: Timestamp) -> anyhow::Result<Self> {
        let day = |days: i64| -> anyhow::Result<_> {
            let at = now.checked_add((days * 24).hours())?.to_zoned(TimeZone::UTC).date();
            Ok(rcgen::date_time_ymd(at.year().into(), u8::try_from(at.month())?, u8::try_from(at.day())?))
        };
        // Clocks differ.
        let (from, to) = (day(-1)?, day(DAYS)?);
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name = rcgen::DistinguishedName::new();
        ca.distinguished_name.push(DnType::CommonName, format!("dmvpn-operator CA {}", now.as_second()));
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (ca.not_before, ca.not_after) = (from, to);
        let ca_cert = ca.self_signed(&ca_key)?;

        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(vec![dns_name.to_owned()])?;
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        // At most 64 characters; clients look at the alternative name.
        leaf.distinguished_name.push(DnType::CommonName, "dmvpn-operator");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        (leaf.not_before, leaf.not_after) = (from, to);
        let cert = leaf.signed_by(&key, &Issuer::from_params(&ca, &ca_key))?;
        Ok(Self {
            ca_cert: ca_cert.pem(),
            ca_key: ca_key.serialize_pem(),
            cert: cert.pem(),
            key: key.serialize_pem(),
        })
    }

    /// As it is in the Secret; `None`: a key is missing.
    fn read(secret: &Secret) -> Option<Self> {
        let text = |key: &str| {
            let bytes = &secret.data.as_ref()?.get(key)?.0;
            String::from_utf8(bytes.clone()).ok().filter(|t| !t.is_empty())
        };
        Some(Self { ca_cert: text(CA_CERT)?, ca_key: text(CA_KEY)?, cert: text(CERT)?, key: text(KEY)? })
    }

    fn data(&self) -> BTreeMap<&str, ByteString> {
        let parts = [(CA_CERT, &self.ca_cert), (CA_KEY, &self.ca_key), (CERT, &self.cert), (KEY, &self.key)];
        parts.into_iter().map(|(k, v)| (k, ByteString(v.clone().into_bytes()))).collect()
    }

    /// What the server needs; fails unless the key belongs to the certificate, and a client would take it at that time.
    fn server(&self, dns_name: &str, at: Timestamp) -> anyhow::Result<Arc<ServerConfig>> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(self.cert.as_bytes()).collect::<Result<_, _>>().context(CERT)?;
        let mut roots = rustls::RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(self.ca_cert.as_bytes()) {
            roots.add(ca.context(CA_CERT)?)?;
        }
        let first = chain.first().context("tls.crt holds no certificate")?;
        let seconds = u64::try_from(at.as_second()).context("the clock is before 1970")?;
        WebPkiServerVerifier::builder(Arc::new(roots)).build()?.verify_server_cert(
            first,
            chain.get(1..).unwrap_or_default(),
            &ServerName::try_from(dns_name.to_owned())?,
            &[],
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
        )?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context(KEY)?;
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Serves with what the Secret says, and makes it anew when it has to be and we lead. Never ends.
pub async fn keep(
    client: Client,
    args: RunArgs,
    stores: Stores,
    mut leadership: Leadership,
    server: watch::Sender<Option<Arc<ServerConfig>>>,
) {
    let dns_name = dns_name(&args.service, &args.namespace);
    let mut serving = None;
    loop {
        let mut wait = LOOK;
        // Until the watch has listed, "no Secret" means nothing: the notification comes.
        let secret = stores.certificate();
        let read = secret.as_deref().and_then(Bundle::read);
        if let Some(bundle) = &read
            && serving.as_ref() != Some(&bundle.cert)
        {
            match bundle.server(&dns_name, Timestamp::now()) {
                Ok(config) => {
                    server.send_replace(Some(config));
                    serving = Some(bundle.cert.clone());
                    info!(name = dns_name, "serving with the certificate of the Secret");
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "the certificate in the Secret cannot be used");
                }
            }
        }
        if leadership.may_write()
            && stores.certificate_listed()
            && let Err(error) = mend(&client, &args, &dns_name, read).await
        {
            warn!(error = format!("{error:#}"), "the certificate cannot be kept, trying again");
            wait = RETRY;
        }
        tokio::select! {
            () = stores.tls_changed.notified() => {}
            () = leadership.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Makes the certificate if it has to be made, and publishes the CA if it is not.
async fn mend(client: &Client, args: &RunArgs, dns_name: &str, read: Option<Bundle>) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let later = now.checked_add((RENEW_DAYS * 24).hours())?;
    let sound = read.as_ref().map(|bundle| bundle.server(dns_name, later));
    let bundle = match (read, sound) {
        (Some(bundle), Some(Ok(_))) => bundle,
        (old, sound) => {
            let why = match &sound {
                Some(Err(error)) => format!("{error:#}"),
                _ => "there is none".to_owned(),
            };
            let mut bundle = Bundle::make(dns_name, now)?;
            let latest =
                old.as_ref().and_then(|b| b.ca_cert.split_inclusive("-----END CERTIFICATE-----").next());
            if let Some(before) = latest.filter(|ca| CertificateDer::from_pem_slice(ca.as_bytes()).is_ok()) {
                bundle.ca_cert = format!("{}{}\n", bundle.ca_cert, before.trim());
            }
            // The CA is published before anybody serves with what it signed.
            publish(client, args, &bundle.ca_cert).await?;
            store(client, args, &bundle).await?;
            info!(name = dns_name, why, "made a certificate");
            return Ok(());
        }
    };
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &args.namespace);
    let map = maps.get_opt(&args.ca_config_map).await.context("the ConfigMap of the CA")?;
    let published = map.and_then(|map| map.data?.get(CA_CERT).cloned());
    if published.as_ref() != Some(&bundle.ca_cert) {
        publish(client, args, &bundle.ca_cert).await?;
        info!(config_map = args.ca_config_map, "published the CA");
    }
    Ok(())
}

async fn publish(client: &Client, args: &RunArgs, ca: &str) -> anyhow::Result<()> {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": args.ca_config_map}, "data": {CA_CERT: ca}});
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &args.namespace);
    let params = PatchParams::apply(crds::OPERATOR_MANAGER).force();
    maps.patch(&args.ca_config_map, &params, &Patch::Apply(body)).await.context("the ConfigMap of the CA")?;
    Ok(())
}

async fn store(client: &Client, args: &RunArgs, bundle: &Bundle) -> anyhow::Result<()> {
    let body = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": args.tls_secret}, "data": bundle.data()});
    let secrets = Api::<Secret>::namespaced(client.clone(), &args.namespace);
    let params = PatchParams::apply(crds::OPERATOR_MANAGER).force();
    let stored = secrets.patch(&args.tls_secret, &params, &Patch::Apply(body)).await.context("the Secret")?;
    ensure!(Bundle::read(&stored).is_some(), "Secret {} did not take the certificate", args.tls_secret);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(days: i64) -> Timestamp {
        "2026-05-05T12:00:00Z".parse::<Timestamp>().unwrap().checked_add((days * 24).hours()).unwrap()
    }

    #[test]
    fn what_is_made_can_be_served_for_a_year_under_its_name_only() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let name = "dmvpn-operator.dmvpn-system.svc";
        let bundle = Bundle::make(name, now(0)).unwrap();
        for days in [0, DAYS - RENEW_DAYS - 1] {
            bundle.server(name, now(days)).unwrap();
        }
        assert!(bundle.server(name, now(DAYS)).is_err(), "over");
        assert!(bundle.server("other.svc", now(0)).is_err());
        let other = Bundle::make(name, now(0)).unwrap();
        let mixed = Bundle { key: other.key.clone(), ..bundle.clone() };
        assert!(mixed.server(name, now(0)).is_err(), "another's key");
        let mixed = Bundle { ca_cert: other.ca_cert.clone(), ..bundle.clone() };
        assert!(mixed.server(name, now(0)).is_err(), "another's CA");
        let both = Bundle { ca_cert: other.ca_cert + &bundle.ca_cert, ..bundle.clone() };
        both.server(name, now(0)).unwrap();

        let data = bundle.data().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let secret = Secret { data: Some(data), ..Secret::default() };
        assert_eq!(Bundle::read(&secret).unwrap().cert, bundle.cert);
        // as the chart makes it
        assert!(Bundle::read(&Secret::default()).is_none());
    }
}
