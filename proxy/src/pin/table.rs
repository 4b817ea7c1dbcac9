//! The keys of table pins: service, method and what names the client, in 16 bytes.
//!
//! Always of one size, whatever a client sends. A key is the front half of SHA-256, so nobody makes two
//! clients share one, and it is the same in every process, so pins can be replicated; and the table holds no
//! addresses and no header values. It costs one SHA-256 block or two, and only where no cookie pin came.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

/// Names one client of one service in the pin table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableKey(pub [u8; 16]);

impl TableKey {
    /// Evenly spread bits, to choose the owner's shard by.
    pub fn spread(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// What the key of a method is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableMethod {
    /// The client address: IPv6 by /64.
    SourceIp,
    /// The value of a header (its name in lower case).
    Header(String),
    /// The sid.
    Session,
}

/// Makes the keys of one method of one service. Immutable.
#[derive(Clone)]
pub struct KeyMaker {
    method: TableMethod,
    prefix: Sha256,
}

impl std::fmt::Debug for KeyMaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyMaker")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

impl KeyMaker {
    /// Pins are a service's: rules of one service with one method share them.
    pub fn new(service: &str, method: TableMethod) -> Self {
        let tag: &[u8] = match &method {
            TableMethod::SourceIp => b"source",
            TableMethod::Header(name) => name.as_bytes(),
            TableMethod::Session => b"session",
        };
        let kind = match &method {
            TableMethod::SourceIp => 0u8,
            TableMethod::Header(_) => 1,
            TableMethod::Session => 2,
        };
        // Every part but the last has its length in front: no two lists of parts give the same bytes.
        let mut prefix = Sha256::new();
        for part in [b"holdfast pin table v1", service.as_bytes(), &[kind], tag] {
            prefix.update((part.len() as u64).to_be_bytes());
            prefix.update(part);
        }
        Self { method, prefix }
    }

    /// What this method reads.
    pub fn method(&self) -> &TableMethod {
        &self.method
    }

    /// The key of a client. `bytes`: those of [`address_bytes`], the header's value, or the sid.
    pub fn key(&self, bytes: &[u8]) -> TableKey {
        let full = self.prefix.clone().chain_update(bytes).finalize();
        let mut key = [0; 16];
        key.copy_from_slice(&full[..16]);
        TableKey(key)
    }
}

/// An address as pins and hashes see it: 4 bytes of IPv4 (mapped addresses too), the first 8 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressBytes {
    bytes: [u8; 8],
    len: usize,
}

impl AsRef<[u8]> for AddressBytes {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

/// The bytes of an address that stand for its client.
pub fn address_bytes(address: IpAddr) -> AddressBytes {
    let mut bytes = [0; 8];
    let len = match address.to_canonical() {
        IpAddr::V4(v4) => {
            bytes[..4].copy_from_slice(&v4.octets());
            4
        }
        IpAddr::V6(v6) => {
            bytes.copy_from_slice(&v6.octets()[..8]);
            8
        }
    };
    AddressBytes { bytes, len }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> AddressBytes {
        address_bytes(text.parse().unwrap())
    }

    #[test]
    fn addresses() {
        assert_eq!(address("192.0.2.1").as_ref(), [192, 0, 2, 1]);
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_eq!(
            address("2001:db8:1:2:3::4"),
            address("2001:db8:1:2:ffff::1"),
            "one /64"
        );
        assert_ne!(address("2001:db8:1:2::1"), address("2001:db8:1:3::1"));
    }

    #[test]
    fn keys_differ_by_service_method_name_and_value() {
        let header = |name: &str| TableMethod::Header(name.into());
        let makers = [
            KeyMaker::new("a", TableMethod::SourceIp),
            KeyMaker::new("b", TableMethod::SourceIp),
            KeyMaker::new("a", TableMethod::Session),
            KeyMaker::new("a", header("x-a")),
            KeyMaker::new("a", header("x-b")),
            KeyMaker::new("a", header("session")),
            KeyMaker::new("a", header("source")),
        ];
        let values: [&[u8]; 3] = [b"", b"v", &[b'x'; 10_000]];
        let keys: Vec<_> = makers
            .iter()
            .flat_map(|maker| values.map(|value| maker.key(value)))
            .collect();
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[..n].contains(key), "{n}");
        }
        assert_eq!(
            makers[0].key(b"v"),
            KeyMaker::new("a", TableMethod::SourceIp).key(b"v")
        );
    }
}
