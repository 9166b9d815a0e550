//! Names that we make: of endpoints, interfaces and network ids. Stable: they depend on nothing but what they
//! name.

use crds::DmvpnNetwork;
use kube::ResourceExt;

/// Bytes in a Linux interface name, without the final zero.
const INTERFACE_MAX: usize = 15;
/// Bytes in the name of an API object.
const OBJECT_MAX: usize = 253;
/// Bytes of an identity in a request for an address.
const IDENTITY_MAX: usize = 128;

/// Interface name of a network: `tunnel.interfaceName`, else `dm-` and the network's name; if that is longer
/// than 15 bytes, `dm-`, the first six characters of the name, `-` and five characters of its hash.
pub(crate) fn interface(network: &DmvpnNetwork) -> String {
    if let Some(name) = &network.spec.tunnel.interface_name {
        return name.clone();
    }
    let name = network.name_any();
    let plain = format!("dm-{name}");
    if plain.len() <= INTERFACE_MAX {
        return plain;
    }
    let head: String = name.chars().take(6).collect();
    format!("dm-{head}-{}", hash_text(&[&name], 5))
}

/// Name of the endpoint of a network on a node: `NETWORK-NODE`. A network's name that has a `-` itself could
/// be read in two ways, and a long one does not fit: those get a hash at the end.
pub(crate) fn endpoint(network: &str, node: &str) -> String {
    let plain = format!("{network}-{node}");
    if plain.len() <= OBJECT_MAX && !network.contains('-') {
        return plain;
    }
    let hash = hash_text(&[network, node], 8);
    let head: String = plain.chars().take(OBJECT_MAX - 1 - hash.len()).collect();
    format!("{}-{hash}", head.trim_end_matches(['-', '.']))
}

/// NHRP network id: `nhrp.networkId`, else from the network's name, never 0.
pub(crate) fn network_id(network: &DmvpnNetwork) -> u32 {
    network.spec.nhrp.network_id.unwrap_or_else(|| {
        let hash = hash(&[&network.name_any()]);
        ((hash ^ (hash >> 32)) as u32).max(1)
    })
}

/// Identity of a spoke (on a node) that asks for an address, at most 128 bytes: `owner`, or its head and a hash.
pub(crate) fn identity(owner: &str) -> String {
    if owner.len() <= IDENTITY_MAX {
        return owner.to_owned();
    }
    let hash = hash_text(&[owner], 12);
    let head: String = owner.chars().take(IDENTITY_MAX - 1 - hash.len()).collect();
    format!("{head}~{hash}")
}

/// FNV-1a over the parts, each ended by a zero, so that ("ab", "c") is not ("a", "bc").
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn hash_text(parts: &[&str], length: usize) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut rest = hash(parts);
    (0..length)
        .map(|_| {
            let digit = DIGITS.get((rest & 31) as usize).copied().unwrap_or(b'a');
            rest >>= 5;
            char::from(digit)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_different_pairs_have_different_names() {
        assert_eq!(endpoint("branches", "west-1"), "branches-west-1");
        assert_ne!(endpoint("a", "b-c"), endpoint("a-b", "c"));
        let long = "n".repeat(250);
        let name = endpoint(&long, "node-1");
        assert!(name.len() <= OBJECT_MAX && name != endpoint(&long, "node-2"), "{name}");
    }
}
