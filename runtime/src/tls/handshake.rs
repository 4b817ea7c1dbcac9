//! Handshakes, over a stream that is plain until then.
//!
//! Owns the way from a connected socket to a [`Channel`]: rustls decides, we carry the bytes. Runs on a
//! monoio core; one task a handshake.
//!
//! Invariants: rustls is given whole records, one more at a time, and none behind the handshake's end:
//! what follows is the channel's, so the library is left with nothing of ours when it is taken apart. A
//! hello is bounded before the library sees it. A peer that breaks the rules is sent the library's alert.
//! Time is the caller's: arm the stream's deadline before.
//!
//! Deliberately absent: certificates and policy (those of the configuration that is given). Tested end
//! to end, with this module at both ends and with OpenSSL.

use std::fmt;
use std::io;
use std::ops::DerefMut;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, UnbufferedConnectionCommon, UnbufferedStatus,
};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, CommonState, ExtractedSecrets, HandshakeKind,
    ProtocolVersion, ServerConfig,
};

use super::channel::Channel;
use super::hello::{self, Seen};
use super::record::{HEADER, Keys, header};
use super::secrets::{Secrets, catching};
use crate::buffers::Buffer;
use crate::stream::Stream;

/// Handshake bytes of one side that wait for the rest of a message.
const MAX_WAITING: usize = 128 * 1024;

/// What a handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Version.
    pub version: ProtocolVersion,
    /// Cipher suite.
    pub suite: CipherSuite,
    /// Name that the client asked for.
    pub server_name: Option<Box<str>>,
    /// Protocol that was agreed on within TLS, such as `h2`.
    pub protocol: Option<Box<[u8]>>,
    /// Tells client programs apart, of a client's hello: see [`hello::Hello`].
    pub hello: Option<[u8; 16]>,
    /// An earlier session went on.
    pub resumed: bool,
}

impl Facts {
    /// `TLSv1.3` and so on.
    pub fn version_name(&self) -> &'static str {
        self.version.as_str().map_or("TLS", |name| match name {
            "TLSv1_2" => "TLSv1.2",
            "TLSv1_3" => "TLSv1.3",
            other => other,
        })
    }

    /// The suite's name.
    pub fn suite_name(&self) -> &'static str {
        self.suite.as_str().unwrap_or("unknown")
    }
}

/// A handshake that went well.
#[derive(Debug)]
pub struct Agreed {
    /// What was agreed on.
    pub facts: Facts,
    /// The peer's certificates, its own first, as verified.
    pub certificates: Option<Vec<CertificateDer<'static>>>,
}

/// Why there was none.
#[derive(Debug)]
pub enum Failure {
    /// The client speaks plain HTTP; what it said.
    Http(Buffer),
    /// The other side does not speak TLS.
    NotTls,
    /// It closed the connection before the end, or the deadline of the stream passed.
    Closed,
    /// It refused, by an alert.
    Alert(AlertDescription),
    /// It presented no certificate, or a wrong one.
    Certificate(rustls::Error),
    /// It broke the protocol, or has nothing in common with us.
    Protocol(rustls::Error),
    /// The socket's.
    Io(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(_) => f.write_str("plain HTTP where TLS is spoken"),
            Self::NotTls => f.write_str("the other side does not speak TLS"),
            Self::Closed => f.write_str("closed during the handshake"),
            Self::Alert(alert) => write!(f, "refused by the alert {alert:?}"),
            Self::Certificate(error) | Self::Protocol(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl From<rustls::Error> for Failure {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(alert) => Self::Alert(alert),
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                Self::Certificate(error)
            }
            error => Self::Protocol(error),
        }
    }
}

/// The library's cryptography, which all configurations must be built with.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            let mut provider = rustls::crypto::aws_lc_rs::default_provider();
            // Our order is what counts: the cheapest of what is sound first, as browsers have it too.
            provider.cipher_suites = vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ];
            Arc::new(provider)
        })
        .clone()
}

/// Prepares a configuration of servers for [`accept`].
pub fn prepare_server(config: &mut ServerConfig) {
    config.key_log = Arc::new(super::secrets::Catch);
    config.enable_secret_extraction = true;
    config.max_early_data_size = 0;
    config.ignore_client_order = true;
}

/// Prepares a configuration of clients for [`connect`].
pub fn prepare_client(config: &mut ClientConfig) {
    config.key_log = Arc::new(super::secrets::Catch);
    config.enable_secret_extraction = true;
    config.enable_early_data = false;
}

