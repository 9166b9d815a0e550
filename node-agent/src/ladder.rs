//! The tunnel ladder INTF → IKE → IPsec → NHRP → Up: where each hub, and the tunnel as a whole, stands and why.
//!
//! Pure. Every reason comes with the cure, since "the tunnel is down" is what people ask about most.

use std::net::IpAddr;

use crds::Reason;
use nhrp::{NhsPhase, NhsState};
use view::State;

use crate::plan::ipsec;
use crate::plan::sas::{IkeTrouble, SaState, Stage};

/// What is known of the way below NHRP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ground {
    /// `suspend: true`.
    pub suspended: bool,
    /// Why there is no tunnel link or no underlay address; `None`: all is well.
    pub trouble: Option<Trouble>,
    /// So many keepalives in a row came back from nobody; `None`: the other end answers, or is not asked.
    pub unanswered: Option<u32>,
}

/// Why a tunnel cannot start: reason, and cause with cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Reason.
    pub reason: Reason,
    /// Cause and cure.
    pub message: String,
}

impl Trouble {
    /// Builds one.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The path to one hub's underlay address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// There is a route that does not lead through the tunnel.
    Clear,
    /// The hub's name has no address (yet).
    NameUnresolved(String),
    /// No route.
    NoRoute(IpAddr),
    /// The route leads into the tunnel itself.
    Recursive(IpAddr),
}

/// A place on the ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// State.
    pub state: State,
    /// CamelCase, empty when Up.
    pub reason: String,
    /// Cause and cure, empty when Up.
    pub message: String,
}

impl Rung {
    /// Up.
    pub fn up() -> Self {
        Self { state: State::Up, reason: String::new(), message: String::new() }
    }

    /// At the foot of the ladder, before anything was looked at.
    pub fn starting(message: &str) -> Self {
        Self::at(State::Intf, Reason::Starting, message)
    }

    /// Shut down on purpose.
    pub fn suspended(message: &str) -> Self {
        Self::at(State::AdminDown, Reason::Suspended, message)
    }

    /// Held at the foot of the ladder.
    pub fn held(trouble: &Trouble) -> Self {
        Self::at(State::Intf, trouble.reason, trouble.message.clone())
    }

    fn at(state: State, reason: Reason, message: impl Into<String>) -> Self {
        Self { state, reason: reason.to_string(), message: message.into() }
    }
}

/// Where one hub stands.
pub fn hub(ground: &Ground, path: &Path, nhs: Option<&NhsState>) -> Rung {
    if let Some(rung) = below(ground).or_else(|| blocked(path)) {
        return rung;
    }
    let Some(nhs) = nhs else {
        return Rung::at(State::Nhrp, Reason::Starting, "NHRP has not started yet");
    };
    match nhs.phase {
        NhsPhase::Responding => Rung::up(),
        NhsPhase::Expecting | NhsPhase::Down | NhsPhase::Waiting => {
            // A test of the engine's codes keeps the second case away.
            let reason =
                if nhs.reason_code.is_empty() { Ok(Reason::Registering) } else { nhs.reason_code.parse() };
            let reason = reason.unwrap_or(Reason::RegistrationRefused);
            let message =
                if nhs.reason.is_empty() { "registration sent, no answer yet" } else { &nhs.reason };
            // NHRP tells causes; what to do about them is documented with the reasons.
            Rung::at(State::Nhrp, reason, format!("{message}: {}", reason.cure()))
        }
    }
}

/// Where the other end of a tunnel without NHRP stands: with a way to it the tunnel is up.
pub fn other_end(ground: &Ground, path: &Path) -> Rung {
    below(ground).or_else(|| blocked(path)).unwrap_or_else(Rung::up)
}

/// The same for a hub whose host says by ICMP that it has no tunnel for our GRE key: its silence has a reason.
pub fn keyless(rung: Rung, key: Option<u32>) -> Rung {
    if rung.reason != Reason::NoAnswer.as_str() {
        return rung;
    }
    let key = key.map_or_else(|| "without a key".to_owned(), |key| format!("with key {key}"));
    let reason = Reason::KeyMismatchSuspected;
    let message = format!("the hub's host answers that it has no tunnel for GRE {key}: {}", reason.cure());
    Rung::at(State::Nhrp, reason, message)
}

