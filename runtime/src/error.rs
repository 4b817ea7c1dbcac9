//! The crate's one error enum, split by who can do something about it.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// What can go wrong before traffic flows, or end a thread. Failures of single connections are plain
/// [`io::Error`]s.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else listens there: for the operator.
    AddressInUse {
        /// Where.
        address: String,
        /// Who, where it could be found out: `holdfast (process 123)`.
        holder: Option<String>,
    },
    /// The address can't be listened on: for the operator.
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// An option that the configuration demands can't be had here: for the operator. The text names
    /// what to change.
    Refused(String),
    /// A thread could not be started.
    Thread {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The driver of a thread could not be built.
    Driver {
        /// The thread's name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A thread panicked: our fault.
    Panicked {
        /// Its name.
        name: String,
        /// What the panic said.
        message: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressInUse {
                address,
                holder: Some(holder),
            } => {
                write!(
                    f,
                    "cannot listen on {address}: {holder} already listens there"
                )
            }
            Self::AddressInUse {
                address,
                holder: None,
            } => {
                write!(
                    f,
                    "cannot listen on {address}: another process already listens there"
                )
            }
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::Refused(text) => f.write_str(text),
            Self::Thread { name, source } => write!(f, "cannot start thread {name}: {source}"),
            Self::Driver { name, source } => {
                write!(f, "cannot start the driver of thread {name}: {source}")
            }
            Self::Panicked { name, message } => write!(f, "thread {name} panicked: {message}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { source, .. }
            | Self::Thread { source, .. }
            | Self::Driver { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Error {
    pub(crate) fn listen(address: &SocketAddr, source: io::Error) -> Self {
        Self::Listen {
            address: address.to_string(),
            source,
        }
    }
}
