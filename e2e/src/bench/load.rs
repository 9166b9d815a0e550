//! Plays thousands of spokes from one host, run as `dmvpn-lab load` there: each registers from an address of its own,
//! a window of requests is outstanding, and every answer is read.
//!
//! Requests leave through a raw socket with any source address, answers are taken from the wire by a packet socket,
//! both in bursts, since the load shares its CPU with the hub. The host itself must not see the answers (it would call
//! them unreachable): [`super::hubs`] gives the hub a neighbour entry with a MAC address that is nobody's.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nhrp::PacketType;
use nhrp::wire::{Builder, Cie, Header, MAX_HOPS, Packet, ext, flags};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::wire::{self, PACKET_BYTES};
use crate::lab::inject::in_gre;

const GRE: u8 = 47;
const ETH_P_IP: u16 = 0x0800;
const IP_HEADER: usize = 20;
/// Most packets that one system call carries.
const BURST: usize = 64;
/// Without an answer for this long, what is outstanding is sent again.
const PATIENCE: Duration = Duration::from_millis(500);
/// First underlay address of a spoke (RFC 2544's range for benchmarks).
const FIRST_NBMA: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// First overlay address of a spoke.
const FIRST_OVERLAY: Ipv4Addr = Ipv4Addr::new(10, 255, 16, 0);

/// What to play.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Load {
    /// Underlay address of the hub
    pub hub: Ipv4Addr,
    /// Overlay address of the hub
    pub overlay: Ipv4Addr,
    /// GRE key
    #[arg(long)]
    pub key: u32,
    /// How many spokes
    #[arg(long)]
    pub spokes: u32,
    /// How often each of them registers
    #[arg(long, default_value_t = 1)]
    pub passes: u32,
    /// Most requests that wait for an answer
    #[arg(long, default_value_t = 256)]
    pub window: u32,
    /// Seconds until it gives up
    #[arg(long, default_value_t = 120)]
    pub deadline: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Requests that were answered with success.
    pub accepted: u32,
    /// Requests that were refused.
    pub refused: u32,
    /// Requests that had to be sent again.
    pub repeated: u32,
    /// From the first request to the last answer.
    pub seconds: f64,
}

impl Outcome {
    /// Accepted requests a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        f64::from(self.accepted) / self.seconds.max(f64::EPSILON)
    }
}

/// Underlay address of a spoke.
fn nbma(spoke: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_NBMA.to_bits() + spoke)
}

/// Overlay address of a spoke.
fn overlay(spoke: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_OVERLAY.to_bits() + spoke)
}

