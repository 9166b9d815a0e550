//! What is known of the IKE daemon and its SAs: what it lists, and what its log says of those that do not come up. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use vici::Message;

use super::ipsec::{Loaded, name, parse_name};

/// What is known of the daemon and its SAs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaState {
    /// Why it is away; `None`: it is there.
    pub away: Option<String>,
    /// It was not looked for yet.
    pub unasked: bool,
    /// Whether it was there since this agent started: then the SAs are those that it had when it was seen last.
    pub met: bool,
    /// How far each peer is, by network and underlay address.
    pub peers: BTreeMap<(String, IpAddr), Stage>,
    /// Who was authenticated at each underlay address, where GRE is protected.
    pub identities: BTreeMap<String, BTreeMap<IpAddr, BTreeSet<String>>>,
    /// Connections that are on their way.
    pub connecting: BTreeSet<String>,
    /// What went wrong last with a peer, by connection.
    pub troubles: BTreeMap<String, IkeTrouble>,
    /// Networks of which it holds something.
    pub held: BTreeSet<String>,
    /// What of the agent's wishes it was told last.
    pub told: Loaded,
}

/// How far a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// IKE is established, there is no SA for GRE.
    Ike,
    /// GRE is protected.
    Installed,
}

/// Why IKE with a peer does not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IkeTrouble {
    /// The keys differ, or the other end does not take our certificate.
    Key,
    /// Its certificate is from none of our roots.
    Authority,
    /// It shows no good certificate of the one whom it says, or has, to be.
    Identity,
    /// Its certificate has expired, is not valid yet, or was revoked.
    Invalid,
    /// The proposals have nothing in common, or the peer has no connection for us.
    Proposal,
    /// It does not answer.
    Silence,
}

impl IkeTrouble {
    /// What a line of the daemon's log says; `None`: nothing that matters here.
    pub fn of(line: &str) -> Option<Self> {
        let says = |texts: &[&str]| texts.iter().any(|text| line.contains(text));
        if says(&["AUTHENTICATION_FAILED", "MAC mismatched"]) {
            Some(Self::Key)
        } else if says(&["certificate invalid (valid from", "certificate was revoked"]) {
            Some(Self::Invalid)
        } else if says(&["no issuer certificate found", "is not trusted", "peer not authenticated by CA"]) {
            Some(Self::Authority)
        } else if line.contains("no trusted ") || line.contains("constraint check failed: identity") {
            Some(Self::Identity)
        } else if says(&["NO_PROPOSAL_CHOSEN", "proposals unacceptable"]) {
            Some(Self::Proposal)
        } else if says(&["giving up after", "retransmit 1 of request", "retransmit 2 of request"]) {
            Some(Self::Silence)
        } else {
            None
        }
    }
}

impl SaState {
    /// Nothing is known yet.
    pub fn unknown() -> Self {
        Self { away: Some("it was not asked yet".to_owned()), unasked: true, ..Self::default() }
    }

    /// Takes what `list-sas` gave. With a peer that has to be somebody (`checked`: the connections that say who) an SA of
    /// another connection counts for nothing: whoever is at the hub's address can have made it from there.
    ///
    /// One of an identity that is `denied` in its network counts for nothing either; their ids are given, so that they
    /// can be ended.
    pub fn take(
        &mut self,
        sas: &[Message],
        checked: &BTreeSet<String>,
        denied: &BTreeMap<String, BTreeSet<String>>,
    ) -> Vec<String> {
        let mut ended = Vec::new();
        self.identities.clear();
        self.away = None;
        self.unasked = false;
        self.met = true;
        self.peers.clear();
        self.connecting.clear();
        for (name, sa) in sas.iter().flat_map(Message::sections) {
            let Some((network, _)) = parse_name(name) else { continue };
            match sa.text("state") {
                Some("ESTABLISHED" | "REKEYING" | "REKEYED" | "PASSIVE") => {}
                Some("CREATED" | "CONNECTING") => {
                    self.connecting.insert(name.to_owned());
                    continue;
                }
                _ => continue,
            }
            let identity = sa.text("remote-id").unwrap_or_default();
            if denied.get(network).is_some_and(|all| all.contains(identity)) {
                ended.extend(sa.text("uniqueid").map(str::to_owned));
                continue;
            }
            let Some(remote) = sa.text("remote-host").and_then(|host| host.parse().ok()) else { continue };
            let own = self::name(network, Some(remote));
            if name != own && checked.contains(&own) {
                continue;
            }
            let children = sa.section("child-sas");
            let installed = children.iter().flat_map(|all| all.sections()).any(|(_, child)| {
                matches!(child.text("state"), Some("INSTALLED" | "UPDATING" | "REKEYING" | "REKEYED"))
            });
            let stage = if installed { Stage::Installed } else { Stage::Ike };
            if installed && !identity.is_empty() {
                let there = self.identities.entry(network.to_owned()).or_default();
                there.entry(remote).or_default().insert(identity.to_owned());
            }
            let known = self.peers.entry((network.to_owned(), remote)).or_insert(stage);
            *known = stage.max(*known);
        }
        let peers = &self.peers;
        let stands = |name: &str| match parse_name(name) {
            Some((network, Some(peer))) => peers.get(&(network.to_owned(), peer)) == Some(&Stage::Installed),
            _ => true,
        };
        self.troubles.retain(|name, _| !stands(name));
        ended
    }

    /// How far a peer is.
    pub fn stage(&self, network: &str, peer: IpAddr) -> Option<Stage> {
        self.peers.get(&(network.to_owned(), peer)).copied()
    }

