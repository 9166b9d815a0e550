//! Errors of this crate: each says what was tried and, where we know it, what is missing.

use std::io;
use std::net::IpAddr;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel said "operation not permitted".
    #[error("{what}: needs {needs}")]
    Capability {
        /// What was tried.
        what: String,
        /// The capability, e.g. `CAP_NET_ADMIN`.
        needs: &'static str,
    },
    /// Something that is not ours has the place: nothing was changed.
    #[error("{what}: taken by something that is not ours")]
    Foreign {
        /// The object, e.g. a route.
        what: String,
    },
    /// The value cannot be written to the kernel.
    #[error("{what} {value:?}: {why}")]
    Invalid {
        /// Which value.
        what: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("{what}: {}{}", io::Error::from_raw_os_error(*.errno), said(.message.as_deref()))]
    Kernel {
        /// What was asked.
        what: String,
        /// Positive error number.
        errno: i32,
        /// The kernel's own words (extended ACK), if any.
        message: Option<String>,
    },
    /// The kernel gave no answer that we understand.
    #[error("{what}: no usable answer from the kernel")]
    NoAnswer {
        /// What was asked.
        what: String,
    },
    /// `nft` could not be run or refused the text.
    #[error("nft: {said}")]
    Nft {
        /// nft's own words.
        said: String,
    },
    /// There is no route to the address.
    #[error("no route to {to}")]
    Unreachable {
        /// The destination.
        to: IpAddr,
    },
}

impl Error {
    /// Whether the kernel has nothing of the kind: a module is missing.
    pub fn is_unsupported(&self) -> bool {
        self.errno() == Some(libc::EOPNOTSUPP)
    }

    /// The kernel's error number (positive), if that is what this is about.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Capability { .. } => Some(libc::EPERM),
            _ => None,
        }
    }

    pub(crate) fn io(what: &'static str, needs: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Capability { what: what.to_owned(), needs },
            _ => Self::Io { what, source },
        }
    }

    pub(crate) fn kernel(what: impl Into<String>, errno: i32, message: Option<String>) -> Self {
        match errno {
            libc::EPERM | libc::EACCES => Self::Capability { what: what.into(), needs: "CAP_NET_ADMIN" },
            _ => Self::Kernel { what: what.into(), errno, message },
        }
    }

    pub(crate) fn invalid(what: &'static str, value: impl ToString, why: &'static str) -> Self {
        Self::Invalid { what, value: value.to_string(), why }
    }
}

fn said(message: Option<&str>) -> String {
    message.map(|m| format!(" ({m})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_missing() {
        let denied = Error::io("netlink socket", "CAP_NET_ADMIN", io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(denied.to_string(), "netlink socket: needs CAP_NET_ADMIN");
        assert_eq!(denied.errno(), Some(libc::EPERM));
        let refused = Error::kernel("put route", libc::EINVAL, Some("Invalid prefix".into()));
        assert_eq!(refused.to_string(), "put route: Invalid argument (os error 22) (Invalid prefix)");
    }
}
