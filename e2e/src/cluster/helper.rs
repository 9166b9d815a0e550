//! The helper outside the guest: it runs `kubectl` and `helm` there, because in the guest they take seconds.
//!
//! One request a connection, over the control link: a length of four bytes, then JSON, both ways. A request to a
//! control plane that still boots waits for it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::control_plane::{ControlPlane, Plan};
use super::door::{self, Reply};
use crate::lab::lock;
use crate::wait;

/// Where it listens: the outer end of the control link.
pub(super) const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(172, 30, 0, 1), 7117);
/// Longer than any wait that a test asks kubectl for.
const PATIENCE: Duration = Duration::from_secs(600);
/// Longer than any log that kubectl prints.
const LARGEST: u32 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) cluster: String,
    pub(super) what: What,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum What {
    /// A program in the control plane's network.
    Run {
        program: String,
        arguments: Vec<String>,
        input: String,
    },
    StopApiServer,
    StartApiServer,
}

/// Asks the helper, from inside the guest.
pub(super) fn ask(request: &Request) -> Result<Reply> {
    let context = || format!("the helper outside, for {} of {}", request.what, request.cluster);
    // The helper listens before the guest boots; the link may need a moment.
    let mut stream = wait::until(Duration::from_secs(10), "the control link", || {
        TcpStream::connect_timeout(&ADDRESS.into(), Duration::from_secs(2)).context("connect")
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    send(&mut stream, request).with_context(context)?;
    let reply: Result<Reply, String> = receive(&mut stream).with_context(context)?;
    reply.map_err(anyhow::Error::msg).with_context(context)
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run { program, arguments, .. } => write!(f, "`{program} {}`", arguments.join(" ")),
            Self::StopApiServer => f.write_str("the end of the API server"),
            Self::StartApiServer => f.write_str("the start of the API server"),
        }
    }
}

/// A control plane that boots, or has booted, or has failed to.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) plan: Plan,
    booted: Mutex<Option<Result<Arc<ControlPlane>, String>>>,
    changed: Condvar,
}

impl Slot {
    /// Starts to boot in a thread of its own; says how it went on standard output. It boots on all CPUs, while the
    /// guest waits for it, and then keeps to `cpus`.
    pub(super) fn boot(plan: Plan, cpus: &str) -> Arc<Self> {
        let slot = Arc::new(Self { plan, booted: Mutex::new(None), changed: Condvar::new() });
        let own = Arc::clone(&slot);
        let cpus = cpus.to_owned();
        std::thread::spawn(move || {
            let booted = ControlPlane::boot(own.plan.clone()).and_then(|it| it.confine(&cpus).map(|()| it));
            match &booted {
                Ok(it) => println!("control plane {}: {}", own.plan.name, it.times()),
                Err(error) => println!("control plane {}: {error:#}", own.plan.name),
            }
            *lock(&own.booted) = Some(booted.map(Arc::new).map_err(|error| format!("{error:#}")));
            own.changed.notify_all();
        });
        slot
    }

    fn wait(&self) -> Result<Arc<ControlPlane>> {
        let start = Instant::now();
        let mut booted = lock(&self.booted);
        loop {
            match &*booted {
                Some(Ok(it)) => return Ok(Arc::clone(it)),
                Some(Err(error)) => bail!("the control plane did not boot: {error}"),
                None => ensure!(start.elapsed() < PATIENCE, "the control plane still boots"),
            }
            let waited = self.changed.wait_timeout(booted, Duration::from_secs(1));
            booted = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

/// Answers requests in threads of their own for as long as this process lives.
pub(super) fn serve(slots: Vec<Arc<Slot>>) -> Result<()> {
    let listener = TcpListener::bind(ADDRESS).with_context(|| format!("listen on {ADDRESS}"))?;
    let slots: Arc<[_]> = slots.into();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let slots = Arc::clone(&slots);
            std::thread::spawn(move || {
                // The one who asked sees a broken connection; nobody else is to be told.
                let _ = answer(stream, &slots);
            });
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, slots: &[Arc<Slot>]) -> Result<()> {
    let request: Request = receive(&mut stream)?;
    let reply = perform(&request, slots).map_err(|error| format!("{error:#}"));
    send(&mut stream, &reply)
}

fn perform(request: &Request, slots: &[Arc<Slot>]) -> Result<Reply> {
    let slot = slots.iter().find(|s| s.plan.name == request.cluster);
    let it = slot.with_context(|| format!("there is no cluster {:?}", request.cluster))?.wait()?;
    match &request.what {
        What::Run { program, arguments, input } => {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            door::run(it.plan(), program, &arguments, input)
        }
        What::StopApiServer => it.stop_api_server().map(|()| Reply::default()),
        What::StartApiServer => it.start_api_server().map(|()| Reply::default()),
    }
}

fn send(to: &mut impl Write, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value)?;
    let length = u32::try_from(bytes.len()).ok().filter(|l| *l <= LARGEST);
    let length = length.with_context(|| format!("{} bytes are too many", bytes.len()))?;
    to.write_all(&[&length.to_be_bytes()[..], &bytes].concat())?;
    Ok(to.flush()?)
}

fn receive<T: DeserializeOwned>(from: &mut impl Read) -> Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length).map_err(|error| anyhow!("no answer: {error}"))?;
    let length = u32::from_be_bytes(length);
    ensure!(length <= LARGEST, "{length} bytes are too many");
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        let request = Request {
            cluster: "east".into(),
            what: What::Run {
                program: "kubectl".into(), arguments: vec!["get".into()], input: "ä\n".into()
            },
        };
        let mut wire = Vec::new();
        send(&mut wire, &request).unwrap();
        let got: Request = receive(&mut wire.as_slice()).unwrap();
        assert_eq!(format!("{got:?}"), format!("{request:?}"));
        assert!(receive::<Request>(&mut &wire[..wire.len() - 1]).is_err(), "cut short");
        assert!(receive::<Request>(&mut &[0xff; 8][..]).is_err(), "a length that nobody sends");
    }

    #[test]
    fn an_error_comes_back_as_text() {
        let mut wire = Vec::new();
        let request = Request { cluster: "north".into(), what: What::StopApiServer };
        send(&mut wire, &perform(&request, &[]).map_err(|e| e.to_string())).unwrap();
        let reply: Result<Reply, String> = receive(&mut wire.as_slice()).unwrap();
        assert!(reply.unwrap_err().contains("no cluster \"north\""));
    }
}
