//! Extension 0x3804: an overlay address in band. Not compulsory; in Registration Requests and Replies.
//!
//! ```text
//! form(1) = 1 | flags(1) | family(1) 4 or 6 | identity length(1) | seconds(4) | address(4 or 16) | identity (UTF-8)
//! ```
//! Who says what with it:
//! - A client that has no overlay address sends a Registration Request from the unspecified address, with a holding time
//!   of zero (a peer of another make has nothing to bind): "I am `identity`, give me an address". The address is
//!   unspecified, or with [`assignment_flags::DECLINED`] the one that another holds.
//! - The Registration Reply has the address, and for how long it is kept after the client's last word. Refused: the code
//!   of the entry says why, and the extension comes back as it was.
//! - A Registration Request for an assigned address has the address and the identity: it renews the lease.
//!
//! What follows the identity belongs to later versions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cie::write_address;

const FORM: u8 = 1;
const HEADER: usize = 8;
/// Longest identity in bytes.
pub const MAX_IDENTITY: usize = 128;

/// Flag bits.
pub mod assignment_flags {
    /// The address is held by another: another one is wanted.
    pub const DECLINED: u8 = 1;
}

/// Content of the extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// See [`assignment_flags`].
    pub flags: u8,
    /// How long the address is kept for the client after its last word; in replies.
    pub seconds: u32,
    /// The address; unspecified if there is none.
    pub address: IpAddr,
    /// Who the client is, 1 to [`MAX_IDENTITY`] bytes.
    pub identity: String,
}

impl Assignment {
    /// Reads the content; `None` if it is of another form, does not fit or has no usable identity.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (fixed, rest) = value.split_first_chunk::<HEADER>()?;
        let [form, flags, family, length, s0, s1, s2, s3] = *fixed;
        let (address, rest) = match family {
            4 => {
                let (octets, rest) = rest.split_first_chunk::<4>()?;
                (IpAddr::V4(Ipv4Addr::from(*octets)), rest)
            }
            6 => {
                let (octets, rest) = rest.split_first_chunk::<16>()?;
                (IpAddr::V6(Ipv6Addr::from(*octets)), rest)
            }
            _ => return None,
        };
        let identity = str::from_utf8(rest.get(..usize::from(length))?).ok()?;
        let usable =
            !identity.is_empty() && identity.len() <= MAX_IDENTITY && !identity.chars().any(char::is_control);
        (form == FORM && usable).then(|| Self {
            flags,
            seconds: u32::from_be_bytes([s0, s1, s2, s3]),
            address,
            identity: identity.to_owned(),
        })
    }

    /// Content of the extension. A longer identity is cut.
    pub fn encode(&self) -> Vec<u8> {
        let most = (0..=MAX_IDENTITY.min(self.identity.len())).rev();
        let identity = most.filter_map(|length| self.identity.get(..length)).next().unwrap_or_default();
        let family = if self.address.is_ipv4() { 4 } else { 6 };
        let mut value = vec![FORM, self.flags, family, identity.len() as u8];
        value.extend_from_slice(&self.seconds.to_be_bytes());
        write_address(&mut value, self.address);
        value.extend_from_slice(identity.as_bytes());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for address in ["10.255.16.7", "fd00::7", "0.0.0.0"] {
            let assignment = Assignment {
                flags: assignment_flags::DECLINED,
                seconds: 86_400,
                address: address.parse().unwrap(),
                identity: "branch-a/node-1".into(),
            };
            let mut value = assignment.encode();
            for length in 0..value.len() {
                assert_eq!(Assignment::decode(&value[..length]), None);
            }
            value.extend_from_slice(b"later");
            assert_eq!(Assignment::decode(&value), Some(assignment));
            value[0] = 2;
            assert_eq!(Assignment::decode(&value), None);
        }
    }

    #[test]
    fn identities_that_are_none() {
        let with = |identity: &[u8]| {
            let mut value = vec![FORM, 0, 4, identity.len() as u8, 0, 0, 0, 0, 0, 0, 0, 0];
            value.extend_from_slice(identity);
            Assignment::decode(&value)
        };
        assert!(with(b"x").is_some());
        for bad in [&b""[..], b"two\nlines", b"\xff\xfe", &[b'x'; MAX_IDENTITY + 1]] {
            assert_eq!(with(bad), None);
        }
    }
}
