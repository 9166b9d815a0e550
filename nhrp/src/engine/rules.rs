//! The safety rules by name, so that the simulator can switch off one at a time and show that it finds the breach.
//!
//! Without the cargo feature `faults` there is no switch: [`Engine::enforced`] is the constant `true`.

use super::Engine;

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A safety rule of the engine.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Rule {
            /// All rules.
            pub const ALL: &[Self] = &[$(Self::$name,)+];
        }
    };
}

rules! {
    /// An egress's prefix is never believed beyond the route by the hub that covers it.
    ClampToCovering,
    /// An error counts only if it is about a request that is outstanding.
    ErrorOutstanding,
    /// An error about a registration counts only from the NHS that was asked.
    ErrorSource,
    /// A binding ends with its holding time.
    Expiry,
    /// A reply is passed on only if it comes from where the request went.
    ForwardedReplyPath,
    /// A hub's address is registered only from where that hub is.
    HubAddress,
    /// A packet whose hops are used up goes no further.
    HopCount,
    /// Another NBMA address does not get an address that is taken (unless the old holder is silent).
    Identity,
    /// A redirect counts only from an NHS of ours.
    IndicationFromNhs,
    /// A redirect counts only for traffic that is ours.
    IndicationOurTraffic,
    /// A packet that went through us before goes no further.
    Loop,
    /// The NAT extension of a request counts only if it came by an NHS of ours.
    NatTrust,
    /// There is no shortcut to an egress behind NAT unless the NAT lets us in.
    NattedEgress,
    /// An egress that two answers place at different addresses is at neither.
    OneEgress,
    /// An overlay address is its own egress.
    OverlayEgress,
    /// Only addresses of the overlay can be registered.
    OverlayOnly,
    /// A packet without the password is dropped.
    Password,
    /// A shortcut is used only over a way that has been shown to carry packets.
    PathProof,
    /// A source of lower rank never replaces a binding.
    Precedence,
    /// A prefix that overlaps with another one's is refused.
    PrefixOverlap,
    /// A prefix that contains a tunnel end is refused.
    PrefixUnderlay,
    /// A shortcut is taken back only by its egress or by an NHS.
    PurgeFromNhs,
    /// A registration is taken back only from where it was made.
    PurgeFromOwner,
    /// Those who were told hear that it no longer holds.
    PurgeSending,
    /// A list of prefixes counts only from the NHS that it is of.
    PushFromNhs,
    /// A registration leads to where it came from, not to where it says.
    RegistrationSource,
    /// An answer to a registration counts only from the NHS that was asked.
    RegistrationReplySource,
    /// An answer counts only for the destination that was asked for.
    ReplyAddresses,
    /// An answer counts only with the id of an outstanding request.
    ReplyId,
    /// An answer counts only from the NHS that was asked or from the egress that it names.
    ReplyPath,
    /// Requests are passed on only for those who are registered, or as an NHS passed them on.
    RequesterKnown,
    /// A shortcut ends with its holding time.
    ShortcutExpiry,
    /// Tables that others fill are bounded.
    TableBounds,
}

impl Engine {
    /// Whether a rule holds.
    #[cfg(not(feature = "faults"))]
    #[expect(clippy::unused_self, reason = "the other form of it looks into the engine")]
    pub(crate) const fn enforced(&self, _rule: Rule) -> bool {
        true
    }

    /// Whether a rule holds.
    #[cfg(feature = "faults")]
    pub(crate) fn enforced(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    /// Switches a rule off, for the simulator's proof of itself.
    #[cfg(feature = "faults")]
    #[must_use]
    pub fn without(mut self, rule: Option<Rule>) -> Self {
        self.broken = rule;
        self
    }

    /// How many entries the tables hold that others can fill, by name.
    pub fn table_sizes(&self) -> [(&'static str, usize); 11] {
        [
            ("bindings", self.bindings.len()),
            ("prefixes", self.prefixes.len()),
            ("announced", self.announced.len()),
            ("shortcuts", self.shortcuts.len()),
            ("failures", self.failures.len()),
            ("probes", self.probes.len()),
            ("natted", self.natted.len()),
            ("paths", self.paths.len()),
            ("purges", self.purges.len()),
            ("forwarded", self.forwarded.len()),
            ("drops", self.drop_log.len()),
        ]
    }
}
