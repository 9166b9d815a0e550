//! Changes to the kernel, batched: up to 256 requests a datagram, of which the last is acknowledged. Refusals
//! come for each by itself, matched by sequence number; what was not refused when the acknowledgement comes is
//! done, since the kernel works through them in order. Two system calls for 256 entries instead of two for each
//! is what makes ten thousand neighbours a matter of milliseconds.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;

use crate::Error;
use crate::requests::DATAGRAM;
use crate::sys::Netlink;
use crate::wire::frame::{self, NLMSG_ERROR, Refusal, Request};

/// Most requests in one datagram. Their refusals (under 1 KiB of buffer each) must fit the receive buffer.
const BATCH: usize = 256;

/// The writing end.
#[derive(Debug)]
pub(crate) struct Writer {
    socket: Netlink,
    sequence: u32,
    out: Vec<u8>,
    buffer: Vec<u8>,
}

impl Writer {
    pub(crate) fn open() -> Result<Self, Error> {
        let what = "netlink writing socket";
        let socket = Netlink::open(NETLINK_ROUTE, &[]).map_err(|e| Error::io(what, "CAP_NET_ADMIN", e))?;
        let options = socket.options();
        options
            .set_ext_ack(true)
            .and_then(|()| options.set_cap_ack(true))
            .and_then(|()| socket.receive_buffer(1 << 20))
            .map_err(|e| Error::io(what, "CAP_NET_ADMIN", e))?;
        Ok(Self { socket, sequence: 0, out: Vec::new(), buffer: Vec::new() })
    }

    /// Port number that notifications about our changes carry.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Sends the requests in order; one verdict for each. A refused one does not stop the rest.
    pub(crate) async fn write(&mut self, requests: Vec<Request>) -> Vec<Result<(), Refusal>> {
        let mut verdicts = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            self.out.clear();
            let mut count = 0;
            while let Some(request) = requests.next() {
                self.sequence = self.sequence.wrapping_add(1);
                count += 1;
                let last = count == BATCH || requests.peek().is_none();
                request.write(self.sequence, last, &mut self.out);
                if last {
                    break;
                }
            }
            let mut batch = Verdicts::new(first, count);
            if let Err(error) = self.exchange(&mut batch).await {
                batch.fail_open(&error);
            }
            verdicts.extend(batch.into_results());
        }
        verdicts
    }

    /// One change.
    pub(crate) async fn write_one(&mut self, request: Request) -> Result<(), Refusal> {
        let no_verdict = Refusal { errno: libc::EIO, message: None };
        self.write(vec![request]).await.pop().unwrap_or(Err(no_verdict))
    }

    async fn exchange(&mut self, batch: &mut Verdicts) -> io::Result<()> {
        self.socket.send(&self.out).await?;
        while !batch.complete() {
            self.socket.receive(&mut self.buffer, DATAGRAM).await?;
            for message in frame::messages(&self.buffer).filter(|m| m.kind == NLMSG_ERROR) {
                batch.settle(message.sequence, message.verdict());
            }
        }
        Ok(())
    }
}

/// The verdicts of one batch by sequence number, which may wrap.
#[derive(Debug)]
struct Verdicts {
    first: u32,
    /// What was refused so far, by position.
    refused: Vec<(usize, Refusal)>,
    count: usize,
    /// Up to where it is known what became of them.
    settled: usize,
}

impl Verdicts {
    fn new(first: u32, count: usize) -> Self {
        Self { first, refused: Vec::new(), count, settled: 0 }
    }

    /// Notes a verdict, which says of those before it that they were not refused, unless they were. One of an
    /// earlier batch, or a second one, changes nothing.
    fn settle(&mut self, sequence: u32, verdict: Result<(), Refusal>) {
        let at = sequence.wrapping_sub(self.first) as usize;
        if at < self.settled || at >= self.count {
            return;
        }
        self.settled = at + 1;
        if let Err(refusal) = verdict {
            self.refused.push((at, refusal));
        }
    }

    fn complete(&self) -> bool {
        self.settled == self.count
    }

    /// The socket failed: those without a verdict have that error.
    fn fail_open(&mut self, error: &io::Error) {
        let refusal =
            Refusal { errno: error.raw_os_error().unwrap_or(libc::EIO), message: Some(error.to_string()) };
        self.refused.extend((self.settled..self.count).map(|at| (at, refusal.clone())));
        self.settled = self.count;
    }

    fn into_results(self) -> impl Iterator<Item = Result<(), Refusal>> {
        let mut refused = self.refused.into_iter().peekable();
        (0..self.count).map(move |at| match refused.next_if(|(refused, _)| *refused == at) {
            Some((_, refusal)) => Err(refusal),
            None => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: i32) -> Result<(), Refusal> {
        Err(Refusal { errno, message: None })
    }

    #[test]
    fn verdicts_go_to_their_requests_across_the_wrap() {
        let mut batch = Verdicts::new(u32::MAX, 4);
        batch.settle(u32::MAX - 1, refused(99));
        batch.settle(u32::MAX, refused(7));
        batch.settle(u32::MAX, refused(98));
        batch.settle(1, refused(3));
        batch.settle(3, Ok(()));
        assert!(!batch.complete());
        batch.settle(2, Ok(()));
        assert!(batch.complete());
        batch.settle(2, refused(97));
        assert_eq!(batch.into_results().collect::<Vec<_>>(), [refused(7), Ok(()), refused(3), Ok(())]);
    }

    #[test]
    fn the_last_one_may_be_the_refused_one() {
        let mut batch = Verdicts::new(5, 2);
        batch.settle(6, refused(17));
        assert!(batch.complete());
        assert_eq!(batch.into_results().collect::<Vec<_>>(), [Ok(()), refused(17)]);
    }

    #[test]
    fn a_failed_socket_fails_only_what_has_no_verdict() {
        let mut batch = Verdicts::new(10, 3);
        batch.settle(11, refused(1));
        batch.fail_open(&io::Error::from_raw_os_error(libc::ENOBUFS));
        let results: Vec<_> = batch.into_results().map(|r| r.map_err(|e| e.errno)).collect();
        assert_eq!(results, [Ok(()), Err(1), Err(libc::ENOBUFS)]);
    }
}
