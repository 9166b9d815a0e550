//! Our own IPv4 ping, run as `dmvpn-lab ping` in a host: on time, and cheap.
//!
//! The guest's kernel ticks 100 times a second. There iputils' ping makes 20 ms of an interval of 10, and below
//! 10 ms it keeps the (only) CPU busy. This one sleeps on the high-resolution timer. It prints what ping prints,
//! so that one parser reads both.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const HEADER: usize = 8;
const PAYLOAD: usize = 56;
/// How long a reply may take after the last request.
const LINGER: Duration = Duration::from_secs(2);

/// Sends `count` echo requests, one each `interval`, and prints every reply. With `gate` it says `ready` and
/// waits for a line from that pipe before the first. It sends no more once the file `stop` is there.
///
/// # Errors
/// Without the right to open a raw socket, or more requests than there are sequence numbers.
pub fn run(
    target: Ipv4Addr,
    count: u16,
    interval: Duration,
    gate: Option<&Path>,
    stop: Option<&Path>,
) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).context("raw ICMP socket")?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.set_recv_buffer_size(1 << 20)?;
    println!("PING {target} ({target}) {PAYLOAD}({}) bytes of data.", PAYLOAD + HEADER + 20);
    if let Some(gate) = gate {
        println!("ready");
        let pipe = std::fs::File::open(gate).with_context(|| format!("open {}", gate.display()))?;
        // One byte at a time: the next line is for the next who waits.
        BufReader::with_capacity(1, pipe).read_line(&mut String::new())?;
    }
    let identifier = u16::try_from(std::process::id() & 0xffff)?;
    let start = Instant::now();
    // Zero until all are sent.
    let sent_all = AtomicU16::new(0);
    let received = thread::scope(|scope| -> Result<u32> {
        let receiver = scope.spawn(|| receive(&socket, identifier, count, start, &sent_all));
        let mut sent = 0;
        for sequence in 1..=count {
            if stop.is_some_and(Path::exists) {
                break;
            }
            sent = sequence;
            let due = start + interval * u32::from(sequence - 1);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let request = request(identifier, sequence, start.elapsed());
            if let Err(error) = socket.send_to(&request, &SocketAddrV4::new(target, 0).into()) {
                println!("ping: sendmsg: icmp_seq={sequence} {error}");
            }
        }
        sent_all.store(sent, Ordering::Release);
        receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?
    })?;
    println!("\n--- {target} ping statistics ---");
    let spent = start.elapsed().as_millis();
    let sent = sent_all.load(Ordering::Acquire);
    println!("{sent} packets transmitted, {received} received, time {spent}ms");
    Ok(std::io::stdout().flush()?)
}

/// Prints replies until all came, or [`LINGER`] after the last request.
fn receive(
    socket: &Socket,
    identifier: u16,
    count: u16,
    start: Instant,
    sent_all: &AtomicU16,
) -> Result<u32> {
    let mut seen = vec![false; usize::from(count) + 1];
    let mut received = 0;
    let mut last_sent = None;
    let mut buffer = [0; 2048];
    while received < u32::from(count) {
        let sent = sent_all.load(Ordering::Acquire);
        let mut over = || last_sent.get_or_insert_with(Instant::now).elapsed() > LINGER;
        if sent > 0 && (received >= u32::from(sent) || over()) {
            break;
        }
        let length = match (&mut &*socket).read(&mut buffer) {
            Ok(length) => length,
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error).context("receive"),
        };
        let now = start.elapsed();
        let Some(message) = buffer.get(..length).and_then(|packet| read(packet, identifier)) else {
            continue;
        };
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // One call a line: the sender prints too.
        let stamp = format!("[{}.{:06}]", stamp.as_secs(), stamp.subsec_micros());
        let Message { kind, source, ttl, sequence, sent } = message;
        match kind {
            Kind::Reply => {
                let again = seen.get_mut(usize::from(sequence)).is_none_or(|s| std::mem::replace(s, true));
                received += u32::from(!again);
                let time = now.saturating_sub(sent).as_secs_f64() * 1000.0;
                let suffix = if again { " (DUP!)" } else { "" };
                println!(
                    "{stamp} 64 bytes from {source}: icmp_seq={sequence} ttl={ttl} time={time:.3} ms{suffix}"
                );
            }
            Kind::Error(kind, code) => {
                println!("{stamp} From {source} icmp_seq={sequence} ICMP error, type {kind} code {code}");
            }
        }
    }
    Ok(received)
}

