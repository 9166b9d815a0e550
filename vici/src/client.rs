//! The task that owns the socket.
//!
//! ```text
//!   connect ──► register for events ──► Notice::Connected ──► answers, events …
//!      ▲                                                          │ end, silence, garbage
//!      └────────── a pause that doubles ◄── Notice::Lost ◄────────┘
//! ```
//! Whoever asks gets an answer or learns that there is none; a question that was given up by its asker is carried out
//! all the same. Who does not listen to notices loses events, and is told so ([`Notice::Missed`]); nobody waits for him.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use crate::message::Message;
use crate::session::{Failure, Reply, Session, Told};

/// Questions that wait for the socket; who asks more waits himself.
const JOBS: usize = 64;
/// Questions that a session is given at a time.
const AT_ONCE: usize = 4;
/// Notices that wait for their reader.
const NOTICES: usize = 1024;

/// How patient the client is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A daemon that says nothing for so long, though it was asked, is given up.
    pub patience: Duration,
    /// The first pause before the socket is tried again…
    pub first_pause: Duration,
    /// … and the longest.
    pub longest_pause: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(10),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(2),
        }
    }
}

/// What the client tells by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The daemon is there, and tells its events from now on: what was before is to be asked for.
    Connected,
    /// It is gone.
    Lost(String),
    /// Something happened there.
    Event(String, Message),
    /// Events were lost, since nobody read them: what is, is to be asked for.
    Missed,
}

#[derive(Debug)]
struct Job {
    command: &'static str,
    stream: Option<&'static str>,
    message: Message,
    answer: oneshot::Sender<Result<Reply, Failure>>,
}

/// Asks the daemon. Clones ask the same; with the last one the task ends.
#[derive(Clone, Debug)]
pub struct Client {
    jobs: mpsc::Sender<Job>,
}

impl Client {
    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// When it was not carried out, or nobody knows.
    pub async fn call(&self, command: &'static str, message: Message) -> Result<Reply, Failure> {
        self.ask(command, None, message).await
    }

