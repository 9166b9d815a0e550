//! What the host's sysctls say about packets that pass through it. They are read, never changed: a setting of the whole
//! host is its administrator's.

use std::fs;

/// What the host does with packets that are not its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// IPv4 packets are forwarded.
    pub ipv4_forwarding: bool,
    /// IPv6 packets are forwarded.
    pub ipv6_forwarding: bool,
    /// Settings by which packets are dropped that come in another way than packets to their source leave (RFC 3704
    /// §2.2).
    pub strict: Vec<String>,
    /// Packets that this has dropped, on whichever link (`TcpExt: IPReversePathFilter`).
    pub reverse_path_drops: u64,
}

/// Reads them. What cannot be read counts as harmless.
pub fn settings() -> Settings {
    let number = |path: &str| -> Option<u8> {
        fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?.trim().parse().ok()
    };
    let links = fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten();
    let names = links.filter_map(|entry| entry.file_name().into_string().ok());
    let filter = |name: &str| number(&format!("ipv4/conf/{name}/rp_filter")).unwrap_or(0);
    let all = filter("all");
    // The greater of two is in force for a link: 1 is strict, 2 is loose. (Our own links are made loose.)
    let mut strict: Vec<_> = match all {
        0 => names.filter(|name| name != "default" && filter(name) == 1).collect(),
        1 => vec!["all".to_owned()],
        _ => Vec::new(),
    };
    strict.sort();
    let strict = strict.into_iter().map(|name| format!("net.ipv4.conf.{name}.rp_filter")).collect();
    Settings {
        ipv4_forwarding: number("ipv4/ip_forward") != Some(0),
        ipv6_forwarding: number("ipv6/conf/all/forwarding") != Some(0),
        strict,
        reverse_path_drops: fs::read_to_string("/proc/net/netstat")
            .ok()
            .and_then(|text| drops(&text))
            .unwrap_or(0),
    }
}

/// Names in one line, numbers in the next.
fn drops(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_whitespace().zip(numbers.split_whitespace());
    pairs.find(|(name, _)| *name == "IPReversePathFilter")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_by_its_name() {
        let text =
            "TcpExt: SyncookiesSent IPReversePathFilter PAWSActive\nTcpExt: 1 42 3\nIpExt: A\nIpExt: 7\n";
        assert_eq!(drops(text), Some(42));
        assert_eq!(drops("TcpExt: A B\nTcpExt: 1 2\n"), None);
        assert_eq!(drops(""), None);
    }
}
