//! The Lease: only its holder writes. Our own, because it must be right: each write is a replace guarded by the version
//! that was read, so that of two that want it one loses; time is counted on the monotonic clock from when *we* saw the
//! Lease change, never by comparing clocks of machines; and the holder stops by itself before anybody else can begin.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::progress::Progress;

/// How long others wait for a holder that does not renew.
pub const DURATION: Duration = Duration::from_secs(15);
/// How long the holder writes after its last renewal. With the time that one write may take it stays below [`DURATION`].
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is renewed, or looked at.
pub const RETRY: Duration = Duration::from_secs(2);
/// A holder that lost the Lease to force looks at it within [`RETRY`], and what it was writing just then is written.
pub const HANDS_OFF: Duration = Duration::from_secs(RETRY.as_secs() + 1);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(4);

/// Until when this process may write.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// Whether it may write now.
    pub fn may_write(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns when it may have begun or ended.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What to do about the Lease.
#[derive(Debug, PartialEq)]
enum Decision {
    /// It is not there.
    Create(LeaseSpec),
    /// It is ours, free, or its holder has been silent for too long.
    Replace(LeaseSpec),
    /// Somebody else holds it.
    Wait,
}

/// The Lease as we know it.
#[derive(Debug)]
pub struct Holder {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// Takes it from whoever holds it.
    force: bool,
    /// Seconds that others have to wait for us.
    duration: Duration,
    /// As it was last read or written, and when we first saw that version.
    seen: Option<(Lease, Instant)>,
}

impl Holder {
    /// A candidate.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, name: name.to_owned(), identity, force: false, duration: DURATION, seen: None }
    }

    /// Takes the Lease from whoever holds it.
    pub fn forcing(self) -> Self {
        Self { force: true, ..self }
    }

    /// Others have to wait longer for us from the next renewal on.
    pub fn lasting(&mut self, duration: Duration) {
        self.duration = duration;
    }

    /// Takes or renews the Lease; whether it is ours then. The time counts from before the request.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn attempt(&mut self) -> Result<bool, kube::Error> {
        // What we wrote last is the newest unless somebody else wrote: then the replace fails, and it is read.
        let ours = self.seen.as_ref().is_some_and(|(lease, _)| self.is_ours(lease));
        if !ours {
            let read = self.api.get_opt(&self.name).await?;
            self.see(read);
        }
        let lease = self.seen.as_ref().map(|(lease, at)| (lease, *at));
        let written = match decide(lease, &self.identity, self.duration, self.force, Instant::now(), stamp())
        {
            Decision::Wait => return Ok(false),
            Decision::Create(spec) => {
                let meta = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata: meta, spec: Some(spec) };
                self.api.create(&PostParams::default(), &lease).await
            }
            Decision::Replace(spec) => {
                let metadata = self.seen.as_ref().map(|(l, _)| l.metadata.clone()).unwrap_or_default();
                let lease = Lease { metadata, spec: Some(spec) };
                self.api.replace(&self.name, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.see(Some(lease));
                Ok(true)
            }
            // Somebody was faster, or it was deleted: it is read at the next attempt.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {
                self.seen = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the Lease back, if it is ours.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn release(&mut self) -> Result<(), kube::Error> {
        let Some((lease, _)) = self.seen.take().filter(|(lease, _)| self.is_ours(lease)) else {
            return Ok(());
        };
        let mut spec = lease.spec.unwrap_or_default();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(stamp());
        let lease = Lease { metadata: lease.metadata, spec: Some(spec) };
        self.api.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        holder(lease) == Some(self.identity.as_str())
    }

    fn see(&mut self, read: Option<Lease>) {
        let version = |lease: &Lease| (lease.metadata.uid.clone(), lease.metadata.resource_version.clone());
        self.seen = read.map(|new| {
            let at = match self.seen.take() {
                Some((old, at)) if version(&old) == version(&new) => at,
                _ => Instant::now(),
            };
            (new, at)
        });
    }
}

fn stamp() -> MicroTime {
    MicroTime(Timestamp::now())
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|h| !h.is_empty())
}

