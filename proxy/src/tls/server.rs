//! What a listener answers a ClientHello with.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_config::plan::Listener;
use holdfast_runtime::tls::handshake::{prepare_server, provider};
use holdfast_runtime::tls::tickets::Tickets;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, RootCertStore, ServerConfig, SignatureAlgorithm};
use sha2::{Digest, Sha256};

use super::{Error, H2, HTTP1, files};

/// Tickets that a client gets in a TLS 1.3 handshake. One opens any number of times.
const TICKETS: usize = 1;

/// TLS of one listener.
#[derive(Debug)]
pub struct Server {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    /// Which certificates clients may show, and whether they must.
    pub trust: Option<Trust>,
    /// Of all that a resumed session takes for granted: own certificates, `trust`, versions.
    identity: [u8; 32],
    /// Line of Strict-Transport-Security, whole, if responses are to have one.
    pub hsts: Option<Box<[u8]>>,
}

/// The rules on clients' certificates as one value: alike exactly where the rules are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust([u8; 32]);

impl Trust {
    fn new(roots: &RootCertStore, optional: bool) -> Self {
        let mut hash = Sha256::new();
        hash.update([u8::from(optional)]);
        for root in &roots.roots {
            let constraints = root.name_constraints.as_deref().unwrap_or_default();
            for part in [
                root.subject.as_ref(),
                root.subject_public_key_info.as_ref(),
                constraints,
            ] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        Self(hash.finalize().into())
    }
}

impl Server {
    /// This, with the ticket keys of `old` where a session of `old` may go on: a resumed session is
    /// verified by neither side again, so all that was verified must be the same.
    pub fn resuming(self: Arc<Self>, old: &Self) -> Arc<Self> {
        if self.identity != old.identity {
            return self;
        }
        let mut config = ServerConfig::clone(&self.config);
        config.ticketer = Arc::clone(&old.config.ticketer);
        Arc::new(Self {
            config: Arc::new(config),
            trust: self.trust,
            identity: self.identity,
            hsts: self.hsts.clone(),
        })
    }
}

/// TLS of a listener as it is configured; `None` for a plain one.
///
/// # Errors
/// A file that cannot be read or does not fit.
pub fn build(listener: &Listener) -> Result<Option<Arc<Server>>, Error> {
    if listener.tls.is_empty() {
        return Ok(None);
    }
    let options = &listener.tls_options;
    let several = listener.tls.len() > 1;
    let key = |i: usize, name: &str| match several {
        true => format!("tls[{i}].{name}"),
        false => format!("tls.{name}"),
    };
    let mut certificates = Certificates::default();
    let mut identity = Sha256::new();
    for (i, entry) in listener.tls.iter().enumerate() {
        let mut certified = files::certified(
            (&key(i, "certificate"), &entry.certificate),
            (&key(i, "key"), &entry.key),
        )?;
        if let Some(ocsp) = &entry.ocsp {
            certified.ocsp = Some(files::read(&key(i, "ocsp"), ocsp)?);
        }
        for certificate in &certified.cert {
            identity.update((certificate.len() as u64).to_be_bytes());
            identity.update(certificate);
        }
        certificates.add(certified);
    }
    certificates.sort();
    let versions: &[&rustls::SupportedProtocolVersion] = if options.only_13 {
        &[&rustls::version::TLS13]
    } else {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    };
    let internal = |error: rustls::Error| Error {
        key: "tls".into(),
        file: None,
        what: error.to_string(),
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(internal)?;
    let mut trust = None;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let name = key(0, "clientCa");
            let roots = files::authorities(&name, path)?;
            trust = Some(Trust::new(&roots, options.client_optional));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = if options.client_optional {
                verifier.allow_unauthenticated()
            } else {
                verifier
            };
            let verifier = verifier
                .build()
                .map_err(|e| Error::new(name, path, e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
    // Of this listener alone: what one listener's clients proved, no other takes their word for.
    config.ticketer = Arc::new(Tickets::default());
    config.send_tls13_tickets = TICKETS;
    // TLS 1.2 by tickets alone: they open on every core.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    prepare_server(&mut config);
    let hsts = options.hsts.map(|age| {
        format!("Strict-Transport-Security: max-age={}\r\n", age.as_secs()).into_bytes()
    });
    identity.update([u8::from(options.only_13), u8::from(trust.is_some())]);
    identity.update(trust.map_or([0; 32], |trust| trust.0));
    Ok(Some(Arc::new(Server {
        config: Arc::new(config),
        trust,
        identity: identity.finalize().into(),
        hsts: hsts.map(Vec::into_boxed_slice),
    })))
}

/// The certificates of a listener, by name.
#[derive(Debug, Default)]
struct Certificates {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// Without the `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// The first, and those of its names: for clients that ask for another name, or none.
    default: Vec<Arc<CertifiedKey>>,
    first_names: Vec<String>,
}

fn names(certified: &CertifiedKey) -> Vec<String> {
    let parsed = certified
        .cert
        .first()
        .and_then(|der| webpki::EndEntityCert::try_from(der).ok());
    parsed
        .map(|c| c.valid_dns_names().map(str::to_ascii_lowercase).collect())
        .unwrap_or_default()
}

impl Certificates {
    fn add(&mut self, certified: CertifiedKey) {
        let names = names(&certified);
        let certified = Arc::new(certified);
        if self.default.is_empty() {
            self.first_names.clone_from(&names);
        }
        if self.default.is_empty() || names.iter().any(|n| self.first_names.contains(n)) {
            self.default.push(certified.clone());
        }
        for name in names {
            let (table, name) = match name.strip_prefix("*.") {
                Some(rest) => (&mut self.wildcard, rest.to_owned()),
                None => (&mut self.exact, name),
            };
            table.entry(name).or_default().push(certified.clone());
        }
    }

    /// Those that cost least to sign with first.
    fn sort(&mut self) {
        let lists = self.exact.values_mut().chain(self.wildcard.values_mut());
        for list in lists.chain([&mut self.default]) {
            list.sort_by_key(|c| c.key.algorithm() == SignatureAlgorithm::RSA);
        }
    }

    /// Exact before wildcard before default.
    fn lists(&self, name: Option<&str>) -> impl Iterator<Item = &Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase);
        let exact = name.as_deref().and_then(|n| self.exact.get(n));
        let parent = name.as_deref().and_then(|n| n.split_once('.'));
        let wildcard = parent.and_then(|(_, rest)| self.wildcard.get(rest));
        [exact, wildcard, Some(&self.default)]
            .into_iter()
            .flatten()
            .flatten()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.lists(hello.server_name())
            .find(|c| {
                let algorithm = c.key.algorithm();
                c.key.choose_scheme(hello.signature_schemes()).is_some()
                    && has_suite(hello.cipher_suites(), algorithm)
            })
            .cloned()
    }
}

/// Has the client a cipher suite for keys of that kind? Those of TLS 1.3 are for any.
fn has_suite(suites: &[CipherSuite], algorithm: SignatureAlgorithm) -> bool {
    let provider: Arc<CryptoProvider> = provider();
    provider.cipher_suites.iter().any(|ours| {
        suites.contains(&ours.suite()) && ours.usable_for_signature_algorithm(algorithm)
    })
}
