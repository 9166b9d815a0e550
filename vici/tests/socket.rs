//! The client against a socket that we play ourselves, well and badly.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::Receiver;
use vici::{Client, Failure, Frames, Message, Notice, Options, Packet};

const QUICK: Options = Options {
    patience: Duration::from_millis(200),
    first_pause: Duration::from_millis(5),
    longest_pause: Duration::from_millis(20),
};

/// A socket path of its own for each test.
fn path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let dir = std::env::temp_dir().join(format!("vici-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(format!("{}.sock", NEXT.fetch_add(1, Ordering::Relaxed)))
}

struct Daemon {
    stream: UnixStream,
    frames: Frames,
}

impl Daemon {
    async fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        Self { stream, frames: Frames::default() }
    }

    /// Accepts and confirms the two events of [`start`].
    async fn greet(listener: &UnixListener) -> Self {
        let mut daemon = Self::accept(listener).await;
        for event in ["ike-updown", "child-updown"] {
            assert_eq!(daemon.next().await, Packet::Register(event.into()));
            daemon.send(&Packet::Confirm).await;
        }
        daemon
    }

    async fn next(&mut self) -> Packet {
        let mut bytes = [0; 4096];
        loop {
            if let Some(packet) = self.frames.next_packet().unwrap() {
                return packet;
            }
            let count = self.stream.read(&mut bytes).await.unwrap();
            assert!(count > 0, "the client hung up");
            self.frames.push(&bytes[..count]);
        }
    }

    async fn send(&mut self, packet: &Packet) {
        self.stream.write_all(&packet.frame().unwrap()).await.unwrap();
    }

    /// Answers each request with its own arguments, until the client is gone.
    async fn echo(mut self) {
        let mut bytes = [0; 4096];
        loop {
            while let Some(packet) = self.frames.next_packet().unwrap() {
                let Packet::Request(_, message) = packet else { panic!("{packet:?}") };
                self.send(&Packet::Response(message)).await;
            }
            match self.stream.read(&mut bytes).await {
                Ok(count) if count > 0 => self.frames.push(&bytes[..count]),
                _ => return,
            }
        }
    }
}

fn start() -> (UnixListener, PathBuf, Client, Receiver<Notice>) {
    let path = path();
    let listener = UnixListener::bind(&path).unwrap();
    let (client, notices) = vici::start(&path, &["ike-updown", "child-updown"], QUICK);
    (listener, path, client, notices)
}

async fn until_connected(notices: &mut Receiver<Notice>) {
    while notices.recv().await.expect("the client lives") != Notice::Connected {}
}

fn updown(n: u32) -> Packet {
    Packet::Event("ike-updown".into(), Message::new().with("n", n.to_string()))
}

#[tokio::test]
async fn answers_streams_and_events_do_not_get_mixed_up() {
    let (listener, _, client, mut notices) = start();
    let daemon = tokio::spawn(async move {
        let mut daemon = Daemon::greet(&listener).await;
        assert_eq!(daemon.next().await, Packet::Register("list-sa".into()));
        daemon.send(&updown(1)).await;
        daemon.send(&Packet::Confirm).await;
        assert_eq!(daemon.next().await, Packet::Request("list-sas".into(), Message::new()));
        for n in ["1", "2"] {
            daemon.send(&Packet::Event("list-sa".into(), Message::new().with("n", n))).await;
            daemon.send(&updown(2)).await;
        }
        daemon.send(&Packet::Response(Message::new())).await;
        assert_eq!(daemon.next().await, Packet::Unregister("list-sa".into()));
        daemon.send(&Packet::Confirm).await;
        assert!(matches!(daemon.next().await, Packet::Request(..)));
        let no = Message::new().with("success", "no").with("errmsg", "no such connection");
        daemon.send(&Packet::Response(no)).await;
        assert!(matches!(daemon.next().await, Packet::Request(..)));
        daemon.send(&Packet::UnknownCommand).await;
        daemon
    });
    let reply = client.stream("list-sas", "list-sa", Message::new()).await.unwrap();
    assert_eq!(reply.items.iter().map(|item| item.text("n").unwrap()).collect::<Vec<_>>(), ["1", "2"]);
    let refused = client.call("unload-conn", Message::new()).await;
    assert_eq!(refused, Err(Failure::Refused("no such connection".into())));
    assert_eq!(client.call("nonsense", Message::new()).await, Err(Failure::Unknown("nonsense".into())));
    assert_eq!(notices.recv().await, Some(Notice::Connected));
    for n in [1, 2, 2] {
        let Some(Notice::Event(_, message)) = notices.recv().await else { panic!("no event") };
        assert_eq!(message.text("n"), Some(n.to_string().as_str()));
    }
    drop(daemon.await.unwrap());
}

