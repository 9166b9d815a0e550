//! What the IKE daemon should hold for the protected tunnels, and what it holds. Pure.
//!
//! A node that may be met by anybody (a hub; a spoke that has direct paths) has one connection `dmvpn-<network>` for
//! all who come. Whom it has to reach first itself (its hubs; who is asked or answered straight) has one more,
//! `dmvpn-<network>/<address>`. The key is the network's, or each has a certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use vici::Message;

use super::certificate::Certificate;

/// What the name of everything of ours in the daemon starts with.
pub const PREFIX: &str = "dmvpn-";
/// Name of the child of each connection.
pub const CHILD: &str = "gre";
/// IKE proposals when none are named: AES-GCM with X25519, and what is as strong.
const IKE_PROPOSAL: &str = "aes256gcm16-aes128gcm16-prfsha384-prfsha256-x25519-ecp384-ecp256";
/// The same for ESP.
const ESP_PROPOSAL: &str = "aes256gcm16-aes128gcm16-x25519-ecp384-ecp256";
/// A pseudo random function for proposals that need one and name none.
const PRF: &str = "prfsha256";
/// An SA with a peer that was met on demand ends after so many seconds without a packet.
const IDLE_SECONDS: u32 = 600;

/// A pre-shared key. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// The key of a certificate. It is never shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateKey {
    kind: &'static str,
    der: Secret,
}

/// How the ends of a connection prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Proof {
    /// By a key that both have.
    Psk,
    /// By certificates of the roots: who we are, and who the other has to be.
    Certificate { own: Vec<u8>, roots: Vec<Vec<u8>>, local: Option<String>, remote: Option<String> },
}

/// The protection of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Name of the network.
    pub network: String,
    /// Our underlay address.
    pub local: IpAddr,
    /// Whether others may come by themselves.
    pub answers: bool,
    /// Whom we have to reach.
    pub peers: BTreeSet<IpAddr>,
    /// Of those, hubs: their SAs are kept without traffic too.
    pub hubs: BTreeSet<IpAddr>,
    /// Keys: the first is used, all are accepted.
    pub keys: Vec<Secret>,
    /// Certificates, in the place of keys.
    pub certificate: Option<Arc<Certificate>>,
    /// Our identity, when it is not the subject of our certificate.
    pub identity: Option<String>,
    /// Who peers have to be, by underlay address.
    pub identities: BTreeMap<IpAddr, String>,
    /// Proposals; none: ours.
    pub proposals: Vec<String>,
    /// Seconds after which an SA is replaced.
    pub rekey_seconds: u32,
    /// Seconds of silence after which a peer is asked whether it lives.
    pub dpd_seconds: u16,
    /// ESP always travels in UDP, not only through a NAT.
    pub in_udp: bool,
}

/// One connection, as the daemon is to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    local: IpAddr,
    remote: Option<IpAddr>,
    ike: Vec<String>,
    esp: Vec<String>,
    rekey_seconds: u32,
    dpd_seconds: u16,
    idle_seconds: u32,
    in_udp: bool,
    proof: Proof,
}

/// Everything of ours in the daemon: wanted, or found there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Connections by name; `None`: one from before, of which only the name is known.
    pub connections: BTreeMap<String, Option<Connection>>,
    /// Keys by id; `None`: as above.
    pub keys: BTreeMap<String, Option<Secret>>,
    /// Keys of our certificates, by network.
    pub private: BTreeMap<String, PrivateKey>,
}

impl Loaded {
    /// Connections that say who the other end has to be.
    pub fn checked(&self) -> BTreeSet<String> {
        let checked = |connection: &&Connection| {
            matches!(&connection.proof, Proof::Certificate { remote: Some(_), .. })
        };
        let all = self.connections.iter().filter(|(_, it)| it.as_ref().filter(checked).is_some());
        all.map(|(name, _)| name.clone()).collect()
    }

    /// Networks of which there is something.
    pub fn networks(&self) -> BTreeSet<String> {
        let connections = self.connections.keys().filter_map(|name| Some(parse_name(name)?.0));
        let keys = self.keys.keys().filter_map(|id| key_network(id));
        let private = self.private.keys().map(String::as_str);
        connections.chain(keys).chain(private).map(str::to_owned).collect()
    }
}

/// What is wished of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// What it should hold.
    pub loaded: Loaded,
    /// Networks that are over: nothing of theirs is kept for a while, as is done with what may come back.
    pub over: BTreeSet<String>,
    /// Identities that get no SA, by network.
    pub denied: BTreeMap<String, BTreeSet<String>>,
}

