//! How upstreams of a service are spoken to.

use std::sync::Arc;

use holdfast_config::plan::{Protocol, Service, Upstream, UpstreamAddress};
use holdfast_runtime::tls::handshake::{prepare_client, provider};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;

use super::{Error, H2, HTTP1, files};

/// Names of servers that sessions are remembered for, on one core.
const SESSIONS: usize = 256;

/// TLS towards the upstreams of one service.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    /// By upstream: the name that its certificate must carry.
    pub names: Arc<[ServerName<'static>]>,
}

impl Client {
    /// For handshakes.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// The same with a memory of sessions of its own: for one core, so that none waits for another.
    pub fn for_core(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Self {
            config: Arc::new(config),
            names: self.names.clone(),
        }
    }
}

/// TLS of a service as it is configured; `None` for a plain one.
///
/// # Errors
/// A file that cannot be read or does not fit, or an upstream without a name.
pub fn build(service: &Service) -> Result<Option<Arc<Client>>, Error> {
    let Some(tls) = &service.tls else {
        return Ok(None);
    };
    let internal = |error: rustls::Error| Error {
        key: "tls".into(),
        file: None,
        what: error.to_string(),
    };
    let roots = match &tls.ca {
        Some(path) => files::authorities("tls.ca", path)?,
        None => files::system_authorities(),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(internal)?
        .with_root_certificates(roots);
    let mut config = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let certified = files::certified(("tls.certificate", certificate), ("tls.key", key))?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![match service.protocol {
        Protocol::H2 => H2.to_vec(),
        Protocol::Http1 => HTTP1.to_vec(),
    }];
    prepare_client(&mut config);
    let names: Result<Vec<_>, Error> = service
        .upstreams
        .iter()
        .map(|upstream| name(tls.server_name.as_deref(), upstream))
        .collect();
    Ok(Some(Arc::new(Client {
        config: Arc::new(config),
        names: names?.into(),
    })))
}

/// TLS of the gateway's own requests, to servers that the system's authorities vouch for. Reads files.
///
/// # Errors
/// Why the library refuses the settings.
pub fn public() -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(files::system_authorities());
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![HTTP1.to_vec()];
    Ok(Arc::new(config))
}

fn name(configured: Option<&str>, upstream: &Upstream) -> Result<ServerName<'static>, Error> {
    let text = match (configured, &upstream.address) {
        (Some(name), _) => name.to_owned(),
        (None, UpstreamAddress::Ip(address)) => {
            return Ok(ServerName::IpAddress(address.ip().into()));
        }
        (None, UpstreamAddress::Name(host, _)) => host.clone(),
        (None, UpstreamAddress::Unix(_)) => {
            return Err(Error {
                key: "tls.serverName".into(),
                file: None,
                what: format!("is required, since {} has no host name", upstream.id),
            });
        }
    };
    ServerName::try_from(text).map_err(|_| Error {
        key: "tls.serverName".into(),
        file: None,
        what: "expected a host name or address".into(),
    })
}
