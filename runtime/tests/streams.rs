//! Streams, deadlines and the fair yield, on both drivers.

mod common;

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::*;
use holdfast_runtime::buffers::{self, Buffer};
use holdfast_runtime::deadline::{self, Expire};
use holdfast_runtime::stream::{Stream, Target};
use holdfast_runtime::yielder;
use monoio::time::timeout;

/// A connected pair over TCP.
async fn tcp_pair() -> (Stream, Stream) {
    let listener = TcpListener::bind(any_port()).unwrap();
    let a = Stream::connect(&Target::Tcp(listener.local_addr().unwrap()), LONG)
        .await
        .unwrap();
    let b = Stream::from_fd(listener.accept().unwrap().0.into()).unwrap();
    (a, b)
}

#[test]
fn bytes_go_both_ways_at_once_through_one_stream() {
    on_both(|| async {
        for tcp in [true, false] {
            let (a, b) = if tcp {
                tcp_pair().await
            } else {
                Stream::pair().unwrap()
            };
            assert_eq!((a.peer_addr().is_some(), a.is_unix()), (tcp, !tcp));
            let data = noise(7, 3 << 20);
            let (a, b) = (Rc::new(a), Rc::new(b));
            // b echoes; a writes and reads from two tasks through shared references.
            monoio::spawn({
                let b = b.clone();
                async move {
                    loop {
                        let (read, buffer) = b.read(Buffer::take()).await;
                        if read.unwrap() == 0 {
                            b.shutdown(Shutdown::Write).unwrap();
                            return;
                        }
                        let (written, buffer) = b.write_all(buffer).await;
                        written.unwrap();
                        assert!(buffer.is_empty());
                    }
                }
            });
            monoio::spawn({
                let (a, data) = (a.clone(), data.clone());
                async move {
                    let mut buffer = Buffer::with_capacity(data.len());
                    buffer.extend_from_slice(&data);
                    a.write_all(buffer).await.0.unwrap();
                    a.shutdown(Shutdown::Write).unwrap();
                }
            });
            let mut got = Vec::new();
            loop {
                let (read, buffer) = a.read(Buffer::take()).await;
                got.extend_from_slice(buffer.as_slice());
                if read.unwrap() == 0 {
                    break;
                }
            }
            assert_eq!((got.len(), checksum(&got)), (data.len(), checksum(&data)));
        }
    });
}

#[test]
fn a_read_needs_room_and_appends() {
    on_both(|| async {
        let (a, b) = Stream::pair().unwrap();
        let (result, _) = a.read(Buffer::empty()).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);
        let mut out = Buffer::take();
        out.extend_from_slice(b"world");
        b.write_all(out).await.0.unwrap();
        let mut buffer = Buffer::take();
        buffer.extend_from_slice(b"hello ");
        let (result, buffer) = a.read(buffer).await;
        assert_eq!(result.unwrap(), 5);
        assert_eq!(buffer.as_slice(), b"hello world");
    });
}

#[test]
fn stale_connections_are_seen() {
    on_both(|| async {
        let (a, b) = tcp_pair().await;
        assert!(!a.peek_stale());
        let mut out = Buffer::take();
        out.extend_from_slice(b"x");
        b.write_all(out).await.0.unwrap();
        a.readable().await.unwrap();
        assert!(a.peek_stale(), "bytes that nobody asked for");
        let (read, buffer) = a.read(Buffer::take()).await;
        assert_eq!((read.unwrap(), buffer.as_slice()), (1, &b"x"[..]));
        assert!(!a.peek_stale());
        b.reset_on_close().unwrap();
        drop(b);
        let error = a.read(Buffer::take()).await.0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(a.peek_stale(), "reset");
    });
}

