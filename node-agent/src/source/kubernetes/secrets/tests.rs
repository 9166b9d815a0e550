//! The client against a real TLS server; who answers and how is up to each test.

use std::sync::Mutex;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const NAME: &str = "dmvpn-operator.dmvpn-system.svc";

#[test]
fn ready_pods_with_the_port_are_asked() {
    let slices: Vec<EndpointSlice> = serde_json::from_value(serde_json::json!([
        {"addressType": "IPv4", "ports": [{"name": "health", "port": 8081}, {"name": "secrets", "port": 8443}],
         "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                       {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                       {"addresses": ["10.0.0.3"]}]},
        {"addressType": "IPv6", "ports": [{"name": "secrets", "port": 8443}],
         "endpoints": [{"addresses": ["fd00::1"]}]},
        {"addressType": "IPv4", "ports": [{"name": "health", "port": 8081}],
         "endpoints": [{"addresses": ["10.0.0.9"]}]},
        {"addressType": "FQDN", "ports": null, "endpoints": []}
    ]))
    .expect("slices");
    let mut found: Vec<_> = addresses(&slices).iter().map(ToString::to_string).collect();
    found.sort();
    assert_eq!(found, ["10.0.0.1:8443", "10.0.0.3:8443", "[fd00::1]:8443"]);
    assert!(addresses(&[]).is_empty());
}

#[test]
fn a_ca_that_is_none_is_refused() {
    for text in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(tls(text).is_err(), "{text}");
    }
}

/// A CA, and a server with a certificate of it for `name` that answers every request with the same bytes.
struct Server {
    address: SocketAddr,
    ca: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn new(name: &str, answer: &str) -> Self {
        let ca_key = KeyPair::generate().expect("key");
        let mut ca = CertificateParams::new(vec![]).expect("parameters");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = ca.self_signed(&ca_key).expect("CA").pem();
        let key = KeyPair::generate().expect("key");
        let leaf = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).expect("certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .expect("server");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&heads), answer.to_owned());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = vec![0; 4096];
                let n = stream.read(&mut head).await.unwrap_or(0);
                seen.lock().expect("heads").push(String::from_utf8_lossy(&head[..n]).into_owned());
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { address, ca: pem, heads }
    }

    async fn asked(&self, before: &[SocketAddr]) -> Result<NodeSecrets, String> {
        let tls = tls(&self.ca).expect("CA");
        let name = ServerName::try_from(NAME).expect("name");
        let addresses = [before, &[self.address]].concat();
        ask_one_of(&addresses, &tls, &name, "the-token").await.map_err(|error| format!("{error:#}"))
    }
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

const SECRETS: &str = r#"{"networks":{"branches":{"revision":"7","nhrpPasswords":["czNjcmV0"]}}}"#;

#[tokio::test]
async fn the_operator_is_asked_with_the_token_and_the_next_pod_if_one_is_away() {
    let server = Server::new(NAME, &http("200 OK", SECRETS)).await;
    // Nobody listens there any more.
    let away = TcpListener::bind("127.0.0.1:0").await.and_then(|l| l.local_addr()).expect("address");
    let secrets = server.asked(&[away]).await.expect("secrets");
    let network = &secrets.networks["branches"];
    assert_eq!(
        (network.revision.as_str(), network.nhrp_passwords[0].0.as_slice()),
        ("7", b"s3cret".as_slice())
    );
    let head = server.heads.lock().expect("heads")[0].to_lowercase();
    for part in
        ["get /v1/secrets http/1.1\r\n", "authorization: bearer the-token\r\n", &format!("host: {NAME}\r\n")]
    {
        assert!(head.contains(part), "{head}");
    }
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let good = http("200 OK", SECRETS);
    let another_name = Server::new("dmvpn-operator.elsewhere.svc", &good).await;
    let said = another_name.asked(&[]).await.expect_err("another name");
    assert!(said.contains("TLS") && said.contains("certificate"), "{said}");
    let impostor = Server::new(NAME, &good).await;
    let theirs = Server { ca: Server::new(NAME, &good).await.ca, ..impostor };
    let said = theirs.asked(&[]).await.expect_err("another CA");
    assert!(said.contains("TLS") && said.contains("certificate"), "{said}");
    assert!(theirs.heads.lock().expect("heads").is_empty(), "the token went to an impostor");
}

#[tokio::test]
async fn a_refusal_and_nonsense_are_told_without_what_they_hold() {
    for (answer, said) in [
        (http("403 Forbidden", "token of another node"), "answered 403 Forbidden: token of another node"),
        (http("200 OK", r#"{"networks": "s3cret"}"#), "cannot be decoded"),
        (http("200 OK", "s3cret"), "cannot be decoded"),
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), "operator at 127.0.0.1:"),
    ] {
        let error = Server::new(NAME, &answer).await.asked(&[]).await.expect_err("an error");
        assert!(error.contains(said) && !error.contains("s3cret"), "{error}");
    }
}
