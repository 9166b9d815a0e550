//! Condition types of all kinds, and how they are put into `status.conditions`.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::reasons::Reason;

/// Types of conditions: the three that kstatus reads, then details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The summary: it does what it is asked to do.
    Ready,
    /// Work is going on that will end by itself (kstatus: abnormal when True).
    Reconciling,
    /// Nothing will change until somebody changes something (kstatus: abnormal when True).
    Stalled,
    /// The object is valid and all of it is supported.
    Accepted,
    /// The tunnel link is there and up, with an underlay address.
    InterfaceReady,
    /// Peers prove who they are.
    Authenticated,
    /// SAs protect the tunnel.
    IpsecReady,
    /// The hubs have acknowledged the registration.
    Registered,
    /// The host forwards between the tunnel and the networks behind it.
    ForwardingReady,
    /// The Secrets that it names are there.
    CredentialsReady,
}

impl ConditionType {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 10] = [
        Self::Ready,
        Self::Reconciling,
        Self::Stalled,
        Self::Accepted,
        Self::InterfaceReady,
        Self::Authenticated,
        Self::IpsecReady,
        Self::Registered,
        Self::ForwardingReady,
        Self::CredentialsReady,
    ];

    /// As it is written in `status.conditions[].type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Accepted => "Accepted",
            Self::InterfaceReady => "InterfaceReady",
            Self::Authenticated => "Authenticated",
            Self::IpsecReady => "IPsecReady",
            Self::Registered => "Registered",
            Self::ForwardingReady => "ForwardingReady",
            Self::CredentialsReady => "CredentialsReady",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    Unknown,
}

impl ConditionStatus {
    /// As it is written in `status.conditions[].status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The condition of a type.
pub fn find(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == type_.as_str())
}

/// Whether a condition is there and True.
pub fn is_true(conditions: &[Condition], type_: ConditionType) -> bool {
    find(conditions, type_).is_some_and(|c| c.status == ConditionStatus::True.as_str())
}

/// Puts a condition into a list. `lastTransitionTime` moves only when the status flips, so that the same
/// state gives the same bytes. Returns whether anything changed.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: ConditionType,
    status: ConditionStatus,
    reason: Reason,
    message: &str,
    generation: Option<i64>,
    now: Time,
) -> bool {
    let mut next = Condition {
        type_: type_.as_str().to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: now,
    };
    let Some(old) = conditions.iter_mut().find(|c| c.type_ == next.type_) else {
        conditions.push(next);
        return true;
    };
    if old.status == next.status {
        next.last_transition_time = old.last_transition_time.clone();
    }
    let changed = *old != next;
    *old = next;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_moves_only_when_the_status_flips() {
        let at = |s: &str| Time(s.parse().unwrap());
        let (t0, t1) = (at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z"));
        let mut list = Vec::new();
        let ready = ConditionType::Ready;
        assert!(set(&mut list, ready, ConditionStatus::False, Reason::Waiting, "", Some(1), t0.clone()));
        assert!(!set(&mut list, ready, ConditionStatus::False, Reason::Waiting, "", Some(1), t1.clone()));
        assert!(set(&mut list, ready, ConditionStatus::False, Reason::NoHub, "", Some(1), t1.clone()));
        assert_eq!(list[0].last_transition_time, t0);
        assert!(set(&mut list, ready, ConditionStatus::True, Reason::Up, "", Some(1), t1.clone()));
        assert_eq!((list.len(), &list[0].last_transition_time), (1, &t1));
    }
}