/// Accepts a client's handshake; the stream then speaks TLS. `config` must be [prepared](prepare_server);
/// `first` is what was read already.
///
/// # Errors
/// See [`Failure`]. The stream is still plain then.
pub async fn accept(
    stream: &mut Stream,
    config: Arc<ServerConfig>,
    first: Buffer,
) -> Result<Agreed, Failure> {
    let mut wire = Wire {
        input: first,
        ..Wire::default()
    };
    let mut look = hello::Look::default();
    loop {
        match look.at(wire.input.as_slice()) {
            Seen::Whole => break,
            Seen::Part => wire.read(stream).await?,
            Seen::Http => return Err(Failure::Http(wire.input)),
            Seen::Other | Seen::TooLong => return Err(Failure::NotTls),
        }
    }
    let hello = hello::read(wire.input.as_slice());
    let mut connection = guarded(|| UnbufferedServerConnection::new(config))??;
    drive(stream, &mut connection, &mut wire, |connection, records| {
        connection.process_tls_records(records)
    })
    .await?;
    let facts = Facts {
        server_name: hello.as_ref().and_then(|h| h.server_name.clone()),
        hello: hello.map(|h| h.digest),
        ..facts(&connection)?
    };
    let certificates = connection.peer_certificates().map(owned);
    let (secrets, _) = guarded(|| connection.dangerous_into_kernel_connection())??;
    let Secrets { client, server } = std::mem::take(&mut wire.secrets);
    let (rx, tx) = keys(&facts, secrets, client, server)?;
    // The tickets go with the first answer where the request is here already.
    let request = header(wire.input.as_slice()).is_some();
    if !request || facts.version != ProtocolVersion::TLSv1_3 {
        wire.flush(stream).await?;
    }
    stream.secure(Channel::new(rx, tx, wire.input, wire.out, None));
    Ok(Agreed {
        facts,
        certificates,
    })
}

/// Makes a handshake with a server of that name; the stream then speaks TLS. `config` must be
/// [prepared](prepare_client). In TLS 1.3 our last message goes out with the first write.
///
/// # Errors
/// See [`Failure`]. The stream is still plain then.
pub async fn connect(
    stream: &mut Stream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Agreed, Failure> {
    let mut wire = Wire::default();
    let mut connection = guarded(|| UnbufferedClientConnection::new(config, name))??;
    drive(stream, &mut connection, &mut wire, |connection, records| {
        connection.process_tls_records(records)
    })
    .await?;
    let facts = facts(&connection)?;
    let certificates = connection.peer_certificates().map(owned);
    let (secrets, kernel) = guarded(|| connection.dangerous_into_kernel_connection())??;
    let Secrets { client, server } = std::mem::take(&mut wire.secrets);
    let (rx, tx) = keys(&facts, secrets, server, client)?;
    let v13 = facts.version == ProtocolVersion::TLSv1_3;
    if !v13 {
        wire.flush(stream).await?;
    }
    let resumption = v13.then(|| Box::new(kernel));
    stream.secure(Channel::new(rx, tx, wire.input, wire.out, resumption));
    Ok(Agreed {
        facts,
        certificates,
    })
}

/// Calls into the library: a stranger's bytes must not end the core, whatever they find there.
fn guarded<R>(call: impl FnOnce() -> R) -> Result<R, rustls::Error> {
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|_| rustls::Error::General("the TLS library failed".into()))
}

fn owned(certificates: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
    certificates.to_vec()
}

fn facts(connection: &CommonState) -> Result<Facts, Failure> {
    let incomplete = rustls::Error::HandshakeNotComplete;
    match (
        connection.protocol_version(),
        connection.negotiated_cipher_suite(),
    ) {
        (Some(version), Some(suite)) => Ok(Facts {
            version,
            suite: suite.suite(),
            server_name: None,
            protocol: connection.alpn_protocol().map(Into::into),
            hello: None,
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }),
        _ => Err(incomplete.into()),
    }
}

fn keys(
    facts: &Facts,
    secrets: ExtractedSecrets,
    rx: Option<super::record::Secret>,
    tx: Option<super::record::Secret>,
) -> Result<(Keys, Keys), Failure> {
    let make = |keys, secret| {
        Keys::new(facts.version, facts.suite, keys, secret)
            .ok_or_else(|| rustls::Error::General("no keys for this suite".into()))
    };
    Ok((make(secrets.rx, rx)?, make(secrets.tx, tx)?))
}

/// Bytes on their way during a handshake.
#[derive(Default)]
struct Wire {
    /// Read and not used. The library may still refer to the first `fed` of them.
    input: Buffer,
    fed: usize,
    /// To be sent.
    out: Buffer,
    secrets: Secrets,
}

impl Wire {
    async fn read(&mut self, stream: &Stream) -> Result<(), Failure> {
        let mut input = std::mem::take(&mut self.input);
        if input.capacity() == 0 {
            input = Buffer::take();
        }
        if input.len() >= MAX_WAITING {
            return Err(Failure::NotTls);
        }
        if input.spare_len() == 0 {
            input.reserve(input.len().max(1));
        }
        let (read, input) = stream.read(input).await;
        self.input = input;
        match read {
            Ok(0) => Err(Failure::Closed),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(Failure::Closed),
            Err(error) => Err(Failure::Io(error)),
        }
    }

