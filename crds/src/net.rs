//! Typed prefixes.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A prefix without host bits, written `10.20.0.0/24` or `fd00:20::/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(pub IpNet);

/// Why a text is not a prefix. The text of the error names the cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// No `address/length` at all.
    #[error("{text}: not a prefix; write address/length, e.g. 10.20.0.0/24 or fd00:20::/64")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// An address without a length.
    #[error("{text}: the length is missing; did you mean {text}/{full}")]
    NoLength {
        /// What was given.
        text: String,
        /// Length of a host prefix of that family.
        full: u8,
    },
    /// Bits beyond the length are set.
    #[error("{text}: host bits set; did you mean {network}")]
    HostBits {
        /// What was given.
        text: String,
        /// The same prefix without them.
        network: IpNet,
    },
    /// `::ffff:10.0.0.0/104` and the like.
    #[error("{text}: IPv4-mapped IPv6 is not allowed; write the IPv4 prefix")]
    Mapped {
        /// What was given.
        text: String,
    },
}

/// Why a text is not an address. The text of the error names the cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an address at all.
    #[error("{text}: not an IP address; write e.g. 10.255.0.1 or fd00:255::1")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// A prefix where an address is meant.
    #[error("{text}: a prefix where an address is meant; did you mean {address}")]
    Prefix {
        /// What was given.
        text: String,
        /// The address in it.
        address: IpAddr,
    },
    /// `::ffff:10.0.0.1`.
    #[error("{text}: IPv4-mapped IPv6 is not allowed; did you mean {address}")]
    Mapped {
        /// What was given.
        text: String,
        /// The same as IPv4.
        address: IpAddr,
    },
}

/// Reads an address: no zone, no IPv4-mapped IPv6, no prefix length.
///
/// # Errors
/// Says what is wrong and how to write it.
pub fn parse_address(text: &str) -> Result<IpAddr, AddressError> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            Some(v4) => Err(AddressError::Mapped { text: text.into(), address: v4.into() }),
            None => Ok(v6.into()),
        },
        Ok(v4) => Ok(v4),
        Err(_) => match text.parse::<IpNet>() {
            Ok(net) => Err(AddressError::Prefix { text: text.into(), address: net.addr() }),
            Err(_) => Err(AddressError::Malformed { text: text.into() }),
        },
    }
}

impl Cidr {
    /// A prefix of one host.
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }

    /// Whether it is an IPv4 prefix.
    pub fn is_ipv4(&self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }
}

impl Deref for Cidr {
    type Target = IpNet;

    fn deref(&self) -> &IpNet {
        &self.0
    }
}

impl From<IpNet> for Cidr {
    /// Host bits are cleared.
    fn from(net: IpNet) -> Self {
        Self(net.trunc())
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let Ok(net) = text.parse::<IpNet>() else {
            return Err(match text.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => CidrError::NoLength { text: text.into(), full: 32 },
                Ok(IpAddr::V6(_)) => CidrError::NoLength { text: text.into(), full: 128 },
                Err(_) => CidrError::Malformed { text: text.into() },
            });
        };
        if let IpAddr::V6(v6) = net.addr()
            && v6.to_ipv4_mapped().is_some()
        {
            return Err(CidrError::Mapped { text: text.into() });
        }
        if net.trunc() != net {
            return Err(CidrError::HostBits { text: text.into(), network: net.trunc() });
        }
        Ok(Self(net))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Cidr {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "cidr", "minLength": 4, "maxLength": 43})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_or_refused_with_the_cure() {
        for good in ["10.20.0.0/24", "0.0.0.0/0", "10.0.0.1/32", "fd00:20::/64", "::/0"] {
            assert_eq!(good.parse::<Cidr>().map(|c| c.to_string()), Ok(good.to_owned()));
        }
        for (bad, want) in [
            ("10.20.0.5/24", "10.20.0.5/24: host bits set; did you mean 10.20.0.0/24"),
            ("fd00::1/64", "fd00::1/64: host bits set; did you mean fd00::/64"),
            ("10.20.0.0", "10.20.0.0: the length is missing; did you mean 10.20.0.0/32"),
            ("fd00::", "fd00::: the length is missing; did you mean fd00::/128"),
            ("10.20.0.0/33", "10.20.0.0/33: not a prefix; write address/length"),
            ("10.20.0/24", "10.20.0/24: not a prefix"),
            ("::ffff:10.0.0.0/104", "IPv4-mapped"),
            ("", "not a prefix"),
        ] {
            let got = bad.parse::<Cidr>().unwrap_err().to_string();
            assert!(got.contains(want), "{bad}: {got}");
        }
    }

    #[test]
    fn addresses_are_read_or_refused_with_the_cure() {
        assert_eq!(parse_address("10.0.0.1"), Ok("10.0.0.1".parse().unwrap()));
        for (bad, want) in [
            ("10.0.0.1/24", "did you mean 10.0.0.1"),
            ("::ffff:10.0.0.1", "did you mean 10.0.0.1"),
            ("10.0.0.256", "not an IP address"),
            ("010.0.0.1", "not an IP address"),
            ("fe80::1%eth0", "not an IP address"),
        ] {
            let got = parse_address(bad).unwrap_err().to_string();
            assert!(got.contains(want), "{bad}: {got}");
        }
    }
}
