//! Messages: an ordered tree of named values, lists and sections.
//!
//! ```text
//! 1 len name … 2        section           4 len name (5 len16 item)* 6   list
//! 3 len name len16 value                  key and value
//! ```

use std::fmt;

use crate::packet::Wrong;

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// Sections within sections that are read: charon's own go four deep.
const DEPTH: usize = 16;

/// A message, or a section of one: named values in their order. A name may occur more than once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Message(Vec<(String, Value)>);

/// What a name stands for.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// Bytes, mostly text.
    Text(Vec<u8>),
    /// Several of those.
    List(Vec<Vec<u8>>),
    /// Named values.
    Section(Message),
}

/// A name has more than 255 bytes, or a value more than 65 535: VICI has no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name or value is too long for a message")]
pub struct TooLong;

impl Message {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.push(name, Value::Text(value.as_ref().to_vec()));
        self
    }

    /// With one more list.
    #[must_use]
    pub fn with_list<T: AsRef<[u8]>>(mut self, name: &str, items: impl IntoIterator<Item = T>) -> Self {
        self.push(name, Value::List(items.into_iter().map(|item| item.as_ref().to_vec()).collect()));
        self
    }

    /// With one more section.
    #[must_use]
    pub fn with_section(mut self, name: &str, section: Self) -> Self {
        self.push(name, Value::Section(section));
        self
    }

    /// Adds a value.
    pub fn push(&mut self, name: &str, value: Value) {
        self.0.push((name.to_owned(), value));
    }

    /// All values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// A value's bytes.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        match self.get(name)? {
            Value::Text(bytes) => Some(bytes),
            Value::List(_) | Value::Section(_) => None,
        }
    }

    /// A value as text; `None` also when it is none.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }

    /// A section.
    pub fn section(&self, name: &str) -> Option<&Self> {
        match self.get(name)? {
            Value::Section(section) => Some(section),
            Value::Text(_) | Value::List(_) => None,
        }
    }

    /// All sections.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name, section)),
            Value::Text(_) | Value::List(_) => None,
        })
    }

    /// The texts of a list; what is no text is left out, and a list that is not there is empty.
    pub fn list(&self, name: &str) -> Vec<&str> {
        match self.get(name) {
            Some(Value::List(items)) => {
                items.iter().filter_map(|item| std::str::from_utf8(item).ok()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Writes it behind `out`.
    ///
    /// # Errors
    /// When a name or value has no room; then `out` holds a part of it.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        for (name, value) in self.iter() {
            match value {
                Value::Text(bytes) => {
                    named(out, KEY_VALUE, name)?;
                    long(out, bytes)?;
                }
                Value::List(items) => {
                    named(out, LIST_START, name)?;
                    for item in items {
                        out.push(LIST_ITEM);
                        long(out, item)?;
                    }
                    out.push(LIST_END);
                }
                Value::Section(section) => {
                    named(out, SECTION_START, name)?;
                    section.encode(out)?;
                    out.push(SECTION_END);
                }
            }
        }
        Ok(())
    }

    /// Reads one that fills `bytes`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Wrong> {
        let mut reader = Reader(bytes);
        let message = section(&mut reader, 0)?;
        if reader.0.is_empty() { Ok(message) } else { Err(Wrong::Garbage) }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl fmt::Debug for Value {
    // A value may be a key: only its length is told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(bytes) => write!(f, "<{} bytes>", bytes.len()),
            Self::List(items) => write!(f, "<{} items>", items.len()),
            Self::Section(section) => section.fmt(f),
        }
    }
}

/// A type byte and a name with its length.
pub(crate) fn named(out: &mut Vec<u8>, kind: u8, name: &str) -> Result<(), TooLong> {
    let length = u8::try_from(name.len()).map_err(|_| TooLong)?;
    out.extend([kind, length]);
    out.extend(name.as_bytes());
    Ok(())
}

fn long(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), TooLong> {
    let length = u16::try_from(bytes.len()).map_err(|_| TooLong)?;
    out.extend(length.to_be_bytes());
    out.extend(bytes);
    Ok(())
}

/// What is still to be read.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn byte(&mut self) -> Result<u8, Wrong> {
        let (first, rest) = self.0.split_first().ok_or(Wrong::CutOff)?;
        self.0 = rest;
        Ok(*first)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Wrong> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Wrong::CutOff)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn name(&mut self) -> Result<String, Wrong> {
        let length = self.byte()?;
        let name = self.take(usize::from(length))?;
        std::str::from_utf8(name).map(str::to_owned).map_err(|_| Wrong::Garbage)
    }

    fn value(&mut self) -> Result<Vec<u8>, Wrong> {
        let length = u16::from_be_bytes([self.byte()?, self.byte()?]);
        Ok(self.take(usize::from(length))?.to_vec())
    }
}

/// Up to the end of this section, or of everything.
fn section(reader: &mut Reader<'_>, depth: usize) -> Result<Message, Wrong> {
    let mut message = Message::new();
    if depth > DEPTH {
        return Err(Wrong::TooDeep);
    }
    while !reader.0.is_empty() {
        match reader.byte()? {
            SECTION_START => {
                let name = reader.name()?;
                message.0.push((name, Value::Section(section(reader, depth + 1)?)));
            }
            SECTION_END if depth > 0 => return Ok(message),
            KEY_VALUE => {
                let name = reader.name()?;
                message.0.push((name, Value::Text(reader.value()?)));
            }
            LIST_START => {
                let name = reader.name()?;
                let mut items = Vec::new();
                loop {
                    match reader.byte()? {
                        LIST_ITEM => items.push(reader.value()?),
                        LIST_END => break,
                        _ => return Err(Wrong::Garbage),
                    }
                }
                message.0.push((name, Value::List(items)));
            }
            _ => return Err(Wrong::Garbage),
        }
    }
    if depth > 0 { Err(Wrong::CutOff) } else { Ok(message) }
}