#[test]
fn connecting_fails_in_time_and_with_the_reason() {
    on_both(|| async {
        let nobody = TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
        let error = Stream::connect(&Target::Tcp(nobody), LONG)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let none = Target::Unix("/nonexistent/socket".into());
        assert_eq!(
            Stream::connect(&none, LONG).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        // A full queue answers nothing.
        let full =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&any_port().into()).unwrap();
        full.listen(0).unwrap();
        let target = Target::Tcp(full.local_addr().unwrap().as_socket().unwrap());
        let mut held = Vec::new();
        let error = loop {
            match Stream::connect(&target, Duration::from_millis(200)).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() < 100);
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn a_stream_moves_also_after_a_dropped_wait() {
    for driver in drivers() {
        let (send, receive) = std::sync::mpsc::channel();
        on_core(driver.clone(), move || async move {
            let (a, b) = tcp_pair().await;
            assert!(
                timeout(Duration::from_millis(10), a.readable())
                    .await
                    .is_err()
            );
            send.send((a.into_fd().unwrap(), b.into_fd().unwrap()))
                .unwrap();
        });
        on_core(driver, move || async move {
            let (a, b) = receive.recv().unwrap();
            let (a, b) = (Stream::from_fd(a).unwrap(), Stream::from_fd(b).unwrap());
            let mut out = Buffer::take();
            out.extend_from_slice(b"moved");
            b.write_all(out).await.0.unwrap();
            let (read, buffer) = a.read(Buffer::take()).await;
            assert_eq!((read.unwrap(), buffer.as_slice()), (5, &b"moved"[..]));
        });
    }
}

#[test]
fn a_deadline_ends_a_read_and_never_early() {
    on_both(|| async {
        let (a, b) = tcp_pair().await;
        let began = Instant::now();
        a.arm(Duration::from_millis(300), Expire::Read);
        let (read, _) = a.read(Buffer::take()).await;
        assert_eq!(read.unwrap(), 0);
        assert!(a.expired());
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(300), "{took:?}");
        // The other direction lives.
        let mut out = Buffer::take();
        out.extend_from_slice(b"408");
        a.write_all(out).await.0.unwrap();
        let (read, _) = b.read(Buffer::take()).await;
        assert_eq!(read.unwrap(), 3);
        // A writer that nobody reads from is ended too.
        b.arm(Duration::from_millis(300), Expire::Both);
        let mut out = Buffer::with_capacity(64 << 20);
        out.advance(64 << 20);
        assert!(b.write_all(out).await.0.is_err());
        assert!(b.expired());
        drop((a, b));
        assert_eq!(deadline::live(), 0);
    });
}

#[test]
fn a_wait_until_a_deadline_leaves_the_socket_alone() {
    on_both(|| async {
        let (a, b) = tcp_pair().await;
        a.arm(Duration::from_millis(200), Expire::Wake);
        assert!(a.slot().until(a.readable()).await.is_none());
        let mut out = Buffer::take();
        out.extend_from_slice(b"later");
        b.write_all(out).await.0.unwrap();
        a.arm(LONG, Expire::Wake);
        a.slot()
            .until(a.readable())
            .await
            .expect("in time")
            .unwrap();
        let (read, _) = a.read(Buffer::take()).await;
        assert_eq!(read.unwrap(), 5);
    });
}

#[test]
fn the_yield_is_fair_to_tasks_and_completions() {
    on_both(|| async {
        let (a, b) = Stream::pair().unwrap();
        let stop = Rc::new(Cell::new(false));
        let turns = Rc::new([Cell::new(0u64), Cell::new(0)]);
        for who in 0..2 {
            let (stop, turns) = (stop.clone(), turns.clone());
            monoio::spawn(async move {
                while !stop.get() {
                    turns[who].set(turns[who].get() + 1);
                    yielder::turn().await;
                }
            });
        }
        // A hundred round trips go through while both yield for ever.
        monoio::spawn(async move {
            loop {
                let (read, buffer) = b.read(Buffer::take()).await;
                if read.unwrap() == 0 {
                    return;
                }
                b.write_all(buffer).await.0.unwrap();
            }
        });
        for _ in 0..100 {
            let mut out = Buffer::take();
            out.extend_from_slice(b"x");
            a.write_all(out).await.0.unwrap();
            assert_eq!(a.read(Buffer::take()).await.0.unwrap(), 1);
        }
        monoio::time::sleep(Duration::from_millis(20)).await;
        stop.set(true);
        let (one, other) = (turns[0].get(), turns[1].get());
        assert!(
            one > 50 && other > 50 && one < other * 2 && other < one * 2,
            "{one} and {other}"
        );
    });
}

#[test]
fn buffers_come_back_to_the_pool() {
    on_both(|| async {
        buffers::configure(4096, 8);
        let (a, b) = Stream::pair().unwrap();
        for _ in 0..50 {
            let mut out = Buffer::take();
            out.extend_from_slice(b"x");
            let (written, out) = a.write_all(out).await;
            written.unwrap();
            drop(out);
            let (read, _) = b.read(Buffer::take()).await;
            read.unwrap();
        }
        let stats = buffers::stats();
        assert!(stats.allocated <= 2, "{stats:?}");
        assert_eq!(stats.in_use, 0);
        assert!(a.raw_fd() != b.raw_fd() && a.raw_fd() >= 0);
        assert_eq!(std::os::fd::AsFd::as_fd(&a).as_raw_fd(), a.raw_fd());
    });
}

#[test]
fn a_deadline_can_end_a_read_and_leave_the_socket_whole() {
    on_both(|| async {
        if !holdfast_runtime::cancel::available() {
            assert!(monoio::utils::is_legacy(), "a ring can be found");
            return;
        }
        for tcp in [true, false] {
            let (a, b) = if tcp {
                tcp_pair().await
            } else {
                Stream::pair().unwrap()
            };
            a.arm(Duration::from_millis(50), Expire::Cancel);
            let (read, buffer) = a.read(Buffer::take()).await;
            assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
            assert!(a.expired() && buffer.is_empty());
            // Both directions still work, and the descriptor can be given away.
            let mut out = Buffer::take();
            out.extend_from_slice(b"ping");
            b.write_all(out).await.0.unwrap();
            let (read, mut buffer) = a.read(buffer).await;
            assert_eq!((read.unwrap(), buffer.as_slice()), (4, &b"ping"[..]));
            buffer.clear();
            a.arm(Duration::from_millis(50), Expire::Cancel);
            assert!(a.read(buffer).await.0.is_err());
            // Beside a deadline that goes on.
            a.arm(Duration::from_millis(400), Expire::Both);
            a.slot().interrupt_after(Duration::from_millis(50));
            let (read, buffer) = a.read(Buffer::take()).await;
            assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
            assert!(!a.expired());
            a.slot().interrupt_never();
            a.disarm();
            drop(buffer);
            let a = Stream::from_fd(a.into_fd().unwrap()).unwrap();
            let mut out = Buffer::take();
            out.extend_from_slice(b"pong");
            a.write_all(out).await.0.unwrap();
            let (read, buffer) = b.read(Buffer::take()).await;
            assert_eq!((read.unwrap(), buffer.as_slice()), (4, &b"pong"[..]));
        }
    });
}
