//! One connection, sans-IO: bytes and time come in, bytes and news go out.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::message::{Message, TooLong};
use crate::packet::{Frames, Packet, Wrong};

/// Most that one streamed answer may hold, in messages: a hub lists each of its SAs.
const ITEMS: usize = 262_144;

/// What a command was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The answer itself.
    pub message: Message,
    /// What came before it, of a command that streams.
    pub items: Vec<Message>,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody listens, or the connection ended before the answer: whether it was carried out is unknown.
    #[error("the IKE daemon is away: {0}")]
    Away(String),
    /// The daemon does not know this command.
    #[error("the IKE daemon does not know the command {0}")]
    Unknown(String),
    /// The daemon knows no such events.
    #[error("the IKE daemon knows no event {0}")]
    UnknownEvent(String),
    /// It says no, in its own words.
    #[error("the IKE daemon refuses: {0}")]
    Refused(String),
    /// It was not sent: there is no room for it in a packet.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// What the session tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// A command with this number was answered.
    Answer(u64, Result<Reply, Failure>),
    /// Something happened.
    Event(String, Message),
}

/// Why a session ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// What came is no packet.
    #[error("{0}")]
    Wrong(#[from] Wrong),
    /// A packet that nothing was asked for.
    #[error("an answer that nobody asked for")]
    OutOfStep,
    /// No answer for so long.
    #[error("no answer for {} ms", .0.as_millis())]
    Silent(Duration),
    /// A streamed answer without end.
    #[error("an answer without end")]
    Endless,
}

/// What is to be said before a job is done, one after the other.
#[derive(Debug)]
enum Step {
    Register(String),
    Request(String, Message),
    Unregister(String),
}

#[derive(Debug)]
struct Job {
    number: u64,
    /// Events of this name belong to the answer.
    stream: Option<String>,
    steps: VecDeque<Step>,
    reply: Reply,
    failure: Option<Failure>,
}

/// One connection. One job at a time is on its way, others wait.
pub struct Session {
    frames: Frames,
    patience: Duration,
    waiting: VecDeque<Job>,
    current: Option<Job>,
    heard: Option<Instant>,
    out: VecDeque<Vec<u8>>,
    told: VecDeque<Told>,
}

impl fmt::Debug for Session {
    // What is on its way out may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("frames", &self.frames)
            .field("current", &self.current)
            .field("waiting", &self.waiting)
            .field("out", &self.out.len())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A new one; whoever does not answer for `patience` is given up.
    pub fn new(patience: Duration) -> Self {
        Self {
            frames: Frames::default(),
            patience,
            waiting: VecDeque::new(),
            current: None,
            heard: None,
            out: VecDeque::new(),
            told: VecDeque::new(),
        }
    }

    /// Asks for events of this name; answered with an empty [`Reply`].
    pub fn register(&mut self, now: Instant, number: u64, event: &str) {
        self.submit(now, number, None, [Step::Register(event.to_owned())]);
    }

    /// Sends a command. `stream`: events of this name are part of its answer.
    pub fn call(&mut self, now: Instant, number: u64, command: &str, message: Message, stream: Option<&str>) {
        let request = Step::Request(command.to_owned(), message);
        match stream {
            None => self.submit(now, number, None, [request]),
            Some(event) => {
                let steps = [Step::Register(event.to_owned()), request, Step::Unregister(event.to_owned())];
                self.submit(now, number, Some(event.to_owned()), steps);
            }
        }
    }

    fn submit(
        &mut self,
        now: Instant,
        number: u64,
        stream: Option<String>,
        steps: impl IntoIterator<Item = Step>,
    ) {
        let steps = steps.into_iter().collect();
        self.waiting.push_back(Job { number, stream, steps, reply: Reply::default(), failure: None });
        // Else it is begun with when what is on its way has been answered.
        if self.current.is_none() {
            self.advance(now);
        }
    }

    /// How many jobs are not answered yet.
    pub fn pending(&self) -> usize {
        self.waiting.len() + usize::from(self.current.is_some())
    }

    /// Sends the next step of the job, or begins with the next job.
    fn advance(&mut self, now: Instant) {
        loop {
            if self.current.is_none() {
                self.current = self.waiting.pop_front();
            }
            let Some(job) = &mut self.current else {
                self.heard = None;
                return;
            };
            match job.steps.front().map(packet_of) {
                Some(packet) => match packet.frame() {
                    Ok(frame) => {
                        self.out.push_back(frame);
                        self.heard = Some(now);
                        return;
                    }
                    Err(too_long) => {
                        job.failure = Some(too_long.into());
                        job.steps.retain(|step| matches!(step, Step::Unregister(_)));
                    }
                },
                None => self.finish(),
            }
        }
    }

    fn finish(&mut self) {
        let Some(job) = self.current.take() else { return };
        let success = job.reply.message.text("success").unwrap_or("yes");
        let result = match job.failure {
            Some(failure) => Err(failure),
            None if success != "yes" => {
                let why = job.reply.message.text("errmsg").unwrap_or("it does not say why");
                Err(Failure::Refused(why.to_owned()))
            }
            None => Ok(job.reply),
        };
        self.told.push_back(Told::Answer(job.number, result));
    }

    /// Bytes came.
    ///
    /// # Errors
    /// Then the session is over.
    pub fn receive(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Ended> {
        self.frames.push(bytes);
        while let Some(packet) = self.frames.next_packet()? {
            self.packet(now, packet)?;
        }
        Ok(())
    }

    fn packet(&mut self, now: Instant, packet: Packet) -> Result<(), Ended> {
        if let Packet::Event(name, message) = packet {
            match &mut self.current {
                Some(job) if job.stream.as_ref() == Some(&name) => {
                    if job.reply.items.len() >= ITEMS {
                        return Err(Ended::Endless);
                    }
                    job.reply.items.push(message);
                    self.heard = Some(now);
                }
                _ => self.told.push_back(Told::Event(name, message)),
            }
            return Ok(());
        }
        let job = self.current.as_mut().ok_or(Ended::OutOfStep)?;
        let step = job.steps.pop_front().ok_or(Ended::OutOfStep)?;
        match (step, packet) {
            (Step::Request(..), Packet::Response(message)) => job.reply.message = message,
            (Step::Request(command, _), Packet::UnknownCommand) => {
                job.failure = Some(Failure::Unknown(command));
            }
            (Step::Register(_) | Step::Unregister(_), Packet::Confirm) => {}
            (Step::Register(event), Packet::UnknownEvent) => {
                job.failure = Some(Failure::UnknownEvent(event));
                job.steps.clear();
            }
            _ => return Err(Ended::OutOfStep),
        }
        self.advance(now);
        Ok(())
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.heard.map(|heard| heard + self.patience)
    }

    /// Time has passed.
    ///
    /// # Errors
    /// When the daemon is silent: the session is over, since a late answer would be taken for another.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Ended> {
        match self.poll_timeout() {
            Some(at) if at <= now => Err(Ended::Silent(self.patience)),
            _ => Ok(()),
        }
    }

    /// The next bytes to be sent.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// The next news.
    pub fn poll_told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// Numbers of all jobs that get no answer any more.
    pub fn abandon(self) -> impl Iterator<Item = u64> {
        self.current.into_iter().chain(self.waiting).map(|job| job.number)
    }
}

fn packet_of(step: &Step) -> Packet {
    match step {
        Step::Register(event) => Packet::Register(event.clone()),
        Step::Request(command, message) => Packet::Request(command.clone(), message.clone()),
        Step::Unregister(event) => Packet::Unregister(event.clone()),
    }
}
