//! Reading of PEM files: chains, keys, authorities.

use std::path::Path;
use std::sync::Arc;

use holdfast_runtime::tls::handshake::provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};

use super::Error;

/// No file of ours is longer.
const MAX_FILE: u64 = 4 << 20;

/// A whole file.
pub fn read(key: &str, path: &Path) -> Result<Vec<u8>, Error> {
    let fail = |e: std::io::Error| Error::new(key, path, format!("cannot be read: {e}"));
    let length = std::fs::metadata(path).map_err(fail)?.len();
    if length > MAX_FILE {
        return Err(Error::new(key, path, "is too long for a PEM file"));
    }
    std::fs::read(path).map_err(fail)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(key, path)?;
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match list {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(Error::new(key, path, "holds no certificate in PEM")),
        Err(_) => Err(Error::new(key, path, "is no well-formed PEM")),
    }
}

fn private_key(key: &str, path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let text = read(key, path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| {
        let what = match e {
            pem::Error::NoItemsFound => {
                "holds no private key in PEM (one that is sealed by a password cannot be used)"
            }
            _ => "is no well-formed PEM",
        };
        Error::new(key, path, what)
    })
}

/// A chain with its key. `keys` are the configuration keys of the two files.
pub fn certified(
    (certificate_key, certificate): (&str, &Path),
    (key_key, key): (&str, &Path),
) -> Result<CertifiedKey, Error> {
    let chain = certificates(certificate_key, certificate)?;
    let der = private_key(key_key, key)?;
    let signer = provider()
        .key_provider
        .load_private_key(der)
        .map_err(|_| Error::new(key_key, key, "is no private key of a known kind"))?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        // A key that cannot say which it is: the handshakes will tell.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(Error::new(
            key_key,
            key,
            format!(
                "does not belong to the certificate in {}",
                certificate.display()
            ),
        )),
        Err(_) => Err(Error::new(
            certificate_key,
            certificate,
            "holds a certificate that cannot be read",
        )),
    }
}

/// Authorities of a file.
pub fn authorities(key: &str, path: &Path) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path)? {
        roots.add(certificate).map_err(|_| {
            Error::new(key, path, "holds a certificate that cannot be an authority")
        })?;
    }
    Ok(Arc::new(roots))
}

/// The system's authorities; where it has none, those that browsers trust.
pub fn system_authorities() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Arc::new(roots)
}