#[derive(Debug, PartialEq)]
enum Kind {
    Reply,
    Error(u8, u8),
}

#[derive(Debug, PartialEq)]
struct Message {
    kind: Kind,
    source: Ipv4Addr,
    ttl: u8,
    sequence: u16,
    /// When the request left, since the start; zero for errors.
    sent: Duration,
}

/// A reply to one of our requests, or an error about one; the packet starts with its IP header.
fn read(packet: &[u8], identifier: u16) -> Option<Message> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let source = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
    let ttl = *packet.get(8)?;
    let icmp = packet.get(header..)?;
    let (kind, code) = (*icmp.first()?, *icmp.get(1)?);
    match kind {
        ECHO_REPLY if word(icmp, 4)? == identifier => {
            let sent = u64::from_be_bytes(icmp.get(HEADER..HEADER + 8)?.try_into().ok()?);
            let sent = Duration::from_nanos(sent);
            Some(Message { kind: Kind::Reply, source, ttl, sequence: word(icmp, 6)?, sent })
        }
        UNREACHABLE | TIME_EXCEEDED => {
            // What follows is the packet that caused it.
            let cause = icmp.get(HEADER..)?;
            let request = cause.get(usize::from(cause.first()? & 0x0f) * 4..)?;
            let ours = *request.first()? == ECHO_REQUEST && word(request, 4)? == identifier;
            let sequence = word(request, 6)?;
            ours.then_some(Message {
                kind: Kind::Error(kind, code),
                source,
                ttl,
                sequence,
                sent: Duration::ZERO,
            })
        }
        _ => None,
    }
}

fn request(identifier: u16, sequence: u16, now: Duration) -> Vec<u8> {
    let mut packet = vec![ECHO_REQUEST, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).to_be_bytes());
    packet.resize(HEADER + PAYLOAD, 0x5a);
    let sum = checksum(&packet);
    packet.splice(2..4, sum.to_be_bytes());
    packet
}

/// RFC 1071; the length is even here.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).filter_map(|pair| word(pair, 0)).map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The number of requests that one run can count.
///
/// # Errors
/// When `count` is more than the sequence numbers of ICMP.
pub fn checked_count(count: u32) -> Result<u16> {
    ensure!(count > 0 && count <= u32::from(u16::MAX), "{count} pings: 1 to 65535 are possible");
    Ok(u16::try_from(count)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_and_errors_about_our_requests_are_read_and_others_are_not() {
        let mut packet = vec![0x45, 0, 0, 84, 0, 0, 0, 0, 61, 1, 0, 0, 10, 30, 0, 10, 10, 20, 0, 10];
        let mut error = packet.clone();
        let request = request(77, 5, Duration::from_nanos(9));
        assert_eq!(checksum(&request), 0, "a packet with its checksum sums up to zero");
        packet.extend(&request);
        assert_eq!(read(&packet, 77), None, "a request is no reply");
        packet[20] = ECHO_REPLY;
        let reply = read(&packet, 77).unwrap();
        assert_eq!((reply.kind, reply.ttl, reply.sequence), (Kind::Reply, 61, 5));
        assert_eq!(reply.sent, Duration::from_nanos(9));
        assert_eq!(read(&packet, 78), None, "someone else's");

        error.extend([UNREACHABLE, 1, 0, 0, 0, 0, 0, 0]);
        error.extend(&packet[..20]);
        error.extend(&request[..8]);
        assert_eq!(read(&error, 77).unwrap().kind, Kind::Error(UNREACHABLE, 1));
        for end in 0..error.len() {
            assert_eq!(read(&error[..end], 77), None, "cut at {end}");
        }
    }
}
