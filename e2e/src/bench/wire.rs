//! Many packets in one system call, for the load: the only file of this crate with `unsafe` blocks.

#![allow(unsafe_code, reason = "no safe crate of ours has sendmmsg and recvmmsg")]

use std::io;
use std::mem;
use std::os::fd::AsRawFd as _;
use std::ptr;

use socket2::Socket;

/// Room for one packet that comes in; what is longer is cut.
pub(super) const PACKET_BYTES: usize = 512;

/// Sends packets on a connected socket; how many went out.
pub(super) fn send(socket: &Socket, packets: &[Vec<u8>]) -> io::Result<usize> {
    let part =
        |packet: &Vec<u8>| libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
    let mut parts: Vec<_> = packets.iter().map(part).collect();
    let mut headers = headers(&mut parts);
    // SAFETY: each header points to an iovec of its own, which points to a packet; all of them outlive the call, and
    // the kernel only reads the packets.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as libc::c_uint, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Waits for a packet and takes all that are there; their lengths.
pub(super) fn receive(socket: &Socket, packets: &mut [[u8; PACKET_BYTES]]) -> io::Result<Vec<usize>> {
    let part = |packet: &mut [u8; PACKET_BYTES]| libc::iovec {
        iov_base: packet.as_mut_ptr().cast(),
        iov_len: PACKET_BYTES,
    };
    let mut parts: Vec<_> = packets.iter_mut().map(part).collect();
    let mut headers = headers(&mut parts);
    // SAFETY: each header points to an iovec of its own, which points to a buffer of its own, borrowed for the call.
    let got = unsafe {
        let count = headers.len() as libc::c_uint;
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_WAITFORONE as _,
            ptr::null_mut(),
        )
    };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    Ok(headers.iter().take(got).map(|header| (header.msg_len as usize).min(PACKET_BYTES)).collect())
}

/// One header a part; valid as long as `parts` stays where it is.
fn headers(parts: &mut [libc::iovec]) -> Vec<libc::mmsghdr> {
    let header = |part: &mut libc::iovec| {
        // SAFETY: mmsghdr is plain old data (null pointers, zero lengths) for which all zeros is a valid value.
        let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
        header.msg_hdr.msg_iov = ptr::from_mut(part);
        header.msg_hdr.msg_iovlen = 1;
        header
    };
    parts.iter_mut().map(header).collect()
}
