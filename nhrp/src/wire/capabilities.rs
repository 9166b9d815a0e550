//! Extension 0x3803: which version of this project the sender runs, and what it can do. Not compulsory; in
//! Registration Requests and Replies.
//!
//! ```text
//! form(1) = 1 | major(1) | minor(1) | patch(1) | capabilities(4) | what later versions add
//! ```
//! Peers of different versions go by the bits, never by the version, which is for people. Bits and bytes that we do not
//! know are kept as they are shown, and mean nothing to us.

use std::fmt;

use serde::{Deserialize, Serialize};

const FORM: u8 = 1;

/// Bits of [`Software::capabilities`].
pub mod capability {
    /// Prefix lists (0x3800).
    pub const PREFIXES: u32 = 1;
    /// Lists of hubs (0x3801).
    pub const HUB_LIST: u32 = 1 << 1;
    /// Groups (0x3802).
    pub const GROUPS: u32 = 1 << 2;
    /// Assignment of overlay addresses (0x3804).
    pub const ADDRESSES: u32 = 1 << 3;

    /// All that have a name.
    pub const NAMES: [(u32, &str); 4] =
        [(PREFIXES, "prefixes"), (HUB_LIST, "hub-list"), (GROUPS, "groups"), (ADDRESSES, "addresses")];
}

/// What a peer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Software {
    /// Major, minor and patch version.
    pub version: [u8; 3],
    /// See [`capability`].
    pub capabilities: u32,
}

impl Software {
    /// This version.
    pub const OURS: Self = Self {
        version: [
            number(env!("CARGO_PKG_VERSION_MAJOR")),
            number(env!("CARGO_PKG_VERSION_MINOR")),
            number(env!("CARGO_PKG_VERSION_PATCH")),
        ],
        capabilities: capability::PREFIXES
            | capability::HUB_LIST
            | capability::GROUPS
            | capability::ADDRESSES,
    };

    /// Reads the content of the extension; `None` if it is of another form or too short. More than we know is no
    /// reason not to read the rest.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let [form, major, minor, patch, bits @ ..] = value.first_chunk::<8>()?;
        (*form == FORM)
            .then_some(Self { version: [*major, *minor, *patch], capabilities: u32::from_be_bytes(*bits) })
    }

    /// Content of the extension.
    pub fn encode(self) -> [u8; 8] {
        let [major, minor, patch] = self.version;
        let [b0, b1, b2, b3] = self.capabilities.to_be_bytes();
        [FORM, major, minor, patch, b0, b1, b2, b3]
    }

    /// Whether it can do all of this.
    pub fn can(self, capabilities: u32) -> bool {
        self.capabilities & capabilities == capabilities
    }

    /// What it can do, by name; bits without a name as one number.
    pub fn names(self) -> Vec<String> {
        let mut rest = self.capabilities;
        let mut names = Vec::new();
        for (bit, name) in capability::NAMES {
            if self.can(bit) {
                names.push(name.to_owned());
                rest &= !bit;
            }
        }
        if rest != 0 {
            names.push(format!("{rest:#x}"));
        }
        names
    }
}

impl fmt::Display for Software {
    /// The version alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.version;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// A decimal number of the package's version; what does not fit is 255.
const fn number(text: &str) -> u8 {
    match u8::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => u8::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_newer_and_foreign() {
        assert_eq!(Software::decode(&Software::OURS.encode()), Some(Software::OURS));
        assert_eq!(Software::OURS.to_string(), env!("CARGO_PKG_VERSION"));
        // A newer one: more bits, more bytes.
        let newer = Software::decode(&[1, 7, 8, 9, 0x80, 0, 0, 9, 0xde, 0xad]).unwrap();
        assert_eq!(newer.to_string(), "7.8.9");
        assert_eq!(newer.names(), ["prefixes", "addresses", "0x80000000"]);
        assert!(newer.can(capability::ADDRESSES) && !newer.can(capability::HUB_LIST));
        // Another form, and one cut short.
        assert_eq!(Software::decode(&[2, 7, 8, 9, 0, 0, 0, 1]), None);
        assert_eq!(Software::decode(&[1, 7, 8, 9, 0, 0, 0]), None);
    }
}