#[tokio::test]
async fn byte_by_byte_and_given_up_in_the_middle() {
    let (listener, _, client, mut notices) = start();
    tokio::spawn(async move {
        let mut daemon = Daemon::greet(&listener).await;
        for n in 0..20u32 {
            let Packet::Request(_, message) = daemon.next().await else { panic!("no request") };
            let answer = [updown(n).frame().unwrap(), Packet::Response(message).frame().unwrap()].concat();
            for byte in answer {
                daemon.stream.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
        daemon.echo().await;
    });
    until_connected(&mut notices).await;
    for n in 0..20u32 {
        let call = client.call("echo", Message::new().with("n", n.to_string()));
        if n % 2 == 0 {
            // Given up at once: the answer to it must not become that of the next.
            let _ = tokio::time::timeout(Duration::from_micros(50), call).await;
        } else {
            assert_eq!(call.await.unwrap().message.text("n"), Some(n.to_string().as_str()));
        }
    }
}

#[tokio::test]
async fn comes_back_and_asks_for_its_events_again() {
    let (listener, path, client, mut notices) = start();
    drop(Daemon::greet(&listener).await);
    until_connected(&mut notices).await;
    assert!(matches!(notices.recv().await, Some(Notice::Lost(_))));
    // Away for a while: everybody hears so at once.
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    let asked = Instant::now();
    loop {
        match client.call("version", Message::new()).await {
            Err(Failure::Away(_)) => break,
            other => assert!(asked.elapsed() < Duration::from_secs(5), "{other:?}"),
        }
    }
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { Daemon::greet(&listener).await.echo().await });
    until_connected(&mut notices).await;
    assert!(client.call("version", Message::new()).await.is_ok());
}

#[tokio::test]
async fn hostile_sockets_are_left() {
    let garbage: &[&[u8]] = &[
        b"HTTP/1.0 400 Bad Request\r\n\r\n",
        &[0xff; 64],
        &[0, 0, 0, 0],
        &[0, 0, 0, 1, 99],
        // A confirmation more than was asked for, and an answer to nothing.
        &[0, 0, 0, 1, 5, 0, 0, 0, 1, 5, 0, 0, 0, 1, 5],
        &[0, 0, 0, 1, 1],
        // An event that is cut off.
        &[0, 0, 0, 3, 7, 9, b'x'],
    ];
    let (listener, _, client, mut notices) = start();
    for bytes in garbage {
        let mut daemon = Daemon::accept(&listener).await;
        let _ = daemon.stream.write_all(bytes).await;
        let mut rest = Vec::new();
        // It hangs up by itself.
        let hung_up = daemon.stream.read_to_end(&mut rest);
        let _ = tokio::time::timeout(Duration::from_secs(5), hung_up).await.expect("the client hangs up");
    }
    tokio::spawn(async move { Daemon::greet(&listener).await.echo().await });
    until_connected(&mut notices).await;
    assert!(client.call("version", Message::new()).await.is_ok());
}

#[tokio::test]
async fn silence_is_no_answer() {
    let (listener, _, client, mut notices) = start();
    let silent = Daemon::accept(&listener).await;
    // It never confirmed an event: given up, and the next is tried.
    let mut daemon = tokio::time::timeout(Duration::from_secs(5), Daemon::greet(&listener)).await.unwrap();
    until_connected(&mut notices).await;
    drop(silent);
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.call("initiate", Message::new()).await }
    });
    assert!(matches!(daemon.next().await, Packet::Request(..)));
    // Events alone are no answer.
    let noise = tokio::spawn(async move {
        while daemon.stream.write_all(&updown(0).frame().unwrap()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let answer = tokio::time::timeout(Duration::from_secs(5), asking).await.unwrap().unwrap();
    let Err(Failure::Away(why)) = answer else { panic!("{answer:?}") };
    assert!(why.contains("no answer for 200 ms"), "{why}");
    noise.await.unwrap();
}

#[tokio::test]
async fn nobody_waits_for_a_slow_reader() {
    let (listener, _, client, mut notices) = start();
    tokio::spawn(async move {
        let mut daemon = Daemon::greet(&listener).await;
        for n in 0..3000 {
            daemon.send(&updown(n)).await;
        }
        daemon.echo().await;
    });
    // Nobody reads notices, and still there are answers.
    assert!(client.call("version", Message::new()).await.is_ok());
    let mut events = 0;
    loop {
        match notices.recv().await.unwrap() {
            Notice::Event(..) => events += 1,
            Notice::Missed => break,
            Notice::Connected | Notice::Lost(_) => {}
        }
        // What was put off is told with whatever comes next.
        if notices.is_empty() {
            assert!(client.call("version", Message::new()).await.is_ok());
        }
    }
    assert!((1..3000).contains(&events), "{events} events");
}

#[tokio::test]
async fn ends_with_the_last_who_asks() {
    let (listener, _, client, mut notices) = start();
    let mut daemon = Daemon::greet(&listener).await;
    until_connected(&mut notices).await;
    drop(client);
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), daemon.stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(notices.recv().await, None);
}