/// A change of what the daemon holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Load or replace a key.
    PutKey(String, Secret),
    /// Load or replace the key of a certificate.
    PutPrivate(String, PrivateKey),
    /// Load or replace a connection.
    PutConnection(String, Connection),
    /// Unload a key.
    DropKey(String),
    /// Unload a connection.
    DropConnection(String),
    /// Unload the key of a certificate.
    DropPrivate(String),
}

/// Name of the connection with a peer; `None`: with all who come.
pub fn name(network: &str, peer: Option<IpAddr>) -> String {
    match peer {
        Some(peer) => format!("{PREFIX}{network}/{peer}"),
        None => format!("{PREFIX}{network}"),
    }
}

/// The network that a connection of ours belongs to, and its peer.
pub fn parse_name(name: &str) -> Option<(&str, Option<IpAddr>)> {
    let rest = name.strip_prefix(PREFIX)?;
    match rest.split_once('/') {
        Some((network, peer)) => Some((network, Some(peer.parse().ok()?))),
        None => Some((rest, None)),
    }
}

/// The network that a pre-shared key of ours belongs to.
fn key_network(id: &str) -> Option<&str> {
    Some(id.strip_prefix(PREFIX)?.rsplit_once('-')?.0)
}

/// What should be in the daemon.
pub fn wanted(all: &[Protection]) -> Loaded {
    let mut loaded = Loaded::default();
    for it in all {
        let of = |remote: Option<IpAddr>| Connection {
            local: it.local,
            remote,
            ike: ike_proposals(&it.proposals),
            esp: esp_proposals(&it.proposals),
            rekey_seconds: it.rekey_seconds,
            dpd_seconds: it.dpd_seconds,
            in_udp: it.in_udp,
            proof: match &it.certificate {
                None => Proof::Psk,
                Some(certificate) => Proof::Certificate {
                    own: certificate.own.clone(),
                    roots: certificate.roots.clone(),
                    local: it.identity.clone(),
                    remote: remote.and_then(|remote| it.identities.get(&remote).cloned()),
                },
            },
            idle_seconds: match remote {
                Some(peer) if !it.hubs.contains(&peer) => IDLE_SECONDS,
                _ => 0,
            },
        };
        if it.answers {
            loaded.connections.insert(name(&it.network, None), Some(of(None)));
        }
        for peer in &it.peers {
            loaded.connections.insert(name(&it.network, Some(*peer)), Some(of(Some(*peer))));
        }
        if let Some(certificate) = &it.certificate {
            loaded.private.insert(it.network.clone(), certificate.key.clone());
        }
        for (i, key) in it.keys.iter().enumerate() {
            loaded.keys.insert(format!("{PREFIX}{}-{i}", it.network), Some(key.clone()));
        }
    }
    loaded
}

/// What makes `found` into `wanted`. Keys come first: a connection without one would fail at once. If one key changes all
/// are loaded anew, since the daemon takes the first of them for itself.
pub fn steps(wanted: &Loaded, found: &Loaded) -> Vec<Step> {
    let mut steps = Vec::new();
    if wanted.keys.iter().any(|(id, key)| found.keys.get(id) != Some(key)) {
        let known = found.keys.keys().filter(|id| wanted.keys.contains_key(*id));
        steps.extend(known.cloned().map(Step::DropKey));
        let keys = wanted.keys.iter().filter_map(|(id, key)| Some((id, key.as_ref()?)));
        steps.extend(keys.map(|(id, key)| Step::PutKey(id.clone(), key.clone())));
    }
    for (network, key) in &wanted.private {
        if found.private.get(network) != Some(key) {
            steps.push(Step::PutPrivate(network.clone(), key.clone()));
        }
    }
    for (name, connection) in &wanted.connections {
        if let Some(new) = connection
            && found.connections.get(name) != Some(connection)
        {
            steps.push(Step::PutConnection(name.clone(), new.clone()));
        }
    }
    let stale = found.connections.keys().filter(|name| !wanted.connections.contains_key(*name));
    steps.extend(stale.cloned().map(Step::DropConnection));
    let stale = found.keys.keys().filter(|id| !wanted.keys.contains_key(*id));
    steps.extend(stale.cloned().map(Step::DropKey));
    let stale = found.private.keys().filter(|network| !wanted.private.contains_key(*network));
    steps.extend(stale.cloned().map(Step::DropPrivate));
    steps
}

