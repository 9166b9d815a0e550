//! Several networks on one node: their routes keep out of each other's way, and those of one networkId know of each other.

use std::collections::BTreeMap;

/// Metrics that one network uses: see [`super::Metrics`].
const STEP: u32 = 4;
/// The kernel takes this metric of an IPv6 route for none at all.
const IPV6_DEFAULT: u32 = 1024;

/// The metric that each network gets, from what its endpoint asks for: no two networks use the same one, so that both
/// can have a route to the same prefix and the other one takes over when the better one goes. The lower metric goes
/// first; of equal ones, the first name.
pub fn metrics<'a>(asked: impl IntoIterator<Item = (&'a str, u32)>) -> BTreeMap<&'a str, u32> {
    let mut order: Vec<_> = asked.into_iter().map(|(network, metric)| (metric.max(STEP), network)).collect();
    order.sort_unstable();
    let mut free = 0;
    let mut out = BTreeMap::new();
    for (asked, network) in order {
        let mut metric = asked.max(free);
        if metric != asked && (IPV6_DEFAULT..IPV6_DEFAULT + STEP).contains(&metric) {
            metric = IPV6_DEFAULT + STEP;
        }
        out.insert(network, metric);
        free = metric.saturating_add(STEP);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::metrics;

    #[test]
    fn no_two_networks_use_the_same() {
        let all =
            |asked: &[(&'static str, u32)]| metrics(asked.iter().copied()).into_iter().collect::<Vec<_>>();
        assert_eq!(all(&[("a", 100)]), [("a", 100)]);
        assert_eq!(all(&[("red", 100), ("blue", 100)]), [("blue", 100), ("red", 104)]);
        // 102 would use 99 to 102.
        assert_eq!(all(&[("a", 102), ("b", 100), ("c", 200)]), [("a", 104), ("b", 100), ("c", 200)]);
        assert_eq!(all(&[("a", 2), ("b", 3)]), [("a", 4), ("b", 8)]);
        assert_eq!(all(&[("a", 1021), ("b", 1021)]), [("a", 1021), ("b", 1028)]);
        assert_eq!(all(&[("a", u32::MAX), ("b", 1)]), [("a", u32::MAX), ("b", 4)]);
    }
}