    async fn flush(&mut self, stream: &Stream) -> Result<(), Failure> {
        if self.out.is_empty() {
            return Ok(());
        }
        let (written, _) = stream.write_all(std::mem::take(&mut self.out)).await;
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Failure::Closed,
            _ => Failure::Io(error),
        })
    }

    /// One more record for the library, if a whole one is there.
    fn feed(&mut self) -> bool {
        let rest = self.input.as_slice().get(self.fed..).unwrap_or_default();
        let Some(head) = header(rest) else {
            return false;
        };
        let whole = HEADER + head.payload;
        if rest.len() < whole {
            return false;
        }
        self.fed += whole;
        true
    }
}

/// What the library wants next.
enum Want {
    Again,
    /// One more record.
    Record,
    Done,
}

type Process<C, D> = for<'c, 'i> fn(&'c mut C, &'i mut [u8]) -> UnbufferedStatus<'c, 'i, D>;

/// Carries the bytes until the handshake is done. What is left in `out` is the last flight.
async fn drive<C, D>(
    stream: &Stream,
    connection: &mut C,
    wire: &mut Wire,
    process: Process<C, D>,
) -> Result<(), Failure>
where
    C: DerefMut<Target = UnbufferedConnectionCommon<D>>,
{
    loop {
        let mut secrets = std::mem::take(&mut wire.secrets);
        let step = catching(&mut secrets, || guarded(|| step(connection, wire, process)));
        wire.secrets = secrets;
        match step? {
            Ok(Want::Again) => {}
            Ok(Want::Done) => return Ok(()),
            Ok(Want::Record) => {
                if !wire.feed() {
                    wire.flush(stream).await?;
                    wire.read(stream).await?;
                }
            }
            Err(error) => {
                // Without them it ends all the same.
                let _ = guarded(|| last_words(connection, wire, process));
                // Whether it arrives is no matter.
                drop(wire.flush(stream).await);
                return Err(error.into());
            }
        }
    }
}

fn step<C, D>(
    connection: &mut C,
    wire: &mut Wire,
    process: Process<C, D>,
) -> Result<Want, rustls::Error>
where
    C: DerefMut<Target = UnbufferedConnectionCommon<D>>,
{
    let handshaking = |c: &C| c.is_handshaking();
    let Wire {
        input, fed, out, ..
    } = wire;
    let records = &mut input.as_mut_slice()[..*fed];
    let UnbufferedStatus { discard, state } = process(connection, records);
    let mut blocked = false;
    let mut wants = Want::Again;
    let state = match state {
        Ok(state) => state,
        Err(error) => {
            input.consume(discard);
            *fed -= discard;
            return Err(error);
        }
    };
    match state {
        ConnectionState::EncodeTlsData(mut data) => encode(&mut data, out)?,
        ConnectionState::TransmitTlsData(transmit) => transmit.done(),
        ConnectionState::BlockedHandshake => wants = Want::Record,
        ConnectionState::WriteTraffic(_) => blocked = true,
        ConnectionState::PeerClosed | ConnectionState::Closed => {
            return Err(rustls::Error::AlertReceived(AlertDescription::CloseNotify));
        }
        _ => {
            return Err(rustls::Error::General(
                "data before the handshake's end".into(),
            ));
        }
    }
    input.consume(discard);
    *fed -= discard;
    if blocked {
        wants = if handshaking(connection) || *fed > 0 {
            Want::Record
        } else {
            Want::Done
        };
    }
    Ok(wants)
}

fn encode<D>(
    data: &mut rustls::unbuffered::EncodeTlsData<'_, D>,
    out: &mut Buffer,
) -> Result<(), rustls::Error> {
    if out.capacity() == 0 {
        *out = Buffer::take();
    }
    loop {
        match data.encode(out.spare()) {
            Ok(n) => {
                out.advance(n);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => out.reserve(size.required_size),
            Err(EncodeError::AlreadyEncoded) => return Ok(()),
        }
    }
}

/// Takes the alert that the library has for the peer after an error.
fn last_words<C, D>(connection: &mut C, wire: &mut Wire, process: Process<C, D>)
where
    C: DerefMut<Target = UnbufferedConnectionCommon<D>>,
{
    let Wire {
        input, fed, out, ..
    } = wire;
    loop {
        // The library still refers to the bytes that it did not discard: they must be there.
        let UnbufferedStatus { discard, state } =
            process(connection, &mut input.as_mut_slice()[..*fed]);
        match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                if encode(&mut data, out).is_err() {
                    return;
                }
            }
            Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
            _ => return,
        }
        input.consume(discard);
        *fed -= discard;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_library_is_an_error() {
        assert_eq!(guarded(|| 7), Ok(7));
        let panicked = guarded(|| -> u8 { panic!("as the library might") });
        assert!(matches!(panicked, Err(rustls::Error::General(_))));
    }
}
