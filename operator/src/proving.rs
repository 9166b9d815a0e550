//! Which endpoints got their last change so lately that their agent may still take it back: an agent rolls back what cuts its
//! node off, and says so after a while only. A rollout waits for that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crds::DmvpnEndpoint;
use crds::endpoint::ROLLOUT_ANNOTATION;
use kube::ResourceExt;

/// The agent tries a change for 10 s, and another 5 s whether it helps to take it back.
pub const PROOF: Duration = Duration::from_secs(17);

/// Since when endpoints have been of their present generation.
#[derive(Debug, Default)]
pub struct Proving {
    since: BTreeMap<String, (Option<i64>, Instant)>,
}

impl Proving {
    /// Names of endpoints that are not proven yet, and when the next one will be. After a start nothing is.
    pub fn observe(
        &mut self,
        endpoints: &[DmvpnEndpoint],
        now: Instant,
    ) -> (BTreeSet<String>, Option<Instant>) {
        let (mut open, mut next, mut since) = (BTreeSet::new(), None::<Instant>, BTreeMap::new());
        for endpoint in endpoints.iter().filter(|e| e.annotations().contains_key(ROLLOUT_ANNOTATION)) {
            let (name, generation) = (endpoint.name_any(), endpoint.metadata.generation);
            let known = self.since.get(&name).filter(|(of, _)| *of == generation);
            let start = known.map_or(now, |(_, start)| *start);
            let end = start + PROOF;
            if end > now {
                open.insert(name.clone());
                next = Some(next.map_or(end, |next| next.min(end)));
            }
            since.insert(name, (generation, start));
        }
        self.since = since;
        (open, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::read;
    use serde_json::json;

    #[test]
    fn each_generation_has_to_be_proven() {
        let endpoint = |generation: i64| -> DmvpnEndpoint {
            let mut cluster =
                crate::testing::Cluster::with_network(json!({"rollout": {"maxUnavailable": 1}}));
            cluster.settle();
            let mut endpoint = cluster.endpoint("net-hub").clone();
            endpoint.metadata.generation = Some(generation);
            read(json!(endpoint))
        };
        let (mut proving, t0) = (Proving::default(), Instant::now());
        let mut open =
            |generation: i64, after: Duration| proving.observe(&[endpoint(generation)], t0 + after);
        assert_eq!(open(1, Duration::ZERO), (["net-hub".to_owned()].into(), Some(t0 + PROOF)));
        assert_eq!(open(1, PROOF), (BTreeSet::new(), None));
        assert_eq!(open(2, PROOF).1, Some(t0 + 2 * PROOF));
        assert_eq!(open(2, 2 * PROOF), (BTreeSet::new(), None));
    }
}
