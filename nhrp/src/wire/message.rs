//! A packet with all its parts owned: for tools, tests and traces.

use super::builder::Builder;
use super::cie::Cie;
use super::error::DecodeError;
use super::header::Header;
use super::packet::Packet;

/// An extension that owns its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedExtension {
    /// A receiver that does not know it must not go on.
    pub compulsory: bool,
    /// Type, see [`super::ext`].
    pub kind: u16,
    /// Content.
    pub value: Vec<u8>,
}

/// A whole packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Fixed fields.
    pub header: Header,
    /// Entries (types 1–6).
    pub cies: Vec<Cie>,
    /// Payload (types 7 and 8).
    pub payload: Vec<u8>,
    /// Extensions without End; `None`: no extension part at all.
    pub extensions: Option<Vec<OwnedExtension>>,
}

impl Message {
    /// Reads a packet.
    ///
    /// # Errors
    /// As [`Packet::parse`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let packet = Packet::parse(bytes)?;
        let owned = |extension: super::Extension<'_>| OwnedExtension {
            compulsory: extension.compulsory,
            kind: extension.kind,
            value: extension.value.to_vec(),
        };
        Ok(Self {
            header: *packet.header(),
            cies: packet.cies().collect(),
            payload: packet.payload().to_vec(),
            extensions: packet.has_extensions().then(|| packet.extensions().map(owned).collect()),
        })
    }

    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut builder = Builder::new(&self.header);
        if self.header.packet_type.has_cies() {
            for cie in &self.cies {
                builder = builder.cie(cie);
            }
        } else {
            builder = builder.payload(&self.payload);
        }
        if let Some(extensions) = &self.extensions {
            builder = builder.with_extensions();
            for extension in extensions {
                builder = builder.extension(extension.compulsory, extension.kind, &extension.value);
            }
        }
        builder.finish()
    }
}