/// The same for a hub whose host answers ping, while nothing that is sent through the tunnel is answered.
pub fn walled_off(rung: Rung, nbma: IpAddr) -> Rung {
    if rung.reason != Reason::NoAnswer.as_str() {
        return rung;
    }
    let reason = Reason::GreBlocked;
    let message =
        format!("the hub's host {nbma} answers ping, and nothing comes back by GRE: {}", reason.cure());
    Rung::at(State::Nhrp, reason, message)
}

/// The same for a hub that is reached under IPsec: without an SA nothing of NHRP gets there. While the IKE daemon is away
/// nobody knows, and what has worked is taken to work. `own`: why nobody will take our own certificate.
pub fn protected(rung: Rung, sas: &SaState, own: Option<&Trouble>, network: &str, nbma: IpAddr) -> Rung {
    if rung.state < State::Nhrp {
        return rung;
    }
    if let Some(away) = away(sas, rung.state == State::Up) {
        return away;
    }
    if let Some(own) = own.filter(|_| sas.stage(network, nbma).is_none()) {
        return Rung::at(State::Ike, own.reason, own.message.clone());
    }
    let trouble = sas.troubles.get(&ipsec::name(network, Some(nbma)));
    let told = trouble.copied().map(ike);
    let (state, (reason, what)) = match sas.stage(network, nbma) {
        Some(Stage::Installed) => return rung,
        Some(Stage::Ike) => {
            (State::Ipsec, told.unwrap_or((Reason::WaitingForIpsec, "IKE is established, the SA is not")))
        }
        None => (State::Ike, told.unwrap_or((Reason::WaitingForIke, "IKE is not established"))),
    };
    Rung::at(state, reason, format!("IKE with {nbma}: {what}: {}", reason.cure()))
}

/// What went wrong with IKE: reason, and words.
pub fn ike(trouble: IkeTrouble) -> (Reason, &'static str) {
    match trouble {
        IkeTrouble::Key => (Reason::IkeAuthenticationFailed, "authentication failed"),
        IkeTrouble::Authority => (Reason::IkeUnknownAuthority, "its certificate is from no root of ours"),
        IkeTrouble::Identity => (Reason::IkeWrongIdentity, "it is somebody else"),
        IkeTrouble::Invalid => (Reason::IkeCertificateInvalid, "its certificate is not valid now"),
        IkeTrouble::Proposal => (Reason::IkeNoProposal, "no proposal is chosen"),
        IkeTrouble::Silence => (Reason::IkeNoAnswer, "no answer"),
    }
}

/// The same for a protected tunnel without hubs of its own, which waits to be met: without the daemon it is not.
pub fn attended(rung: Rung, sas: &SaState) -> Rung {
    if rung.state < State::Nhrp { rung } else { away(sas, sas.met).unwrap_or(rung) }
}

/// The IKE daemon is away; `works`: what is in the kernel is taken to carry on.
fn away(sas: &SaState, works: bool) -> Option<Rung> {
    let why = sas.away.as_ref()?;
    if sas.unasked {
        return Some(Rung::at(State::Ike, Reason::Starting, "the IKE daemon was not asked yet"));
    }
    let reason = Reason::IkeDaemonAway;
    let state = if works { State::Unknown } else { State::Ike };
    Some(Rung::at(state, reason, format!("the IKE daemon is away ({why}): {}", reason.cure())))
}

/// The tunnel as a whole: the worst of the hubs that it needs; without hubs (an NHS) its own ground alone.
pub fn tunnel(ground: &Ground, hubs: &[Rung]) -> Rung {
    if let Some(rung) = below(ground) {
        return rung;
    }
    hubs.iter().min_by_key(|r| r.state).cloned().unwrap_or_else(Rung::up)
}