    /// Sends a command that streams: events named `stream` are the [`Reply::items`] of its answer.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn stream(
        &self,
        command: &'static str,
        stream: &'static str,
        message: Message,
    ) -> Result<Reply, Failure> {
        self.ask(command, Some(stream), message).await
    }

    async fn ask(
        &self,
        command: &'static str,
        stream: Option<&'static str>,
        message: Message,
    ) -> Result<Reply, Failure> {
        let gone = || Failure::Away("the client has ended".to_owned());
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job { command, stream, message, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// Starts the task for the daemon that listens at `path`, or will. It asks for `events` each time it connects; those
/// that the daemon does not know are left out.
pub fn start(path: &Path, events: &[&str], options: Options) -> (Client, mpsc::Receiver<Notice>) {
    let (jobs, todo) = mpsc::channel(JOBS);
    let (notices, told) = mpsc::channel(NOTICES);
    let actor = Actor {
        path: path.to_owned(),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
        options,
        jobs: todo,
        notices: Notices { to: notices, late: VecDeque::new() },
    };
    tokio::spawn(actor.run());
    (Client { jobs }, told)
}

/// Notices on their way. What must not get lost waits here when there is no room.
#[derive(Debug)]
struct Notices {
    to: mpsc::Sender<Notice>,
    late: VecDeque<Notice>,
}

impl Notices {
    fn tell(&mut self, notice: Notice) {
        self.flush();
        if !self.late.is_empty() {
            return self.put_off(notice);
        }
        if let Err(TrySendError::Full(notice)) = self.to.try_send(notice) {
            self.put_off(notice);
        }
    }

    /// Of what was missed only the last state of the connection is worth telling.
    fn put_off(&mut self, notice: Notice) {
        match notice {
            Notice::Event(..) | Notice::Missed => {
                if !self.late.contains(&Notice::Missed) {
                    self.late.push_back(Notice::Missed);
                }
            }
            Notice::Connected | Notice::Lost(_) => {
                self.late.clear();
                self.late.extend([notice, Notice::Missed]);
            }
        }
    }

    fn flush(&mut self) {
        while let Some(notice) = self.late.pop_front() {
            if let Err(TrySendError::Full(notice)) = self.to.try_send(notice) {
                self.late.push_front(notice);
                return;
            }
        }
    }
}

struct Actor {
    path: PathBuf,
    events: Vec<String>,
    options: Options,
    jobs: mpsc::Receiver<Job>,
    notices: Notices,
}

/// Why a connection is over.
enum Over {
    /// The daemon is gone, or cannot be understood.
    Lost(String),
    /// Nobody asks any more.
    Unwanted,
}

impl Actor {
    async fn run(mut self) {
        let mut pause = self.options.first_pause;
        let mut told = None;
        loop {
            let why = match self.connect().await {
                Ok(stream) => {
                    let began = Instant::now();
                    match self.connection(stream).await {
                        Over::Unwanted => return,
                        Over::Lost(why) => {
                            // One that worked for a while is expected back soon.
                            if began.elapsed() > self.options.longest_pause {
                                pause = self.options.first_pause;
                            }
                            told = None;
                            why
                        }
                    }
                }
                Err(why) => why,
            };
            debug!(path = %self.path.display(), why, "no VICI");
            if told.as_ref() != Some(&why) {
                self.notices.tell(Notice::Lost(why.clone()));
                told = Some(why.clone());
            }
            if self.refuse_for(pause, &why).await {
                return;
            }
            pause = (pause * 2).min(self.options.longest_pause);
        }
    }

    async fn connect(&self) -> Result<UnixStream, String> {
        let path = self.path.display();
        match tokio::time::timeout(self.options.patience, UnixStream::connect(&self.path)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(format!("{path}: {error}")),
            Err(_) => Err(format!("{path}: nobody accepts the connection")),
        }
    }

    /// Answers everybody that there is no daemon, until `pause` is over; true if nobody asks any more.
    async fn refuse_for(&mut self, pause: Duration, why: &str) -> bool {
        let until = Instant::now() + pause;
        loop {
            self.notices.flush();
            tokio::select! {
                () = tokio::time::sleep_until(until) => return false,
                job = self.jobs.recv() => match job {
                    Some(job) => drop(job.answer.send(Err(Failure::Away(why.to_owned())))),
                    None => return true,
                },
            }
        }
    }

    async fn connection(&mut self, stream: UnixStream) -> Over {
        let mut session = Session::new(self.options.patience);
        let mut asked = HashMap::new();
        let over = self.talk(stream, &mut session, &mut asked).await;
        if let Over::Lost(why) = &over {
            for (_, answer) in asked.drain() {
                let _ = answer.send(Err(Failure::Away(why.clone())));
            }
        }
        over
    }

    async fn talk(
        &mut self,
        mut stream: UnixStream,
        session: &mut Session,
        asked: &mut HashMap<u64, oneshot::Sender<Result<Reply, Failure>>>,
    ) -> Over {
        let (mut from, mut to) = stream.split();
        let mut number = 0;
        for event in &self.events {
            number += 1;
            session.register(Instant::now().into_std(), number, event);
        }
        let registrations = number;
        let mut connected = registrations == 0;
        if connected {
            self.notices.tell(Notice::Connected);
        }
        let mut read = vec![0; 16 * 1024];
        let mut out: Vec<u8> = Vec::new();
        let mut sent = 0;
        loop {
            if sent == out.len() {
                out = session.poll_transmit().unwrap_or_default();
                sent = 0;
            }
            self.notices.flush();
            let rest = out.get(sent..).unwrap_or_default();
            let deadline = session.poll_timeout().map(Instant::from_std);
            // Neither a read nor a write that is given up here has moved a byte.
            tokio::select! {
                got = from.read(&mut read) => {
                    let bytes = match got {
                        Ok(0) => return Over::Lost("it closed the connection".to_owned()),
                        Ok(count) => read.get(..count).unwrap_or_default(),
                        Err(error) => return Over::Lost(error.to_string()),
                    };
                    if let Err(ended) = session.receive(Instant::now().into_std(), bytes) {
                        return Over::Lost(ended.to_string());
                    }
                }
                wrote = to.write(rest), if !rest.is_empty() => match wrote {
                    Ok(count) => sent += count,
                    Err(error) => return Over::Lost(said(&error)),
                },
                job = self.jobs.recv(), if connected && session.pending() < AT_ONCE => {
                    let Some(Job { command, stream, message, answer }) = job else { return Over::Unwanted };
                    number += 1;
                    asked.insert(number, answer);
                    session.call(Instant::now().into_std(), number, command, message, stream);
                }
                () = sleep_until(deadline) => {
                    if let Err(ended) = session.handle_timeout(Instant::now().into_std()) {
                        return Over::Lost(ended.to_string());
                    }
                }
            }
            while let Some(told) = session.poll_told() {
                match told {
                    Told::Event(name, message) => self.notices.tell(Notice::Event(name, message)),
                    Told::Answer(number, result) if number <= registrations => {
                        if let Err(failure) = result {
                            debug!(%failure, "an event is not told");
                        }
                        if number == registrations {
                            connected = true;
                            self.notices.tell(Notice::Connected);
                        }
                    }
                    Told::Answer(number, result) => {
                        if let Some(answer) = asked.remove(&number) {
                            // Who gave up does not hear it.
                            let _ = answer.send(result);
                        }
                    }
                }
            }
        }
    }
}

fn said(error: &io::Error) -> String {
    format!("nothing can be sent: {error}")
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
