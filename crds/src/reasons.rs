//! Reasons of conditions and of tunnel states: a closed list in our code, open strings in the schema (a newer
//! agent must be able to write to an older CRD). Each says what causes it and what cures it.

use std::fmt;
use std::str::FromStr;

macro_rules! reasons {
    ($($name:ident: $cause:literal, $cure:literal;)*) => {
        /// Why a condition or a tunnel's state is what it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(
                #[doc = $cause]
                $name,
            )*
        }

        impl Reason {
            /// All of them, in the order in which they are documented.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As it is written in `status.conditions[].reason`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// What causes it.
            pub const fn cause(self) -> &'static str {
                match self {
                    $(Self::$name => $cause,)*
                }
            }

            /// What to do about it.
            pub const fn cure(self) -> &'static str {
                match self {
                    $(Self::$name => $cure,)*
                }
            }
        }
    };
}

reasons! {
    Accepted: "The object is valid and all of it is supported.", "Nothing to do.";
    Up: "All configured hubs have acknowledged.", "Nothing to do.";
    Waiting: "Something that it needs is not there yet.", "Wait, or see the message for what is missing.";
    Suspended: "`suspend` is true.", "Set suspend to false.";
    Invalid: "A field is malformed or out of range.", "Correct the field that the message names.";
    NotSupported: "It asks for something that this version does not do.", "Use the value that the message names.";
    NetworkNotFound: "`networkRef` names no DmvpnNetwork.", "Create the network, or correct the name.";
    NetworkNotAccepted: "The network that it belongs to is not accepted.", "Correct the network first.";
    NodeNotFound: "No node here matches the placement.",
        "Nothing to do if the site is elsewhere; else correct nodeName, or label a node.";
    NodeAddressUnknown: "The node has no InternalIP of the underlay's family.",
        "Use tunnelSource.from DefaultRoute, Interface or Address.";
    NoHub: "The network has no usable hub.", "Add a hub with overlayAddresses and nbma, or set one to mode Active.";
    HubIncomplete: "A hub lacks overlayAddresses or nbma.", "Add them in spec.hubs.";
    HubOnSeveralNodes: "The labels of a hub are on several nodes.", "Leave the label on one node only.";
    HubsShareNode: "Two hubs of the network are on one node.", "Move the label of one of them to another node.";
    HubCircle: "Hubs register with each other in a circle.", "Take one of them out of registersTo.";
    OverlappingOverlay: "Two prefixes of one overlay overlap, or two networks on one node have the same overlay.",
        "Use prefixes that do not overlap.";
    OverlappingSubnets: "Two spokes of the network have overlapping subnets.",
        "Change one of them, or map it 1:1 with subnets[].advertiseAs.";
    PodCidrMissing: "A node whose pods are to be announced has no `spec.podCIDRs`.",
        "Wait, or have the cluster allocate them (kube-controller-manager --allocate-node-cidrs); else state subnets.";
    GatewayElsewhere: "The node that leads to the network shares no link with this one.",
        "Let the gateway and this node share a link, or give this node a tunnel of its own.";
    SubnetOverlapsOverlay: "A subnet overlaps the overlay.", "Use a prefix outside of spec.overlay of the network.";
    SubnetContainsNbma: "A subnet contains the underlay address of a hub: its packets would go into the tunnel.",
        "Leave the hub's underlay address out of the subnets.";
    AddressOutsideOverlay: "An address or pool is not within the overlay.", "Use one within spec.overlay.";
    AddressNotUsable: "An address is the network or broadcast address of the overlay, or no host address.",
        "Use another address of the overlay.";
    AddressTaken: "An overlay address belongs to somebody else already.", "Use a free one.";
    AddressReserved: "An overlay address lies in addressing.reserved.", "Use another, or take it out of reserved.";
    AddressMissing: "There is no overlay address for it.", "Add overlayAddresses, or addressing.pools to the network.";
    AddressRequested: "A hub was asked for an overlay address, and has not answered yet.", "Wait.";
    AddressNotAssigned: "The hub assigns no overlay addresses.",
        "Add addressing.pools with assignedBy Hub to the network at the hub, or overlayAddresses to the spoke.";
    PoolExhausted: "All addresses of the pools are in use.", "Add a pool to addressing.pools.";
    TunnelConflict: "Two networks have the same key on the same tunnel source of one node.",
        "Give one of them another tunnel.key.";
    InterfaceNameTaken: "Two networks, or something that is not ours, have the same interface name on one node.",
        "Give it another tunnel.interfaceName.";
    TunnelSourceConflict: "Spokes of one network on one node want different tunnel sources.",
        "Give them the same tunnelSource.";
    SettingConflict: "Two settings of the object contradict each other.", "See the message.";
    PeerAddressMissing: "A point-to-point tunnel does not know its other end.",
        "Add the hub's nbma, or on the hub exactly one nhrp.staticMappings entry.";
    SecretMissing: "A Secret that is referred to is not there.", "Create it, with the label dmvpn.io/network.";
    SecretNotLabelled: "A Secret lacks the label dmvpn.io/network of the network.", "Add the label.";
    SecretKeyMissing: "A Secret has no value under the key.", "Add the key that the message names.";
    SecretsFound: "The Secrets that are referred to are there, with their label and key.", "Nothing to do.";
    NotYaml: "A file is no YAML.", "Correct the line that the message names; the last good content stays in force.";
    FileUnreadable: "A file cannot be read.", "Correct its permissions or size; the last good content stays in force.";
    DirectoryUnreadable: "The directory of manifests cannot be read.",
        "Restore it; the last good configuration stays in force.";
    Duplicate: "Two files hold an object of the same kind and name.", "Remove one; the first by file name counts.";
    RolledBack: "Under the latest change the node lost its hubs, its default gateway or its API server: what was in force before is again.",
        "Correct what the message names; the change is tried again with the next one, when the hubs are lost under what is in force, and now and then.";
    RollingOut: "A change of the network goes to the nodes as `rollout.maxUnavailable` allows.", "Wait.";
    RolloutStopped: "A node that got the latest change of the network did not become Ready: the others keep what they have.",
        "Correct what the message names, or take the change back: the rollout then goes on.";
    Starting: "The agent has not looked at everything yet.", "Wait.";
    InterfaceMissing: "The tunnel source's interface does not exist.", "Correct tunnelSource.interface.";
    VrfMissing: "A VRF that the tunnel is to be in does not exist on this node, or is down.",
        "Make it (`ip link add NAME type vrf table N`, `ip link set NAME up`), or correct tunnel.vrf or tunnelSource.vrf.";
    VrfMismatch: "The tunnel source is not in the VRF that tunnelSource.vrf names.",
        "Correct tunnelSource.vrf, or put the interface into the VRF.";
    InterfaceUp: "The tunnel interface is there and up, with an underlay address.", "Nothing to do.";
    InterfaceDown: "The tunnel source's interface is down.", "Bring the interface up.";
    InterfaceNoCarrier: "The tunnel source's interface has no carrier.", "Check the cable or the other end.";
    InterfaceHasNoAddress: "The tunnel source's interface has no address.", "Give it one, or wait for DHCP.";
    SourceAddressInvalid: "The tunnel source is no IP address.", "Correct tunnelSource.address.";
    SourceAddressMissing: "The tunnel source address is on no interface of the node.",
        "Add it, or correct tunnelSource.address.";
    NoDefaultRoute: "Neither a route to a hub nor a default route says which address to use.",
        "Bring the underlay up, or set tunnelSource.interface or tunnelSource.address.";
    InterfaceNotCreated: "The kernel refused the tunnel interface.",
        "See the message: ip_gre may be missing, or CAP_NET_ADMIN.";
    NotShaped: "The kernel or nft refuses what shapes to the rates of qos.groups: spokes get what comes.",
        "See the message: sch_htb or sch_fq_codel may be missing.";
    NoRouteToHub: "The underlay has no route to the hub's underlay address.", "Correct the underlay's routing.";
    RecursiveRouting: "The hub's underlay address is routed through the tunnel itself.",
        "Do not announce underlay addresses in the overlay.";
    NameNotResolved: "A hub's host name does not resolve.", "Correct the name or the resolver.";
    WaitingForIke: "IKE with the hub is not established.", "Wait; see the message if it lasts.";
    WaitingForIpsec: "The IPsec SA with the hub is not installed.", "Wait; see the message if it lasts.";
    Protected: "GRE of the tunnel is under IPsec, and nothing of it goes in clear.", "Nothing to do.";
    IkeDaemonAway: "The IKE daemon (strongSwan's charon) does not answer on its VICI socket.",
        "On a box start charon-systemd, and give the agent its socket with --vici; in a cluster install the chart with ipsec.enabled. SAs that are in the kernel carry on meanwhile.";
    IkeAuthenticationFailed: "The hub does not take the key or the certificate of this node.",
        "With keys, use the same pskSecretRefs on both; with certificates see the reason in the hub's log, and the caSecretRefs there.";
    IkeUnknownAuthority: "The certificate of the hub is from none of the roots that are trusted here.",
        "Add its root to certificate.caSecretRefs; two roots are trusted while one is exchanged for another.";
    IkeWrongIdentity: "The hub shows no good certificate of the one whom it has to be.",
        "Correct the hub's identity or nbma in the network, or its certificate; else somebody poses as the hub.";
    IkeCertificateInvalid: "The certificate of the hub has expired, is not valid yet, or was revoked.",
        "Renew it, and see whether the clocks of both are right.";
    CertificateExpired: "The certificate of this node has expired.",
        "Renew it in the Secret of certificate.secretRef, and see whether the clock is right.";
    CertificateNotYetValid: "The certificate of this node is not valid yet.",
        "Set the clock: a box without a battery starts in 1970.";
    CertificateNotTrusted: "The certificate of this node is from none of the roots that are trusted here.",
        "Add its root to certificate.caSecretRefs, or use a certificate from one of them.";
    CertificateUnusable: "A certificate, its key or a root cannot be read, or they do not belong together.",
        "Correct the Secret that the message names: PEM, the key that belongs to the certificate, its root in caSecretRefs.";
    IkeNoProposal: "The hub takes none of our IKE or ESP proposals, or has no connection for us.",
        "Use the same ipsec.proposals on both, and see whether the hub's network has ipsec.mode Required.";
    IkeNoAnswer: "The hub does not answer IKE.", "Check that UDP 500 and 4500 pass, and that charon runs at the hub.";
    Registering: "A registration is on its way.", "Wait.";
    Standby: "Enough other hubs of its cluster are in use.", "Nothing to do: it is taken when one of those fails.";
    Draining: "The hub hands its spokes on to others.", "Nothing to do: set its mode to Active to use it again.";
    NoAnswer: "The hub does not answer registrations.",
        "Check that GRE (IP protocol 47) passes, that the key is the same and that the hub runs.";
    NoNhsAddress: "No underlay address of the hub is known.", "Add nbma to the hub, or check DNS.";
    NoUnderlayAddress: "The tunnel has no local underlay address.", "Bring the tunnel source up.";
    RegistrationRefused: "The hub refused the registration.", "See the code in the message and the hub's log.";
    AdministrativelyProhibited: "The hub does not admit this registration (code 4).",
        "Use an address within the hub's overlay, and see the hub's registration policy.";
    InsufficientResources: "The hub's tables are full (code 5).", "Use another hub, or give this one room.";
    ErrorIndication: "The hub answered with an NHRP error.", "See the code in the message and the hub's log.";
    AuthenticationFailed: "The NHRP password is wrong or missing.", "Use the same authenticationSecretRefs on both.";
    KeyMismatchSuspected: "The hub's host has no tunnel with this key, or none at all.",
        "Use the same tunnel.key, and see whether the hub's tunnel is there.";
    GreBlocked: "The hub's host answers ping, but nothing comes back by GRE: it is dropped, or the hub does not know us.",
        "Let GRE (IP protocol 47) pass both ways; see whether the hub's agent runs and tunnel.key is the same.";
    KeepaliveLost: "The other end of a point-to-point tunnel sends no keepalive back.",
        "See whether it is up, answers keepalives, and GRE (IP protocol 47) with the same key passes both ways.";
    Forwarding: "Packets pass through the node.", "Nothing to do.";
    ForwardingDisabled: "The host does not forward.", "Set net.ipv4.ip_forward and net.ipv6.conf.all.forwarding to 1.";
    ReversePathFilter: "Strict reverse path filtering drops packets.", "Set net.ipv4.conf.all.rp_filter to 2 (loose).";
    MtuBlackHole: "Long packets vanish on the way to a hub, and no ICMP error says so.",
        "Set tunnel.mtu to what gets through, or let ICMP's `fragmentation needed` and `packet too big` pass on the underlay.";
    SharedSecret: "One key for all: anyone can claim any name.", "Use certificates, or a key for each spoke.";
    NotProven: "Without IPsec nothing proves who sends: a member is known by its underlay address alone.",
        "Set ipsec.mode to Required, or use an underlay that nobody else is on.";
    AgentSilent: "The agent of the node does not report.", "Check the agent's pod and the node.";
    NothingHere: "It is accepted, and no node of this cluster has a part in it.",
        "Nothing to do if the sites are elsewhere; else label a node.";
    TunnelsNotReady: "Some of its tunnels are not up.", "See `kubectl get dmvpnendpoints`, and the message.";
    NotRegistered: "No hub of this cluster has a registration of this external spoke.",
        "Check the router: its NHS address, the key, and that GRE (IP protocol 47) passes.";
    Removing: "The tunnel is being taken away.", "Wait.";
    Removed: "The tunnel was taken away, as it was asked to be.", "Nothing to do.";
    EndpointGone: "The endpoint object is gone, though nobody asked for the tunnel to be removed: it stays.",
        "Bring the operator back; to remove the tunnel, run `dmvpn-agent purge` on the node.";
    SecretsUnavailable: "The agent cannot get its Secrets from the operator.",
        "See the message: the operator must be reachable from the node, and its certificate valid.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reason that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown reason {0}")]
pub struct UnknownReason(String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        Self::ALL.iter().copied().find(|r| r.as_str() == text).ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_cause_and_a_cure() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert!(reason.cause().ends_with('.') && reason.cure().ends_with('.'), "{reason}");
            assert!(reason.as_str().chars().all(|c| c.is_ascii_alphanumeric()), "{reason}");
        }
        assert!("Nonsense".parse::<Reason>().is_err());
    }
}
