//! Packets: what a frame of the socket holds. A frame is a length of four bytes and so many bytes.

use std::fmt;

use crate::message::{Message, Reader, TooLong, named};

/// The longest frame in bytes, as libvici has it.
pub const LARGEST: usize = 512 * 1024;

/// One packet, either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A command and its arguments.
    Request(String, Message),
    /// The answer to a command.
    Response(Message),
    /// There is no such command.
    UnknownCommand,
    /// Events of this name are wanted.
    Register(String),
    /// They no longer are.
    Unregister(String),
    /// Done, of the two before.
    Confirm,
    /// There are no such events.
    UnknownEvent,
    /// Something happened.
    Event(String, Message),
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It ends in the middle.
    #[error("a packet is cut off")]
    CutOff,
    /// Something in it has no meaning.
    #[error("a packet is not understood")]
    Garbage,
    /// More sections within sections than anybody needs.
    #[error("a packet has sections too deep")]
    TooDeep,
    /// A frame that says it is longer than [`LARGEST`], or empty.
    #[error("a frame of {0} bytes")]
    Length(usize),
}

impl Packet {
    /// The whole frame of it.
    ///
    /// # Errors
    /// When a name or value has no room, or the frame were longer than [`LARGEST`].
    pub fn frame(&self) -> Result<Vec<u8>, TooLong> {
        let mut out = vec![0; 4];
        match self {
            Self::Request(command, message) => {
                named(&mut out, 0, command)?;
                message.encode(&mut out)?;
            }
            Self::Response(message) => {
                out.push(1);
                message.encode(&mut out)?;
            }
            Self::UnknownCommand => out.push(2),
            Self::Register(event) => named(&mut out, 3, event)?,
            Self::Unregister(event) => named(&mut out, 4, event)?,
            Self::Confirm => out.push(5),
            Self::UnknownEvent => out.push(6),
            Self::Event(event, message) => {
                named(&mut out, 7, event)?;
                message.encode(&mut out)?;
            }
        }
        let length = out.len() - 4;
        if length > LARGEST {
            return Err(TooLong);
        }
        let length = u32::try_from(length).map_err(|_| TooLong)?.to_be_bytes();
        out.iter_mut().zip(length).for_each(|(byte, of_length)| *byte = of_length);
        Ok(out)
    }

    /// Reads what a frame holds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Wrong> {
        let mut reader = Reader(bytes);
        let packet = match reader.byte()? {
            0 => Self::Request(reader.name()?, rest(&mut reader)?),
            1 => Self::Response(rest(&mut reader)?),
            2 => Self::UnknownCommand,
            3 => Self::Register(reader.name()?),
            4 => Self::Unregister(reader.name()?),
            5 => Self::Confirm,
            6 => Self::UnknownEvent,
            7 => Self::Event(reader.name()?, rest(&mut reader)?),
            _ => return Err(Wrong::Garbage),
        };
        if reader.0.is_empty() { Ok(packet) } else { Err(Wrong::Garbage) }
    }
}

fn rest(reader: &mut Reader<'_>) -> Result<Message, Wrong> {
    Message::decode(std::mem::take(&mut reader.0))
}

/// Puts frames together from what a socket gives, in whatever pieces it comes.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// So many of them were taken.
    taken: usize,
}

impl fmt::Debug for Frames {
    // What is in it may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frames(<{} bytes>)", self.bytes.len() - self.taken)
    }
}

impl Frames {
    /// More from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        // What was taken goes when it is the larger part: each byte is moved once at most.
        if self.taken > self.bytes.len() / 2 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next packet; `None`: it is not there as a whole.
    ///
    /// # Errors
    /// After one nothing that follows can be trusted.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, Wrong> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length == 0 || length > LARGEST {
            return Err(Wrong::Length(length));
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let packet = Packet::decode(frame)?;
        self.taken += 4 + length;
        Ok(Some(packet))
    }

    /// Whether nothing of a frame is waiting for its end.
    pub fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }
}
