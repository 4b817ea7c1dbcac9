//! A channel against a peer made of the same keys: what a peer may do after the handshake, and how often.

use rustls::{CipherSuite, ProtocolVersion};

use super::*;
use crate::tls::record::tests::pair;

const SUITE: CipherSuite = CipherSuite::TLS13_AES_256_GCM_SHA384;
const UPDATE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

/// A server's channel, and the keys of its client.
fn server(version: ProtocolVersion) -> (Channel, Keys) {
    let (client, rx) = pair(version, SUITE, 32);
    let (tx, _) = pair(version, SUITE, 32);
    let none = Buffer::empty;
    (Channel::new(rx, tx, none(), none(), None), client)
}

/// Hands over what the peer sends; says what reading comes to.
fn give(channel: &Channel, wire: &[u8]) -> Result<Took, Fault> {
    let mut carry = channel.begin_read(0).expect("nobody reads");
    carry.extend_from_slice(wire);
    channel.end_read(carry);
    let mut out = Buffer::with_capacity(64 * 1024);
    channel
        .take(&mut out)
        .map_err(|_| channel.fault().expect("a fault"))
}

fn record(keys: &mut Keys, content: Content, plain: &[u8]) -> Vec<u8> {
    let mut wire = Buffer::empty();
    keys.seal(content, plain, &mut wire).expect("a record");
    wire.as_slice().to_vec()
}

#[test]
fn key_updates_are_bounded_by_the_data_between_them() {
    let (channel, mut keys) = server(ProtocolVersion::TLSv1_3);
    for n in 0..MAX_UPDATES {
        let update = record(&mut keys, Content::Handshake, &UPDATE);
        keys.update().expect("keys");
        let data = record(&mut keys, Content::Data, b"x");
        assert_eq!(give(&channel, &update), Ok(Took::More), "update {n}");
        assert_eq!(give(&channel, &data), Ok(Took::Bytes(1)));
    }
    for _ in 0..UPDATE_PER / MAX_PLAIN as u64 {
        let data = record(&mut keys, Content::Data, &[0; MAX_PLAIN]);
        assert_eq!(give(&channel, &data), Ok(Took::Bytes(MAX_PLAIN)));
    }
    let update = record(&mut keys, Content::Handshake, &UPDATE);
    keys.update().expect("keys");
    assert_eq!(give(&channel, &update), Ok(Took::More), "it was earned");
    let update = record(&mut keys, Content::Handshake, &UPDATE);
    assert_eq!(give(&channel, &update), Err(Fault::Unexpected));
}

#[test]
fn a_client_s_message_is_refused_by_its_header() {
    let long = [0, 0, 0x40, 0];
    for (first, fault) in [
        (&[NEW_SESSION_TICKET, 0, 0, 9][..], Fault::Unexpected),
        (&[1, 0, 0xff, 0xff], Fault::Unexpected),
        (&[KEY_UPDATE, 0, 0xff, 0xff], Fault::Decode),
        (&[KEY_UPDATE, 0, 0, 1, 2], Fault::Decode),
        (&[&UPDATE[..], &UPDATE[..]].concat(), Fault::Unexpected),
        (&[&[13][..], &long[1..]].concat(), Fault::Unexpected),
    ] {
        let (channel, mut keys) = server(ProtocolVersion::TLSv1_3);
        let wire = record(&mut keys, Content::Handshake, first);
        assert_eq!(give(&channel, &wire), Err(fault), "{first:?}");
    }
    // A header alone says nothing yet.
    let (channel, mut keys) = server(ProtocolVersion::TLSv1_3);
    let wire = record(&mut keys, Content::Handshake, &UPDATE[..3]);
    assert_eq!(give(&channel, &wire), Ok(Took::More));
    let wire = record(&mut keys, Content::Handshake, &UPDATE[3..]);
    assert_eq!(give(&channel, &wire), Ok(Took::More));
}

#[test]
fn records_without_data_have_an_end() {
    for version in [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3] {
        let (channel, mut keys) = server(version);
        for _ in 0..MAX_IDLE_RECORDS {
            let empty = record(&mut keys, Content::Data, b"");
            assert_eq!(give(&channel, &empty), Ok(Took::More));
        }
        let empty = record(&mut keys, Content::Data, b"");
        assert_eq!(give(&channel, &empty), Err(Fault::Unexpected));
    }
}
