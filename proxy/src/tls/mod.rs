//! What TLS is configured with: certificates, authorities, names.
//!
//! Owns the way from the plan to values that a handshake takes ([`Server`] a listener, [`Client`] a
//! service). Files are read here and nowhere else. [`build`] and [`build_client`] run on the control thread, at the start and
//! at a reload; what they give is immutable, shared by all cores, and replaced as a whole.
//!
//! Invariants: a value exists only if its files could be read, its keys belong to its certificates and
//! its names are names; an error names the key and the file, never what is in a key file. Upstreams are
//! always verified.
//!
//! Deliberately absent: handshakes and records (the runtime's), fetching of OCSP responses. Tested in
//! the files below, and end to end with OpenSSL and curl.

mod client;
mod files;
mod server;
mod subject;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_config::plan::Plan;

pub use client::{Client, build as build_client, public as public_client};
pub use server::{Server, Trust, build};
pub use subject::subject;

/// Name of HTTP/2 within TLS (RFC 9113, 3.2).
pub const H2: &[u8] = b"h2";
/// Name of HTTP/1.1 within TLS (RFC 7301, 6).
pub const HTTP1: &[u8] = b"http/1.1";

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The key below the listener or service, such as `tls[1].key`.
    pub key: String,
    /// The file that it names, if one is at fault.
    pub file: Option<PathBuf>,
    /// What is wrong.
    pub what: String,
}

impl Error {
    fn new(key: impl Into<String>, file: &Path, what: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            file: Some(file.to_owned()),
            what: what.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}: {}: {}", self.key, file.display(), self.what),
            None => write!(f, "{}: {}", self.key, self.what),
        }
    }
}

impl std::error::Error for Error {}

/// All of a plan.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// By listener; `None` for plain ones.
    pub listeners: Vec<Option<Arc<Server>>>,
    /// By service; `None` for plain ones.
    pub services: Vec<Option<Arc<Client>>>,
}

/// Builds all, or says all that is wrong, each with its whole key path.
///
/// # Errors
/// Files that cannot be read or do not fit.
pub fn build_all(plan: &Plan) -> Result<Built, Vec<String>> {
    let mut errors = Vec::new();
    let mut note = |place: &str, index: usize, error: Error| {
        errors.push(format!("gateway.{place}[{index}].{error}"));
    };
    let listeners = plan
        .listeners
        .iter()
        .enumerate()
        .map(|(i, listener)| {
            build(listener).unwrap_or_else(|e| {
                note("listeners", i, e);
                None
            })
        })
        .collect();
    let services = plan
        .services
        .iter()
        .enumerate()
        .map(|(i, service)| {
            build_client(service).unwrap_or_else(|e| {
                note("services", i, e);
                None
            })
        })
        .collect();
    if errors.is_empty() {
        Ok(Built {
            listeners,
            services,
        })
    } else {
        Err(errors)
    }
}