    /// Whether the daemon has a connection, a key or an SA of a network.
    pub fn holds(&self, network: &str) -> bool {
        self.held.contains(network) || self.peers.keys().any(|(it, _)| it == network)
    }

    /// Whether GRE to a peer is protected, as far as is known.
    pub fn secured(&self, network: &str, peer: IpAddr) -> bool {
        self.stage(network, peer) == Some(Stage::Installed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sas_say_how_far_each_peer_is() {
        let sa = |name: &str, host: &str, state: &str, child: Option<&str>| {
            let mut children = Message::new();
            if let Some(child) = child {
                children = children.with_section("gre-1", Message::new().with("state", child));
            }
            let sa = Message::new().with("state", state).with("remote-host", host);
            Message::new().with_section(name, sa.with_section("child-sas", children))
        };
        let mut state = SaState { away: Some("no".into()), ..SaState::default() };
        for peer in ["192.0.2.2", "192.0.2.3", "192.0.2.4"] {
            state.troubles.insert(format!("dmvpn-n/{peer}"), IkeTrouble::Silence);
        }
        state.take(
            &[
                sa("dmvpn-n/192.0.2.2", "192.0.2.2", "ESTABLISHED", None),
                // The peer came by itself as well.
                sa("dmvpn-n", "192.0.2.2", "ESTABLISHED", Some("REKEYING")),
                sa("dmvpn-n/192.0.2.3", "192.0.2.3", "ESTABLISHED", Some("CREATED")),
                sa("dmvpn-n/192.0.2.4", "192.0.2.4", "CONNECTING", None),
                sa("home", "192.0.2.5", "ESTABLISHED", Some("INSTALLED")),
            ],
            &BTreeSet::new(),
            &BTreeMap::new(),
        );
        let stage = |peer: &str| state.stage("n", peer.parse().unwrap());
        assert_eq!(stage("192.0.2.2"), Some(Stage::Installed));
        assert_eq!(stage("192.0.2.3"), Some(Stage::Ike));
        assert_eq!((stage("192.0.2.4"), stage("192.0.2.5")), (None, None));
        assert_eq!(state.connecting, ["dmvpn-n/192.0.2.4".to_owned()].into());
        let names: Vec<_> = state.troubles.keys().map(String::as_str).collect();
        assert_eq!(names, ["dmvpn-n/192.0.2.3", "dmvpn-n/192.0.2.4"]);
        assert_eq!((state.away.as_deref(), state.met), (None, true));
        // One has to be somebody: that the other end came by itself proves nothing.
        let checked = ["dmvpn-n/192.0.2.2".to_owned()].into();
        let came = sa("dmvpn-n", "192.0.2.2", "ESTABLISHED", Some("INSTALLED"));
        let other = sa("dmvpn-n", "192.0.2.3", "ESTABLISHED", Some("INSTALLED"));
        state.take(&[came, other], &checked, &BTreeMap::new());
        let stage = |peer: &str| state.stage("n", peer.parse().unwrap());
        assert_eq!((stage("192.0.2.2"), stage("192.0.2.3")), (None, Some(Stage::Installed)));
    }

    #[test]
    fn sas_say_who_is_where_and_those_of_the_denied_are_to_end() {
        let sa = |id: &str, host: &str, identity: &str| {
            let child = Message::new().with_section("gre-1", Message::new().with("state", "INSTALLED"));
            let sa =
                Message::new().with("uniqueid", id).with("state", "ESTABLISHED").with("remote-host", host);
            let sa = sa.with("remote-id", identity).with_section("child-sas", child);
            Message::new().with_section("dmvpn-n", sa)
        };
        let denied = BTreeMap::from([("n".to_owned(), BTreeSet::from(["bad".to_owned()]))]);
        let mut state = SaState::default();
        let sas = [
            sa("1", "192.0.2.2", "a"),
            sa("2", "192.0.2.2", "a"),
            sa("3", "192.0.2.3", "bad"),
            sa("4", "192.0.2.2", "b"),
        ];
        assert_eq!(state.take(&sas, &BTreeSet::new(), &denied), ["3"]);
        let all: Vec<_> = state.identities["n"].iter().map(|(at, all)| format!("{at} {all:?}")).collect();
        assert_eq!(all, ["192.0.2.2 {\"a\", \"b\"}"]);
        assert_eq!(state.stage("n", "192.0.2.3".parse().unwrap()), None);
    }

    #[test]
    fn log_lines_have_a_meaning() {
        for (line, want) in [
            ("received AUTHENTICATION_FAILED notify error", Some(IkeTrouble::Key)),
            ("tried 1 shared key for '192.0.2.2' - '192.0.2.1', but MAC mismatched", Some(IkeTrouble::Key)),
            ("received NO_PROPOSAL_CHOSEN notify error", Some(IkeTrouble::Proposal)),
            ("giving up after 5 retransmits", Some(IkeTrouble::Silence)),
            ("retransmit 1 of request with message ID 0", Some(IkeTrouble::Silence)),
            ("no issuer certificate found for \"CN=west\"", Some(IkeTrouble::Authority)),
            ("constraint check failed: peer not authenticated by CA 'CN=one'", Some(IkeTrouble::Authority)),
            ("constraint check failed: identity 'hub1' required ", Some(IkeTrouble::Identity)),
            ("no trusted ECDSA public key found for 'hub1'", Some(IkeTrouble::Identity)),
            (
                "subject certificate invalid (valid from Jan 01 00:00:00 2020 to Jan 02 00:00:00 2020)",
                Some(IkeTrouble::Invalid),
            ),
            ("IKE_SA dmvpn-x[1] established", None),
        ] {
            assert_eq!(IkeTrouble::of(line), want, "{line}");
        }
    }
}
