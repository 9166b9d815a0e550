//! strongSwan's control socket (VICI): how the IKE daemon is told what to do, and says what happens.
//!
//! | file | what for |
//! |---|---|
//! | `message` | messages: sections, values, lists; both ways, no sockets |
//! | `packet` | what surrounds a message: requests, answers, events; frames with their length |
//! | `session` | one connection, sans-IO: one question at a time, events in between, silence |
//! | `client` | the task that owns the socket: comes back when the daemon does, and asks for its events again |
//!
//! VICI has no numbers that would tell which answer belongs to which question: whoever is out of step has to start
//! anew. So a question that is not answered in time ends the connection, and so does everything that is not
//! understood. Values may be secrets: nothing here writes them into a log, `Debug` shows their lengths.

#![forbid(unsafe_code)]

mod client;
mod message;
mod packet;
mod session;

pub use client::{Client, Notice, Options, start};
pub use message::{Message, TooLong, Value};
pub use packet::{Frames, LARGEST, Packet, Wrong};
pub use session::{Ended, Failure, Reply, Session, Told};