impl Connection {
    /// The argument of `load-conn`.
    pub fn message(&self, name: &str) -> Message {
        Message::new().with_section(name, self.section())
    }

    /// The same for an IKE_SA without a child, which only shows who the ends are.
    pub fn childless(&self, name: &str) -> Message {
        Message::new().with_section(name, self.section().with("childless", "force"))
    }

    fn section(&self) -> Message {
        let seconds = |seconds: u32| format!("{seconds}s");
        let remote = self.remote.map_or_else(|| "%any".to_owned(), |remote| remote.to_string());
        // GRE by its number: an image without /etc/protocols has no name for it.
        let selector = ["dynamic[47]"];
        let mut child = Message::new()
            .with("mode", "transport")
            .with_list("local_ts", selector)
            .with_list("remote_ts", selector)
            .with_list("esp_proposals", &self.esp)
            .with("rekey_time", seconds(self.rekey_seconds));
        if self.idle_seconds > 0 {
            child = child.with("inactivity", seconds(self.idle_seconds));
        }
        let (ours, theirs) = self.proof.sections();
        Message::new()
            .with("version", "2")
            .with_list("local_addrs", [self.local.to_string()])
            .with_list("remote_addrs", [remote])
            .with_list("proposals", &self.ike)
            // It would move the SA onto whatever address the node has besides, the overlay's among them.
            .with("mobike", "no")
            // Both ends may begin at the same time: neither SA must take the other with it.
            .with("unique", "never")
            .with("encap", if self.in_udp { "yes" } else { "no" })
            .with("dpd_delay", seconds(self.dpd_seconds.into()))
            .with("rekey_time", seconds(self.rekey_seconds))
            .with_section("local", ours)
            .with_section("remote", theirs)
            .with_section("children", Message::new().with_section(CHILD, child))
    }
}

impl Proof {
    /// What both ends have to show: we, and the other.
    fn sections(&self) -> (Message, Message) {
        match self {
            Self::Psk => (Message::new().with("auth", "psk"), Message::new().with("auth", "psk")),
            Self::Certificate { own, roots, local, remote } => {
                let pubkey = |id: &Option<String>| {
                    let message = Message::new().with("auth", "pubkey");
                    // Without one it is the subject of the certificate, and anybody.
                    match id {
                        Some(id) => message.with("id", id),
                        None => message,
                    }
                };
                // Roots by connection: what else the daemon trusts is of no use to whoever comes.
                (pubkey(local).with_list("certs", [own]), pubkey(remote).with_list("cacerts", roots))
            }
        }
    }
}

impl PrivateKey {
    /// One of a kind that the daemon knows, as DER.
    pub fn new(kind: &'static str, der: &[u8]) -> Self {
        Self { kind, der: Secret(der.to_vec()) }
    }

    /// The argument of `load-key`.
    pub fn message(&self) -> Message {
        Message::new().with("type", self.kind).with("data", &self.der.0)
    }
}

impl Secret {
    /// The argument of `load-shared`.
    pub fn message(&self, id: &str) -> Message {
        Message::new().with("id", id).with("type", "IKE").with("data", &self.0)
    }
}

/// For IKE a pseudo random function is needed beside an AEAD cipher.
fn ike_proposals(named: &[String]) -> Vec<String> {
    if named.is_empty() {
        return vec![IKE_PROPOSAL.to_owned()];
    }
    let complete = |proposal: &String| {
        let has_prf = proposal.split('-').any(|part| part.starts_with("prf"));
        let aead = ["gcm", "ccm", "chacha"].iter().any(|it| proposal.contains(it));
        if aead && !has_prf { format!("{proposal}-{PRF}") } else { proposal.clone() }
    };
    named.iter().map(complete).collect()
}