/// Why nothing that is sent to a hub gets there; `None`: nothing is known against it.
fn blocked(path: &Path) -> Option<Rung> {
    let (reason, message) = match path {
        Path::Clear => return None,
        Path::NameUnresolved(name) => {
            (Reason::NameNotResolved, format!("the hub's name {name} has no address: check DNS on this node"))
        }
        Path::NoRoute(nbma) => (
            Reason::NoRouteToHub,
            format!(
                "no valid route to the hub's NBMA address {nbma}: add a route or a default route on the underlay"
            ),
        ),
        Path::Recursive(nbma) => (
            Reason::RecursiveRouting,
            format!(
                "the hub's NBMA address {nbma} is routed through the tunnel itself: withdraw the overlay route that \
                 covers it, or give it a more specific route on the underlay"
            ),
        ),
    };
    Some(Rung::at(State::Intf, reason, message))
}

fn below(ground: &Ground) -> Option<Rung> {
    if ground.suspended {
        let message = "spec.suspend is true: set it to false to bring the tunnel up";
        return Some(Rung::at(State::AdminDown, Reason::Suspended, message));
    }
    if let Some(trouble) = &ground.trouble {
        return Some(Rung::at(State::Intf, trouble.reason, trouble.message.clone()));
    }
    let unanswered = ground.unanswered?;
    let reason = Reason::KeepaliveLost;
    let message = format!("{unanswered} keepalives in a row did not come back: {}", reason.cure());
    Some(Rung::at(State::Intf, reason, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nhs(phase: NhsPhase, code: &str) -> NhsState {
        NhsState { name: "hub1".into(), phase, reason_code: code.into(), ..NhsState::default() }
    }

    #[test]
    fn climbs_in_order() {
        let down = Ground {
            trouble: Some(Trouble::new(Reason::InterfaceDown, "eth0 is down")),
            ..Ground::default()
        };
        let well = Ground::default();
        let nbma: IpAddr = "192.0.2.2".parse().expect("address");
        let up = nhs(NhsPhase::Responding, "");
        let cases = [
            (&down, Path::Clear, Some(&up), State::Intf, "InterfaceDown"),
            (&well, Path::NoRoute(nbma), Some(&up), State::Intf, "NoRouteToHub"),
            (&well, Path::Recursive(nbma), Some(&up), State::Intf, "RecursiveRouting"),
            (&well, Path::Clear, None, State::Nhrp, "Starting"),
            (&well, Path::Clear, Some(&up), State::Up, ""),
        ];
        for (ground, path, nhs, state, reason) in cases {
            let rung = hub(ground, &path, nhs);
            assert_eq!((rung.state, rung.reason.as_str()), (state, reason), "{path:?}");
            assert_eq!(rung.message.is_empty(), state == State::Up, "every state but Up has a message");
        }
        let refused = hub(&well, &Path::Clear, Some(&nhs_with("AddressTaken")));
        assert_eq!(refused.reason, "AddressTaken");
        assert!(refused.message.contains(Reason::AddressTaken.cure()), "{}", refused.message);
    }

    fn nhs_with(code: &str) -> NhsState {
        nhs(NhsPhase::Expecting, code)
    }

    #[test]
    fn ike_and_ipsec_stand_below_nhrp() {
        let nbma: IpAddr = "192.0.2.2".parse().expect("address");
        let place = |rung: Rung, sas: &SaState| {
            let rung = protected(rung, sas, None, "n", nbma);
            (rung.state, rung.reason)
        };
        let waiting = || Rung::at(State::Nhrp, Reason::NoAnswer, "x");
        let mut sas = SaState::unknown();
        assert_eq!(place(Rung::up(), &sas), (State::Ike, "Starting".into()));
        sas.unasked = false;
        let hub = |sas: &SaState| attended(Rung::up(), sas).state;
        assert_eq!((hub(&sas), hub(&SaState { met: true, ..sas.clone() })), (State::Ike, State::Unknown));
        assert_eq!(place(waiting(), &sas), (State::Ike, "IkeDaemonAway".into()));
        assert_eq!(place(Rung::up(), &sas), (State::Unknown, "IkeDaemonAway".into()));
        sas.away = None;
        assert_eq!(hub(&sas), State::Up);
        assert_eq!(place(waiting(), &sas), (State::Ike, "WaitingForIke".into()));
        for (trouble, reason) in [
            (IkeTrouble::Key, "IkeAuthenticationFailed"),
            (IkeTrouble::Proposal, "IkeNoProposal"),
            (IkeTrouble::Silence, "IkeNoAnswer"),
            (IkeTrouble::Authority, "IkeUnknownAuthority"),
            (IkeTrouble::Identity, "IkeWrongIdentity"),
            (IkeTrouble::Invalid, "IkeCertificateInvalid"),
        ] {
            sas.troubles.insert("dmvpn-n/192.0.2.2".into(), trouble);
            assert_eq!(place(waiting(), &sas), (State::Ike, reason.into()));
        }
        // What is wrong with our own certificate is the cause, until there is an SA.
        let own = Trouble::new(Reason::CertificateExpired, "x");
        let expired = |sas: &SaState| protected(Rung::up(), sas, Some(&own), "n", nbma);
        assert_eq!(expired(&sas).reason, "CertificateExpired");
        sas.troubles.clear();
        sas.peers.insert(("n".into(), nbma), Stage::Ike);
        assert_eq!(place(Rung::up(), &sas), (State::Ipsec, "WaitingForIpsec".into()));
        sas.peers.insert(("n".into(), nbma), Stage::Installed);
        assert_eq!(place(waiting(), &sas), (State::Nhrp, "NoAnswer".into()));
        assert_eq!(place(Rung::up(), &sas).0, State::Up);
        assert_eq!(expired(&sas).state, State::Up);
        let below = Rung::at(State::Intf, Reason::InterfaceDown, "x");
        assert_eq!(place(below, &SaState::unknown()), (State::Intf, "InterfaceDown".into()));
    }

    #[test]
    fn another_key_is_no_silence() {
        let silent = hub(&Ground::default(), &Path::Clear, Some(&nhs_with("NoAnswer")));
        let told = keyless(silent, Some(101));
        assert_eq!(told.reason, "KeyMismatchSuspected");
        assert!(told.message.contains("key 101"), "{}", told.message);
        let refused = hub(&Ground::default(), &Path::Clear, Some(&nhs_with("AddressTaken")));
        assert_eq!(keyless(refused.clone(), Some(101)), refused);
        assert_eq!(keyless(Rung::up(), None), Rung::up());
    }

    #[test]
    fn a_wall_is_no_silence() {
        let nbma: IpAddr = "192.0.2.2".parse().expect("address");
        let silent = hub(&Ground::default(), &Path::Clear, Some(&nhs_with("NoAnswer")));
        let told = walled_off(silent.clone(), nbma);
        assert_eq!(told.reason, "GreBlocked");
        assert!(
            told.message.contains("192.0.2.2") && told.message.contains("protocol 47"),
            "{}",
            told.message
        );
        assert_eq!(walled_off(Rung::up(), nbma), Rung::up());
        // Who says that he has no such tunnel got our GRE.
        assert_eq!(walled_off(keyless(silent, Some(7)), nbma).reason, "KeyMismatchSuspected");
    }

    /// The codes that the engine's documentation of `NhsState::reason_code` names.
    #[test]
    fn every_code_of_the_engine_is_a_documented_reason() {
        let codes = [
            "Registering",
            "NoAnswer",
            "NoUnderlayAddress",
            "NoNhsAddress",
            "AddressTaken",
            "AdministrativelyProhibited",
            "InsufficientResources",
            "RegistrationRefused",
            "AuthenticationFailed",
            "ErrorIndication",
            "Standby",
            "Draining",
            "AddressRequested",
            "AddressNotAssigned",
            "PoolExhausted",
        ];
        for code in codes {
            let refused = nhs(NhsPhase::Expecting, code);
            assert_eq!(hub(&Ground::default(), &Path::Clear, Some(&refused)).reason, code);
        }
    }

    #[test]
    fn tunnel_is_the_worst_hub_and_a_hub_stands_alone() {
        let well = Ground::default();
        let waiting = Rung::at(State::Nhrp, Reason::NoAnswer, "x");
        assert_eq!(tunnel(&well, &[Rung::up(), waiting.clone()]), waiting);
        assert_eq!(tunnel(&well, &[]), Rung::up());
        let suspended = Ground { suspended: true, ..Ground::default() };
        assert_eq!(tunnel(&suspended, &[Rung::up()]).state, State::AdminDown);
    }
}
