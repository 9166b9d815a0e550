//! Authentication as it is deployed: a clear-text password. The keyed digest of RFC 2332 §5.3.4 is recognised, so
//! that people are told what the peer does; nobody deployed it, and nothing that bears it is accepted.

/// Reserved (0) and SPI 1: "clear text", as Cisco, FRR and OpenNHRP send it.
pub const CLEAR_TEXT: [u8; 4] = [0, 0, 0, 1];

/// Content of an authentication extension, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// SPI 1: the password.
    ClearText(&'a [u8]),
    /// Any other security parameter index: source address and digest, whose lengths only the two ends know.
    Keyed {
        /// Security parameter index.
        spi: u16,
        /// Source NBMA address and authentication data.
        data: &'a [u8],
    },
}

impl<'a> Authentication<'a> {
    /// Takes the content apart; `None` if it is shorter than reserved word and SPI. The reserved word is ignored.
    pub fn read(value: &'a [u8]) -> Option<Self> {
        let ([_, _, spi0, spi1], data) = value.split_first_chunk::<4>()?;
        Some(match u16::from_be_bytes([*spi0, *spi1]) {
            1 => Self::ClearText(data),
            spi => Self::Keyed { spi, data },
        })
    }
}

/// Content of the authentication extension for a password.
pub fn authentication_value(password: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(CLEAR_TEXT.len() + password.len());
    value.extend_from_slice(&CLEAR_TEXT);
    value.extend_from_slice(password);
    value
}

/// Compares in a time that depends on the length of `given` only.
pub fn same_secret(given: &[u8], expected: &[u8]) -> bool {
    let mut different = u8::from(given.len() != expected.len());
    for (index, byte) in given.iter().enumerate() {
        different |= byte ^ expected.get(index).copied().unwrap_or(!byte);
    }
    std::hint::black_box(different) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_whole_values() {
        assert!(same_secret(b"cisco123", b"cisco123"));
        assert!(!same_secret(b"cisco12", b"cisco123"));
        assert!(!same_secret(b"cisco1234", b"cisco123"));
        assert!(!same_secret(b"", b"x"));
        assert!(same_secret(b"", b""));
    }

    #[test]
    fn deployed_and_rfc_form() {
        assert_eq!(
            Authentication::read(&authentication_value(b"cisco123")),
            Some(Authentication::ClearText(b"cisco123"))
        );
        // RFC 2332: SPI, source address, digest.
        let value = [&[0, 0, 1, 0][..], &[192, 0, 2, 1], &[0xaa; 16]].concat();
        assert_eq!(Authentication::read(&value), Some(Authentication::Keyed { spi: 256, data: &value[4..] }));
        assert_eq!(Authentication::read(&[0, 0, 1]), None);
    }
}
