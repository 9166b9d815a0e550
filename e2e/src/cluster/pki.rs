//! The certificates of one cluster: one authority for servers and clients, the service-account key pair, and
//! kubeconfig files. All are files in one folder, so that a process elsewhere (in the guest) can issue more.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

use crate::enter::base64;

/// Who a certificate is for: `CN` and `O` of its subject.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The user (or server).
    pub name: &'a str,
    /// Its group; empty for none.
    pub group: &'a str,
}

/// The authority of one cluster and the folder that holds what it has issued.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Makes the authority and the key that service-account tokens are signed with.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let key = KeyPair::generate()?;
        write(dir, "ca.crt", &authority().self_signed(&key)?.pem())?;
        write(dir, "ca.key", &key.serialize_pem())?;
        let tokens = KeyPair::generate()?;
        write(dir, "sa.key", &tokens.serialize_pem())?;
        write(dir, "sa.pub", &tokens.public_key_pem())?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(authority(), key) })
    }

    /// An authority that was made before.
    ///
    /// # Errors
    /// When the folder does not hold one.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("ca.key");
        let key = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(authority(), KeyPair::from_pem(&key)?) })
    }

    /// A file in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `FILE.crt` and `FILE.key` for a client.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn client(&self, file: &str, subject: Subject<'_>) -> Result<()> {
        let mut params = leaf(subject);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, &params)
    }

    /// `FILE.crt` and `FILE.key` for a server under these names and addresses.
    ///
    /// # Errors
    /// When a name is no DNS name, or they cannot be written.
    pub fn server(
        &self,
        file: &str,
        subject: Subject<'_>,
        names: &[&str],
        addresses: &[IpAddr],
    ) -> Result<()> {
        let mut params = leaf(subject);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        self.issue(file, &params)
    }

    /// A client certificate and `FILE.kubeconfig` with it, complete in itself.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, file: &str, subject: Subject<'_>, server: &str) -> Result<PathBuf> {
        self.client(file, subject)?;
        let data = |name: &str| -> Result<String> { Ok(base64(&fs::read(self.path(name))?)) };
        let text = format!(
            "apiVersion: v1
kind: Config
clusters:
- name: lab
  cluster: {{server: '{server}', certificate-authority-data: {}}}
users:
- name: lab
  user: {{client-certificate-data: {}, client-key-data: {}}}
contexts:
- name: lab
  context: {{cluster: lab, user: lab}}
current-context: lab
",
            data("ca.crt")?,
            data(&format!("{file}.crt"))?,
            data(&format!("{file}.key"))?
        );
        write(&self.dir, &format!("{file}.kubeconfig"), &text)
    }

    fn issue(&self, file: &str, params: &CertificateParams) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(&self.dir, &format!("{file}.crt"), &certificate.pem())?;
        write(&self.dir, &format!("{file}.key"), &key.serialize_pem()).map(drop)
    }
}

/// The same for each run; what differs is the key.
fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(Subject { name: "lab-ca", group: "" });
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(subject: Subject<'_>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(subject);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn name(subject: Subject<'_>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if !subject.group.is_empty() {
        name.push(DnType::OrganizationName, subject.group);
    }
    name.push(DnType::CommonName, subject.name);
    name
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
