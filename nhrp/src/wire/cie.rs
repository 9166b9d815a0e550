//! Client information entries (RFC 2332 §5.2.0.1): bindings inside packets and extensions.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::error::DecodeError;

/// Bytes of an entry before its addresses.
const FIXED: usize = 12;

/// One entry. A registering client may leave both addresses out: then those of the header count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cie {
    /// Outcome, in replies; see [`CieCode`].
    pub code: u8,
    /// Prefix length as on the wire: 0, 0xff and anything from the host length on mean one host.
    pub prefix_len: u8,
    /// MTU in bytes, 0 if not said.
    pub mtu: u16,
    /// Holding time in seconds.
    pub holding_time: u16,
    /// Higher is better.
    pub preference: u8,
    /// NBMA address.
    pub nbma: Option<IpAddr>,
    /// Protocol (overlay) address.
    pub proto: Option<IpAddr>,
}

impl Cie {
    /// Reads one entry and gives what follows it.
    pub(crate) fn read(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>().ok_or(DecodeError::Cie)?;
        let [code, prefix_len, _, _, mtu0, mtu1, hold0, hold1, nbma_len, sub_len, proto_len, preference] =
            *fixed;
        let (nbma, rest) = read_address(rest, nbma_len & 0x3f)?;
        let rest = rest.get(usize::from(sub_len & 0x3f)..).ok_or(DecodeError::Cie)?;
        let (proto, rest) = read_address(rest, proto_len)?;
        let mtu = u16::from_be_bytes([mtu0, mtu1]);
        let holding_time = u16::from_be_bytes([hold0, hold1]);
        Ok((Self { code, prefix_len, mtu, holding_time, preference, nbma, proto }, rest))
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let [mtu0, mtu1] = self.mtu.to_be_bytes();
        let [hold0, hold1] = self.holding_time.to_be_bytes();
        let (nbma_len, proto_len) = (address_len(self.nbma), address_len(self.proto));
        let fixed: [u8; FIXED] = [
            self.code,
            self.prefix_len,
            0,
            0,
            mtu0,
            mtu1,
            hold0,
            hold1,
            nbma_len,
            0,
            proto_len,
            self.preference,
        ];
        out.extend_from_slice(&fixed);
        if let Some(nbma) = self.nbma {
            write_address(out, nbma);
        }
        if let Some(proto) = self.proto {
            write_address(out, proto);
        }
    }

    /// Bytes on the wire.
    pub fn wire_len(&self) -> usize {
        FIXED + usize::from(address_len(self.nbma)) + usize::from(address_len(self.proto))
    }

    /// Whether it is about one host: 0, 0xff and anything from the host length on mean that.
    pub fn is_for_host(&self, address: IpAddr) -> bool {
        self.prefix_len == 0 || self.prefix_len >= host_len(address)
    }

    /// What `address` is the prefix of by this entry: 0, 0xff and ≥ the host length are normalised to the host.
    pub fn prefix_of(&self, address: IpAddr) -> IpNet {
        let host = host_len(address);
        let length = match self.prefix_len {
            0 => host,
            length => length.min(host),
        };
        IpNet::new(address, length).map_or_else(|_| IpNet::from(address), |net| net.trunc())
    }
}

/// Checks a whole list once and gives an iterator that cannot fail.
pub fn cies(bytes: &[u8]) -> Result<Cies<'_>, DecodeError> {
    count(bytes)?;
    Ok(Cies { rest: bytes })
}

/// Checks a whole list; how many entries it has.
pub(crate) fn count(bytes: &[u8]) -> Result<u32, DecodeError> {
    let mut rest = bytes;
    let mut entries = 0;
    while !rest.is_empty() {
        rest = Cie::read(rest)?.1;
        entries += 1;
    }
    Ok(entries)
}

/// The entries of a list that was checked.
#[derive(Clone, Copy, Debug)]
pub struct Cies<'a> {
    rest: &'a [u8],
}

impl<'a> Cies<'a> {
    /// Over a list that [`cies`] has passed.
    pub(crate) fn checked(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// The list as bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.rest
    }
}

impl Iterator for Cies<'_> {
    type Item = Cie;

    fn next(&mut self) -> Option<Cie> {
        let (cie, rest) = Cie::read(self.rest).ok()?;
        self.rest = rest;
        Some(cie)
    }
}

/// Outcome codes (RFC 2332 §5.2.0.1); 11 of FRR and OpenNHRP reads as 12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CieCode {
    /// 0: done.
    Success,
    /// 4: administratively prohibited.
    AdministrativelyProhibited,
    /// 5: insufficient resources.
    InsufficientResources,
    /// 12 (legacy 11): no such binding.
    NoBinding,
    /// 13: a binding exists but is not unique.
    NotUnique,
    /// 14: the address is registered by another.
    AlreadyRegistered,
    /// Any other number.
    Other(u8),
}

impl From<u8> for CieCode {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Success,
            4 => Self::AdministrativelyProhibited,
            5 => Self::InsufficientResources,
            11 | 12 => Self::NoBinding,
            13 => Self::NotUnique,
            14 => Self::AlreadyRegistered,
            other => Self::Other(other),
        }
    }
}

impl From<CieCode> for u8 {
    fn from(code: CieCode) -> Self {
        match code {
            CieCode::Success => 0,
            CieCode::AdministrativelyProhibited => 4,
            CieCode::InsufficientResources => 5,
            CieCode::NoBinding => 12,
            CieCode::NotUnique => 13,
            CieCode::AlreadyRegistered => 14,
            CieCode::Other(other) => other,
        }
    }
}

impl fmt::Display for CieCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("success"),
            Self::AdministrativelyProhibited => f.write_str("administratively prohibited (code 4)"),
            Self::InsufficientResources => f.write_str("insufficient resources (code 5)"),
            Self::NoBinding => f.write_str("no binding exists (code 12)"),
            Self::NotUnique => f.write_str("binding is not unique (code 13)"),
            Self::AlreadyRegistered => f.write_str("address is registered by another (code 14)"),
            Self::Other(code) => write!(f, "code {code}"),
        }
    }
}

/// Bits of a host address of this family.
pub(crate) fn host_len(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

pub(crate) fn address_len(address: Option<IpAddr>) -> u8 {
    match address {
        None => 0,
        Some(IpAddr::V4(_)) => 4,
        Some(IpAddr::V6(_)) => 16,
    }
}

pub(crate) fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

/// Reads an address of `length` bytes; 0 is "not given".
pub(crate) fn read_address(bytes: &[u8], length: u8) -> Result<(Option<IpAddr>, &[u8]), DecodeError> {
    match length {
        0 => Ok((None, bytes)),
        4 => {
            let (octets, rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError::Cie)?;
            Ok((Some(IpAddr::V4(Ipv4Addr::from(*octets))), rest))
        }
        16 => {
            let (octets, rest) = bytes.split_first_chunk::<16>().ok_or(DecodeError::Cie)?;
            Ok((Some(IpAddr::V6(Ipv6Addr::from(*octets))), rest))
        }
        other => Err(DecodeError::AddressLength(other)),
    }
}
