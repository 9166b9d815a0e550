//! Authentication as it is deployed: a clear-text password (the HMAC of RFC 2332 §5.3.4 was never deployed).

/// Reserved (0) and SPI 1: "clear text", as Cisco, FRR and OpenNHRP send it.
pub const CLEAR_TEXT: [u8; 4] = [0, 0, 0, 1];

/// Content of the authentication extension for a password.
pub fn authentication_value(password: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(CLEAR_TEXT.len() + password.len());
    value.extend_from_slice(&CLEAR_TEXT);
    value.extend_from_slice(password);
    value
}

/// Whether the content of an authentication extension is this password, in a time that depends on its length only.
pub fn is_password(value: &[u8], password: &[u8]) -> bool {
    match value.split_first_chunk() {
        Some((form, text)) => same_secret(text, password) & (*form == CLEAR_TEXT),
        None => false,
    }
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
        assert!(is_password(&authentication_value(b"cisco123"), b"cisco123"));
        assert!(!is_password(&authentication_value(b"cisco123"), b"cisco124"));
        assert!(!is_password(b"\0\0\0\x02cisco123", b"cisco123"));
        assert!(!is_password(b"\0\0", b""));
    }
}