/// What `dmvpn-lab load` does: plays, and prints the [`Outcome`] as JSON.
///
/// # Errors
/// Without the right to open raw sockets, or when not all were answered before the deadline.
pub fn run(load: Load) -> Result<()> {
    let outcome = Player::new(load)?.play()?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// What came in.
enum Heard {
    /// Answers that were waited for.
    New,
    /// Only what was heard before, or no answers.
    NothingNew,
    /// Nothing for as long as one waits.
    Silence,
}

struct Player {
    load: Load,
    out: Socket,
    wire: Socket,
    /// Requests are numbered; request `n` is of spoke `n` modulo the number of spokes.
    answered: Vec<bool>,
    outcome: Outcome,
}

impl Player {
    fn new(load: Load) -> Result<Self> {
        ensure!(load.spokes > 0 && load.spokes <= 50_000, "1 to 50000 spokes are possible");
        let out = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(GRE))));
        let out = out.context("raw socket")?;
        out.set_header_included_v4(true)?;
        // It hears the answers too, as far as they are for this host: none is.
        out.set_recv_buffer_size(1)?;
        out.connect(&SocketAddrV4::new(load.hub, 0).into())?;
        let wire =
            Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(ETH_P_IP.to_be()))));
        let wire = wire.context("packet socket")?;
        wire.set_recv_buffer_size(4 << 20)?;
        wire.set_read_timeout(Some(PATIENCE))?;
        wire.attach_filter(&gre_from(load.hub))?;
        let requests = usize::try_from(load.spokes * load.passes)?;
        Ok(Self { load, out, wire, answered: vec![false; requests], outcome: Outcome::default() })
    }

    fn play(mut self) -> Result<Outcome> {
        let total = self.load.spokes * self.load.passes;
        let window = self.load.window.min(self.load.spokes);
        let start = Instant::now();
        let mut last = start;
        // All below `oldest` are answered, all below `next` are sent.
        let (mut oldest, mut next) = (0, 0);
        while oldest < total {
            ensure!(
                start.elapsed() < Duration::from_secs(self.load.deadline),
                "{:?} after {} s",
                self.outcome,
                self.load.deadline
            );
            let until = total.min(oldest + window);
            // A burst is worth waiting for, unless there is nothing to wait for.
            if until > next && (until - next >= BURST as u32 / 2 || until == total) {
                let until = until.min(next + BURST as u32);
                self.send(&(next..until).collect::<Vec<_>>())?;
                next = until;
                continue;
            }
            match self.receive()? {
                Heard::New => last = Instant::now(),
                Heard::NothingNew => {}
                Heard::Silence => {
                    let lost: Vec<u32> = (oldest..next).filter(|n| !self.is_answered(*n)).collect();
                    self.outcome.repeated += u32::try_from(lost.len())?;
                    lost.chunks(BURST).try_for_each(|burst| self.send(burst))?;
                }
            }
            while oldest < next && self.is_answered(oldest) {
                oldest += 1;
            }
        }
        self.outcome.seconds = (last - start).as_secs_f64();
        Ok(self.outcome)
    }

    fn is_answered(&self, request: u32) -> bool {
        self.answered.get(request as usize).copied().unwrap_or(true)
    }

    fn send(&self, requests: &[u32]) -> Result<()> {
        let packets: Vec<Vec<u8>> = requests.iter().map(|n| self.packet(*n)).collect::<Result<_>>()?;
        let mut rest = packets.as_slice();
        while !rest.is_empty() {
            let sent = wire::send(&self.out, rest).context("send")?;
            ensure!(sent > 0, "nothing was sent");
            rest = rest.get(sent..).unwrap_or(&[]);
        }
        Ok(())
    }

    /// Takes what has come, waiting for the first.
    fn receive(&mut self) -> Result<Heard> {
        let mut packets = vec![[0; PACKET_BYTES]; BURST];
        let lengths = match wire::receive(&self.wire, &mut packets) {
            Ok(lengths) => lengths,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                return Ok(Heard::Silence);
            }
            Err(error) => return Err(error).context("receive"),
        };
        let mut any = false;
        for (packet, length) in packets.iter().zip(lengths) {
            any |= packet.get(..length).and_then(|packet| self.answer(packet)).is_some();
        }
        Ok(if any { Heard::New } else { Heard::NothingNew })
    }

    /// Notes an answer; `None` if the packet is none.
    fn answer(&mut self, packet: &[u8]) -> Option<()> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        // GRE with a key is eight bytes long.
        let answer = Packet::parse(packet.get(header + 8..)?).ok()?;
        let number = answer.header().request_id;
        let spoke = number.checked_rem(self.load.spokes)?;
        let right = answer.header().packet_type == PacketType::RegistrationReply
            && answer.header().src_proto == IpAddr::V4(overlay(spoke));
        let answered = self.answered.get_mut(number as usize).filter(|answered| right && !**answered)?;
        *answered = true;
        match answer.cies().next()?.code {
            0 => self.outcome.accepted += 1,
            _ => self.outcome.refused += 1,
        }
        Some(())
    }

    /// Request number `number` from the IP header on: what an FRR or Cisco spoke sends.
    fn packet(&self, number: u32) -> Result<Vec<u8>> {
        let spoke = number % self.load.spokes;
        let source = nbma(spoke);
        let header = Header {
            packet_type: PacketType::RegistrationRequest,
            hop_count: MAX_HOPS,
            flags: flags::NAT,
            request_id: number,
            src_nbma: source.into(),
            src_proto: overlay(spoke).into(),
            dst_proto: self.load.overlay.into(),
        };
        let request = Builder::new(&header)
            .cie(&Cie { prefix_len: 0xff, mtu: 1400, holding_time: 600, ..Cie::default() })
            .extension(true, ext::RESPONDER, &[])
            .extension(true, ext::FORWARD_RECORD, &[])
            .extension(true, ext::REVERSE_RECORD, &[])
            .extension(false, ext::NAT, &[])
            .finish();
        let payload = in_gre(Some(self.load.key), &request);
        let length = u16::try_from(IP_HEADER + payload.len())?;
        // The kernel fills in identification and checksum.
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, GRE, 0, 0]);
        packet.extend(source.octets());
        packet.extend(self.load.hub.octets());
        packet.extend(payload);
        Ok(packet)
    }
}

/// A filter that lets GRE packets of one sender pass (classic BPF; offsets from the IP header on).
fn gre_from(source: Ipv4Addr) -> [SockFilter; 6] {
    // BPF_LD|BPF_B|BPF_ABS, BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K.
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 9),
        SockFilter::new(IF_EQUAL, 0, 3, u32::from(GRE)),
        SockFilter::new(LOAD_WORD, 0, 0, 12),
        SockFilter::new(IF_EQUAL, 0, 1, source.to_bits()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
