//! How an endpoint stands, and what a number of them come to.

use crds::{ConditionStatus, ConditionType, DmvpnEndpoint, Reason, conditions};

use super::Said;
use crate::pass::stays;

/// How many endpoints a message names.
const NAMED: usize = 3;

/// How an endpoint stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does what it should.
    Ready,
    /// It is on its way.
    Pending(&'static str),
    /// Its agent says that it does not, and why; `stalled`: nothing will change by itself.
    NotReady {
        /// State, reason and message.
        text: String,
        /// Nothing will change by itself.
        stalled: bool,
    },
    /// Its agent does not report.
    Silent,
}

impl Standing {
    /// Of an endpoint that was Ready under the version before: it is taken to be, while nothing is said of the new one.
    pub(super) fn or_as_before(self) -> Self {
        if matches!(self, Self::Pending(_)) { Self::Ready } else { self }
    }
}

/// Whether the last word of an endpoint's agent was that all is well, of whatever version.
pub(super) fn is_up(endpoint: &DmvpnEndpoint) -> bool {
    let status = endpoint.status.as_ref();
    stays(endpoint) && status.is_some_and(|it| conditions::is_true(&it.conditions, ConditionType::Ready))
}

/// How an endpoint stands that should be as `wanted`.
pub(super) fn standing(endpoint: Option<&DmvpnEndpoint>, wanted: Option<&DmvpnEndpoint>) -> Standing {
    let (Some(endpoint), Some(wanted)) = (endpoint, wanted) else {
        return Standing::Pending("the agent has not reported yet");
    };
    if !stays(endpoint) {
        return Standing::Pending("the endpoint was deleted and is made again");
    }
    let Some(status) = &endpoint.status else {
        return Standing::Pending("the agent has not reported yet");
    };
    let find = |type_: ConditionType| status.conditions.iter().find(|c| c.type_ == type_.as_str());
    let ready = find(ConditionType::Ready);
    if ready.is_some_and(|c| c.reason == Reason::AgentSilent.as_str()) {
        return Standing::Silent;
    }
    if endpoint.spec != wanted.spec {
        return Standing::Pending("a change is being applied");
    }
    if status.observed_generation != endpoint.metadata.generation {
        return Standing::Pending("the agent has not reported yet");
    }
    match ready {
        None => Standing::Pending("the agent has not reported yet"),
        Some(ready) if ready.status == ConditionStatus::True.as_str() => Standing::Ready,
        Some(ready) => {
            let state = status.state.as_deref().unwrap_or("?");
            let separator = if ready.message.is_empty() { "" } else { ": " };
            let text = format!("{state}, {}{separator}{}", ready.reason, ready.message);
            let stalled =
                find(ConditionType::Stalled).is_some_and(|c| c.status == ConditionStatus::True.as_str());
            Standing::NotReady { text, stalled }
        }
    }
}

/// Whether the agent of an endpoint does not report.
pub(super) fn is_silent(endpoint: &DmvpnEndpoint) -> bool {
    let all = endpoint.status.iter().flat_map(|status| &status.conditions);
    let mut ready = all.filter(|c| c.type_ == ConditionType::Ready.as_str());
    ready.any(|c| c.reason == Reason::AgentSilent.as_str())
}

/// Whether GRE is under IPsec on all of `endpoints`: what the first says where it is not, or nobody knows; `None`: none
/// has said anything.
pub(super) fn protection(endpoints: &[&DmvpnEndpoint]) -> Option<(ConditionStatus, Reason, String)> {
    let type_ = ConditionType::IpsecReady;
    let (mut good, mut unknown, mut bad) = (0, Vec::new(), Vec::new());
    for endpoint in endpoints {
        let node = endpoint.spec.node_name.as_str();
        if is_silent(endpoint) {
            unknown.push((Reason::AgentSilent, format!("{node} (the agent does not report)")));
            continue;
        }
        let mut all = endpoint.status.iter().flat_map(|status| &status.conditions);
        let Some(said) = all.find(|c| c.type_ == type_.as_str()) else { continue };
        let separator = if said.message.is_empty() { "" } else { ": " };
        let entry = || {
            let reason = said.reason.parse().unwrap_or(Reason::Waiting);
            (reason, format!("{node} ({}{separator}{})", said.reason, said.message))
        };
        match said.status.as_str() {
            "True" => good += 1,
            "False" => bad.push(entry()),
            _ => unknown.push(entry()),
        }
    }
    let (status, reason) = match (bad.first(), unknown.first()) {
        (Some((reason, _)), _) => (ConditionStatus::False, *reason),
        (None, Some((reason, _))) => (ConditionStatus::Unknown, *reason),
        (None, None) if good > 0 => return Some((ConditionStatus::True, Reason::Protected, String::new())),
        (None, None) => return None,
    };
    let mut texts: Vec<String> = bad.into_iter().chain(unknown).map(|(_, text)| text).collect();
    Some((status, reason, few(&mut texts)))
}

/// What a number of endpoints come to.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) all: usize,
    pub(super) ready: usize,
    silent: Vec<String>,
    open: Vec<String>,
    stalled: bool,
}

impl Summary {
    pub(super) fn add(&mut self, node: &str, standing: Standing) {
        self.all += 1;
        match standing {
            Standing::Ready => self.ready += 1,
            Standing::Silent => self.silent.push(node.to_owned()),
            Standing::Pending(what) => self.open.push(format!("{node} ({what})")),
            Standing::NotReady { text, stalled } => {
                self.open.push(format!("{node} ({text})"));
                self.stalled |= stalled;
            }
        }
    }

    /// Conditions that follow; `what` they are, for the message.
    pub(super) fn said(mut self, what: &str) -> Said {
        let plural = if self.all == 1 { "" } else { "s" };
        let count = format!("{} of {} {what}{plural} ready", self.ready, self.all);
        if self.ready == self.all {
            return Said::new(ConditionStatus::True, Reason::Up, count);
        }
        if self.open.is_empty() {
            let message = format!("{count}; the agent does not report on {}", few(&mut self.silent));
            return Said::new(ConditionStatus::Unknown, Reason::AgentSilent, message).reconciling();
        }
        self.open.extend(self.silent.into_iter().map(|node| format!("{node} (the agent does not report)")));
        let message = format!("{count}; {}", few(&mut self.open));
        let said = Said::new(ConditionStatus::False, Reason::TunnelsNotReady, message);
        if self.stalled { said.stalled() } else { said.reconciling() }
    }
}

/// The first few, and how many more.
pub(super) fn few(list: &mut Vec<String>) -> String {
    list.sort();
    let more = list.len().saturating_sub(NAMED);
    list.truncate(NAMED);
    let text = list.join(", ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}
