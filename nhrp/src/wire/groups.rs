//! Extension 0x3802: the groups that a client belongs to. Not compulsory; in Registration Requests.
//!
//! ```text
//! form(1) = 1 | count(1) | count × { kind(1) | length(1) | name (UTF-8) }
//! ```
//! Of each kind the first counts. Kinds that we do not know are passed over, and what follows the groups belongs to
//! later versions.

const FORM: u8 = 1;
/// Longest name in bytes.
pub const MAX_GROUP: usize = 63;
/// Most groups in one list.
pub const MAX_GROUPS: usize = 16;

/// What a group is for.
pub mod group_kind {
    /// Bandwidth class (`qosGroup`).
    pub const QOS: u8 = 1;
}

/// Content of the extension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// Kind (see [`group_kind`]) and name, 1 to [`MAX_GROUP`] bytes; at most [`MAX_GROUPS`].
    pub entries: Vec<(u8, String)>,
}

impl Groups {
    /// Reads the content; `None` if it is of another form, does not fit, or has a name that cannot be shown.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let ([form, count], mut rest) = value.split_first_chunk::<2>()?;
        if *form != FORM || usize::from(*count) > MAX_GROUPS {
            return None;
        }
        let mut entries = Vec::with_capacity(usize::from(*count));
        for _ in 0..*count {
            let ([kind, length], after) = rest.split_first_chunk::<2>()?;
            let (name, after) = after.split_at_checked(usize::from(*length))?;
            let name = str::from_utf8(name).ok().filter(|name| is_usable(name))?;
            entries.push((*kind, name.to_owned()));
            rest = after;
        }
        Some(Self { entries })
    }

    /// Content of the extension. What does not fit is left out.
    pub fn encode(&self) -> Vec<u8> {
        let fitting: Vec<_> =
            self.entries.iter().filter(|(_, name)| is_usable(name)).take(MAX_GROUPS).collect();
        let mut value = vec![FORM, fitting.len() as u8];
        for (kind, name) in fitting {
            value.extend_from_slice(&[*kind, name.len() as u8]);
            value.extend_from_slice(name.as_bytes());
        }
        value
    }

    /// The first group of a kind.
    pub fn of(&self, kind: u8) -> Option<&str> {
        self.entries.iter().find(|(of, _)| *of == kind).map(|(_, name)| name.as_str())
    }
}

fn is_usable(name: &str) -> bool {
    (1..=MAX_GROUP).contains(&name.len()) && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_as_documented() {
        let groups = Groups { entries: vec![(group_kind::QOS, "gold".into()), (9, "x".into())] };
        let mut value = groups.encode();
        assert_eq!(value, b"\x01\x02\x01\x04gold\x09\x01x");
        for length in 0..value.len() {
            assert_eq!(Groups::decode(&value[..length]), None, "{length}");
        }
        value.extend_from_slice(b"later");
        assert_eq!(Groups::decode(&value), Some(groups.clone()));
        assert_eq!((groups.of(group_kind::QOS), groups.of(9), groups.of(2)), (Some("gold"), Some("x"), None));
        value[0] = 2;
        assert_eq!(Groups::decode(&value), None);
        assert_eq!(Groups::decode(&[1, 0]), Some(Groups::default()));
    }

    #[test]
    fn names_that_are_none() {
        let with = |name: &[u8]| {
            let mut value = vec![FORM, 1, group_kind::QOS, name.len() as u8];
            value.extend_from_slice(name);
            Groups::decode(&value)
        };
        assert!(with(b"x").is_some() && with(&[b'x'; MAX_GROUP]).is_some());
        for bad in [&b""[..], b"two\nlines", b"\xff\xfe", &[b'x'; MAX_GROUP + 1]] {
            assert_eq!(with(bad), None);
            let written = Groups { entries: vec![(1, String::from_utf8_lossy(bad).into_owned())] };
            // What cannot be read is not written either; a replacement character can.
            assert!(Groups::decode(&written.encode()).is_some());
        }
        let many = Groups { entries: vec![(1, "x".into()); MAX_GROUPS + 1] };
        assert_eq!(Groups::decode(&many.encode()).map(|it| it.entries.len()), Some(MAX_GROUPS));
        let mut forged = vec![FORM, MAX_GROUPS as u8 + 1];
        forged.extend([1, 1, b'x'].repeat(MAX_GROUPS + 1));
        assert_eq!(Groups::decode(&forged), None);
    }

    proptest! {
        #[test]
        fn there_and_back(entries in prop::collection::vec((any::<u8>(), "[ -~é]{1,31}"), 0..=MAX_GROUPS)) {
            let groups = Groups { entries };
            prop_assert_eq!(Groups::decode(&groups.encode()), Some(groups));
        }

        #[test]
        fn whatever_the_bytes_are(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(groups) = Groups::decode(&bytes) {
                prop_assert_eq!(Groups::decode(&groups.encode()), Some(groups));
            }
        }
    }
}
