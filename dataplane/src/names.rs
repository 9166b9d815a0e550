//! Which names we hand to the kernel and to nft: nothing that could end a quoted string or a line.

use crate::Error;

/// Longest interface name in bytes (`IFNAMSIZ` without the final NUL).
pub(crate) const MAX_INTERFACE: usize = 15;
/// Longest alias in bytes (`IFALIASZ` without the final NUL).
const MAX_ALIAS: usize = 255;

/// Checks an interface name: 1–15 bytes of `[A-Za-z0-9_.-]`, not `.` or `..`.
pub(crate) fn check_interface(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > MAX_INTERFACE {
        return Err(Error::invalid("interface name", name, "must be 1 to 15 bytes long"));
    }
    if name == "." || name == ".." || !name.chars().all(is_plain) {
        return Err(Error::invalid("interface name", name, "only letters, digits, '_', '.' and '-'"));
    }
    Ok(())
}

/// Checks an alias: at most 255 bytes of `[A-Za-z0-9_./-]`.
pub(crate) fn check_alias(alias: &str) -> Result<(), Error> {
    if alias.is_empty() || alias.len() > MAX_ALIAS {
        return Err(Error::invalid("interface alias", alias, "must be 1 to 255 bytes long"));
    }
    if !alias.chars().all(|c| is_plain(c) || c == '/') {
        return Err(Error::invalid("interface alias", alias, "only letters, digits, '_', '.', '/' and '-'"));
    }
    Ok(())
}

/// A character that is safe in every place where we write a name.
pub(crate) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names() {
        for good in ["a", "gre1", "dmvpn-branches", "exactly15bytes_"] {
            assert!(check_interface(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "sixteen-bytes-xx", "a b", "a/b", "a\"b", "a*", "ä", "a\n"] {
            assert!(check_interface(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn aliases() {
        assert!(check_alias("dmvpn.io/branches").is_ok());
        for bad in ["", "a\"", "a b", &"x".repeat(256)] {
            assert!(check_alias(bad).is_err(), "{bad}");
        }
    }
}