/// ESP has no use for one.
fn esp_proposals(named: &[String]) -> Vec<String> {
    if named.is_empty() {
        return vec![ESP_PROPOSAL.to_owned()];
    }
    let without = |proposal: &String| {
        let parts: Vec<_> = proposal.split('-').filter(|part| !part.starts_with("prf")).collect();
        parts.join("-")
    };
    named.iter().map(without).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protection() -> Protection {
        let hub: IpAddr = "192.0.2.2".parse().unwrap();
        Protection {
            network: "branches".into(),
            local: "198.51.100.2".parse().unwrap(),
            answers: true,
            peers: [hub, "203.0.113.2".parse().unwrap()].into(),
            hubs: [hub].into(),
            keys: vec![Secret(b"new-key".to_vec()), Secret(b"old-key".to_vec())],
            certificate: None,
            identity: None,
            identities: BTreeMap::new(),
            proposals: Vec::new(),
            rekey_seconds: 3600,
            dpd_seconds: 10,
            in_udp: false,
        }
    }

    #[test]
    fn names_say_whose_they_are() {
        let peer = "192.0.2.2".parse().unwrap();
        for (name, want) in [
            ("dmvpn-branches", Some(("branches", None))),
            ("dmvpn-branches/192.0.2.2", Some(("branches", Some(peer)))),
            ("dmvpn-branches/x", None),
            ("home", None),
        ] {
            assert_eq!(parse_name(name), want, "{name}");
        }
        assert_eq!(parse_name(&name("a.b", Some(peer))), Some(("a.b", Some(peer))));
    }

    #[test]
    fn only_what_differs_is_told_and_only_what_is_ours_goes() {
        let want = wanted(&[protection()]);
        let names: Vec<_> = want.connections.keys().map(String::as_str).collect();
        assert_eq!(names, ["dmvpn-branches", "dmvpn-branches/192.0.2.2", "dmvpn-branches/203.0.113.2"]);
        assert_eq!(steps(&want, &want), []);
        // After a restart of the agent only names are known: all is told again, what is stale goes.
        let mut found = Loaded::default();
        found.connections.insert("dmvpn-branches".into(), None);
        found.connections.insert("dmvpn-gone".into(), None);
        found.keys.insert("dmvpn-gone-0".into(), None);
        let steps_now = steps(&want, &found);
        let puts = steps_now.iter().filter(|step| matches!(step, Step::PutConnection(..) | Step::PutKey(..)));
        assert_eq!(puts.count(), 5);
        assert!(matches!(steps_now[0], Step::PutKey(..)), "{steps_now:?}");
        assert!(
            steps_now.ends_with(&[
                Step::DropConnection("dmvpn-gone".into()),
                Step::DropKey("dmvpn-gone-0".into())
            ])
        );
        // Another first key: both are loaded anew, in their order.
        let mut rotated = protection();
        rotated.keys.reverse();
        let order: Vec<_> = steps(&wanted(&[rotated]), &want)
            .into_iter()
            .map(|step| match step {
                Step::DropKey(id) => format!("-{id}"),
                Step::PutKey(id, _) => format!("+{id}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(
            order,
            ["-dmvpn-branches-0", "-dmvpn-branches-1", "+dmvpn-branches-0", "+dmvpn-branches-1"]
        );
    }

    #[test]
    fn connections_are_transport_mode_for_gre_alone() {
        let want = wanted(&[protection()]);
        let message = |name: &str| want.connections[name].clone().unwrap().message(name);
        let any = message("dmvpn-branches");
        let any = any.section("dmvpn-branches").unwrap();
        assert_eq!((any.text("version"), any.list("remote_addrs")), (Some("2"), vec!["%any"]));
        let child = any.section("children").unwrap().section(CHILD).unwrap();
        assert_eq!((child.text("mode"), child.list("remote_ts")), (Some("transport"), vec!["dynamic[47]"]));
        assert_eq!(child.text("inactivity"), None);
        let idle = |name: &str| {
            let message = message(name);
            let child = message.section(name)?.section("children")?.section(CHILD)?;
            child.text("inactivity").map(str::to_owned)
        };
        assert_eq!(idle("dmvpn-branches/192.0.2.2"), None, "a hub is kept");
        assert_eq!(idle("dmvpn-branches/203.0.113.2").as_deref(), Some("600s"));
    }

    #[test]
    fn proposals_fit_where_they_go() {
        let named = ["aes128gcm16-ecp256".to_owned(), "aes256-sha384-prfsha384-ecp384".to_owned()];
        assert_eq!(ike_proposals(&named), ["aes128gcm16-ecp256-prfsha256", "aes256-sha384-prfsha384-ecp384"]);
        assert_eq!(esp_proposals(&named), ["aes128gcm16-ecp256", "aes256-sha384-ecp384"]);
    }

    #[test]
    fn keys_are_not_shown() {
        let shown = format!("{:?} {:?}", protection(), steps(&wanted(&[protection()]), &Loaded::default()));
        assert!(!shown.contains("new-key") && !shown.contains("110, 101"), "{shown}");
    }
}