fn decide(
    lease: Option<(&Lease, Instant)>,
    me: &str,
    duration: Duration,
    force: bool,
    now: Instant,
    stamp: MicroTime,
) -> Decision {
    let seconds = i32::try_from(duration.as_secs()).ok();
    let mut spec = LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: seconds,
        acquire_time: Some(stamp.clone()),
        renew_time: Some(stamp),
        lease_transitions: Some(0),
        ..LeaseSpec::default()
    };
    let Some((lease, since)) = lease else { return Decision::Create(spec) };
    let old = lease.spec.clone().unwrap_or_default();
    let transitions = old.lease_transitions.unwrap_or(0);
    match holder(lease) {
        Some(holder) if holder == me => {
            spec.acquire_time = old.acquire_time.or(spec.acquire_time);
            spec.lease_transitions = Some(transitions);
        }
        Some(_) => {
            let promised = old.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
            let promised = promised.map_or(DURATION, Duration::from_secs);
            if !force && now.duration_since(since) < promised {
                return Decision::Wait;
            }
            spec.lease_transitions = Some(transitions.saturating_add(1));
        }
        None => spec.lease_transitions = Some(transitions.saturating_add(1)),
    }
    Decision::Replace(spec)
}

/// Holds the Lease as long as it can be had; ends, having given it back, when `stop` does.
pub async fn hold(
    mut holder: Holder,
    until: watch::Sender<Option<Instant>>,
    progress: Arc<Progress>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    let mut failing = false;
    loop {
        let started = Instant::now();
        let attempt = tokio::select! {
            attempt = tokio::time::timeout(REQUEST, holder.attempt()) => attempt,
            () = &mut stop => break,
        };
        match attempt {
            Ok(Ok(ours)) => {
                progress.api_answered(Instant::now());
                failing = false;
                let was = until.borrow().is_some_and(|until| started < until);
                if was != ours {
                    info!(
                        identity = holder.identity,
                        lease = holder.name,
                        "{}",
                        if ours { "leading" } else { "not leading" }
                    );
                }
                let next = ours.then(|| started + RENEW_DEADLINE);
                // Waiting tasks are woken by a change of hands only.
                until.send_if_modified(|until| {
                    *until = next;
                    was != ours
                });
            }
            failed => {
                let error = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no answer in time".to_owned(),
                };
                if std::mem::replace(&mut failing, true) {
                    debug!(%error, "the Lease cannot be renewed");
                } else {
                    warn!(%error, "the Lease cannot be renewed");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY.saturating_sub(started.elapsed())) => {}
            () = &mut stop => break,
        }
    }
    until.send_replace(None);
    if let Err(error) = tokio::time::timeout(REQUEST, holder.release()).await.unwrap_or(Ok(())) {
        warn!(%error, "the Lease could not be given back: others wait until it ends");
    }
}

/// The channel between [`hold`] and those that write.
pub fn channel() -> (watch::Sender<Option<Instant>>, Leadership) {
    let (sender, receiver) = watch::channel(None);
    (sender, Leadership(receiver))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>, seconds: Option<i32>) -> Lease {
        let spec = LeaseSpec {
            holder_identity: holder.map(Into::into),
            lease_duration_seconds: seconds,
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn it_is_taken_when_it_is_free_ours_or_over_and_never_before() {
        let t0 = Instant::now();
        let asked = |lease: Option<&Lease>, age: u64, force: bool| {
            let now = t0 + Duration::from_secs(age);
            decide(lease.map(|l| (l, t0)), "me", DURATION, force, now, stamp())
        };
        let transitions = |decision: Decision| match decision {
            Decision::Replace(spec) => {
                assert_eq!(spec.holder_identity.as_deref(), Some("me"));
                spec.lease_transitions
            }
            other => panic!("{other:?}"),
        };
        assert!(matches!(asked(None, 0, false), Decision::Create(_)));
        // as the chart makes it
        assert_eq!(transitions(asked(Some(&Lease::default()), 0, false)), Some(1));
        assert_eq!(transitions(asked(Some(&lease(None, None)), 0, false)), Some(5));
        assert_eq!(transitions(asked(Some(&lease(Some(""), None)), 0, false)), Some(5));
        assert_eq!(transitions(asked(Some(&lease(Some("me"), Some(15))), 0, false)), Some(4));
        let other = lease(Some("other"), Some(15));
        assert_eq!(asked(Some(&other), 14, false), Decision::Wait);
        assert_eq!(transitions(asked(Some(&other), 15, false)), Some(5));
        assert_eq!(transitions(asked(Some(&other), 0, true)), Some(5));
        // a holder that asked for more time gets it
        assert_eq!(asked(Some(&lease(Some("drain"), Some(120))), 119, false), Decision::Wait);
        assert_eq!(asked(Some(&lease(Some("other"), None)), 14, false), Decision::Wait);
    }
}
