//! Splices of random data with checksums, on both drivers.

mod common;

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use common::*;
use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::deadline::Expire;
use holdfast_runtime::splice::{self, Side, Step};
use holdfast_runtime::stream::Stream;

fn std_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(any_port()).unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (a, listener.accept().unwrap().0)
}

fn stream(socket: TcpStream) -> Stream {
    Stream::from_fd(socket.into()).unwrap()
}

/// A dropped stream is closed by the ring when the core turns: before its thread may block.
async fn turned() {
    monoio::time::sleep(Duration::from_millis(5)).await;
}

#[test]
fn exactly_so_many_bytes_and_the_stream_goes_on_after_them() {
    on_both(|| async {
        let (mut source, from) = std_pair();
        let (mut sink, to) = std_pair();
        let data = noise(3, 24 << 20);
        let sum = checksum(&data);
        let total = data.len() as u64;
        let writer = thread::spawn(move || {
            source.write_all(&data).unwrap();
            source.write_all(b"next").unwrap();
            source
        });
        let reader = thread::spawn(move || {
            let mut got = vec![0; total as usize];
            // A reader that is slow at first, so that the destination is full at times.
            for part in got.chunks_mut(1 << 20) {
                sink.read_exact(part).unwrap();
            }
            sink.write_all(b"request").unwrap();
            (checksum(&got), sink)
        });
        let (from, to) = (stream(from), stream(to));
        let told = Cell::new(0);
        let watch = |step| {
            if let Step::Moved(n) = step {
                told.set(told.get() + n);
            }
        };
        let moved = splice::splice_exact(&from, &to, total, watch)
            .await
            .unwrap();
        assert_eq!((moved, told.get()), (total, total));
        // Plain operations work on both sockets afterwards, waiting included.
        let mut buffer = Buffer::take();
        while buffer.len() < 4 {
            let (read, back) = from.read(buffer).await;
            assert!(read.unwrap() > 0);
            buffer = back;
        }
        assert_eq!(buffer.as_slice(), b"next");
        let mut buffer = Buffer::take();
        while buffer.len() < 7 {
            let (read, back) = to.read(buffer).await;
            assert!(read.unwrap() > 0);
            buffer = back;
        }
        assert_eq!(buffer.as_slice(), b"request");
        let (got, _sink) = reader.join().unwrap();
        assert_eq!(got, sum);
        writer.join().unwrap();
    });
}

#[test]
fn an_early_end_and_a_gone_reader_are_told_apart() {
    on_both(|| async {
        let (mut source, from) = std_pair();
        let (sink, to) = std_pair();
        source.write_all(&[7; 1000]).unwrap();
        drop(source);
        let (from, to) = (stream(from), stream(to));
        let error = splice::splice_exact(&from, &to, 1001, |_| {})
            .await
            .unwrap_err();
        assert_eq!(
            (error.side, error.moved, error.source.kind()),
            (Side::Read, 1000, ErrorKind::UnexpectedEof)
        );
        let (mut source, from) = std_pair();
        drop(sink);
        let writer = thread::spawn(move || while source.write_all(&[7; 65536]).is_ok() {});
        let from = stream(from);
        let error = splice::splice_exact(&from, &to, u64::MAX, |_| {})
            .await
            .unwrap_err();
        assert_eq!(error.side, Side::Write);
        drop(from);
        turned().await;
        writer.join().unwrap();
    });
}

#[test]
fn a_deadline_ends_a_splice() {
    on_both(|| async {
        let (_source, from) = std_pair();
        let (_sink, to) = std_pair();
        let (from, to) = (stream(from), stream(to));
        from.arm(Duration::from_millis(200), Expire::Read);
        let error = splice::splice_exact(&from, &to, 10, |_| {})
            .await
            .unwrap_err();
        assert_eq!(
            (error.side, error.source.kind()),
            (Side::Read, ErrorKind::UnexpectedEof)
        );
        assert!(from.expired());
        // One that can't write, since nobody reads.
        let (mut source, from) = std_pair();
        let writer = thread::spawn(move || while source.write_all(&[7; 65536]).is_ok() {});
        let from = stream(from);
        to.arm(Duration::from_millis(500), Expire::Both);
        let error = splice::splice_to_end(&from, &to, |_| {}).await.unwrap_err();
        assert_eq!(error.side, Side::Write);
        assert!(error.moved > 0 && to.expired());
        drop(from);
        turned().await;
        writer.join().unwrap();
    });
}

#[test]
fn a_tunnel_carries_both_directions_and_their_ends() {
    on_both(|| async {
        let (client, a) = std_pair();
        let (server, b) = std_pair();
        let talk = |mut socket: TcpStream, seed: u64| {
            let data = noise(seed, 9 << 20);
            let mut half = socket.try_clone().unwrap();
            let sent = checksum(&data);
            let writer = thread::spawn(move || {
                half.write_all(&data).unwrap();
                half.shutdown(Shutdown::Write).unwrap();
            });
            thread::spawn(move || {
                let mut got = Vec::new();
                socket.read_to_end(&mut got).unwrap();
                writer.join().unwrap();
                (sent, checksum(&got))
            })
        };
        let (client, server) = (talk(client, 5), talk(server, 11));
        let (forth, back) = (Cell::new(0), Cell::new(0));
        let (a, b) = (stream(a), stream(b));
        let ended = splice::tunnel(&a, &b, |way, n| {
            let count = if way { &forth } else { &back };
            count.set(count.get() + n);
        })
        .await;
        assert!(ended.error.is_none(), "{:?}", ended.error);
        assert_eq!((ended.forth, ended.back), (9 << 20, 9 << 20));
        assert_eq!((forth.get(), back.get()), (9 << 20, 9 << 20));
        let ((client_sent, client_got), (server_sent, server_got)) =
            (client.join().unwrap(), server.join().unwrap());
        assert_eq!((client_sent, server_sent), (server_got, client_got));
    });
}

#[test]
fn a_slow_reader_never_stops_the_core() {
    on_both(|| async {
        let (mut source, from) = std_pair();
        let (sink, to) = std_pair();
        let writer = thread::spawn(move || while source.write_all(&[7; 65536]).is_ok() {});
        let (from, to) = (stream(from), stream(to));
        let transfer = monoio::spawn(async move {
            let _ = splice::splice_to_end(&from, &to, |_| {}).await;
        });
        // Nobody reads: the transfer is stuck, the core is not.
        for _ in 0..20 {
            let began = std::time::Instant::now();
            monoio::time::sleep(Duration::from_millis(10)).await;
            assert!(began.elapsed() < Duration::from_secs(5));
        }
        drop(sink);
        transfer.await;
        turned().await;
        writer.join().unwrap();
    });
}
