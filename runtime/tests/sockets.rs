//! Listener groups and accepting, on both drivers.

mod common;

use std::cell::Cell;
use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::*;
use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::socket::{self, Listener};
use holdfast_runtime::{Error, data_core};
use monoio::time::timeout;

#[test]
fn a_stale_listener_is_noticed_and_named() {
    // With SO_REUSEPORT, as an instance of ours has it.
    let stale = socket::bind(any_port(), 2).unwrap();
    let address = stale.local_addr().unwrap();
    match socket::bind(address, 2) {
        Err(Error::AddressInUse {
            address: told,
            holder,
        }) => {
            assert_eq!(told, address.to_string());
            let us = format!("(process {})", std::process::id());
            assert!(
                holder
                    .as_deref()
                    .is_some_and(|holder| holder.ends_with(&us)),
                "{holder:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    drop(stale);
    let again = socket::bind(address, 3).unwrap();
    assert_eq!(
        (again.local_addr(), again.into_listeners().len()),
        (Some(address), 3)
    );
    // Somebody else's without the option.
    let other = std::net::TcpListener::bind(any_port()).unwrap();
    assert!(matches!(
        socket::bind(other.local_addr().unwrap(), 1),
        Err(Error::AddressInUse { .. })
    ));
    let error = socket::bind("192.0.2.1:80".parse().unwrap(), 1)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot listen on 192.0.2.1:80: "),
        "{error}"
    );
}

#[test]
fn a_restart_binds_while_old_connections_linger() {
    let group = socket::bind(any_port(), 1).unwrap();
    let address = group.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    on_core(ring(), move || async move {
        let listener = Listener::new(group.into_listeners().pop().unwrap()).unwrap();
        let accepted = listener.accept().await.unwrap();
        // We close first: the connection lingers in TIME_WAIT on our side.
        drop(accepted);
        monoio::time::sleep(Duration::from_millis(20)).await;
        listener.close();
        sender.send(socket::bind(address, 2).is_ok()).unwrap();
    });
    assert!(receiver.recv_timeout(LONG).unwrap(), "free at once");
    drop(client);
}

/// Listens in a process of its own until it is killed.
#[test]
#[ignore = "started by a_restart_waits_for_the_ring_of_the_dead"]
fn helper_listens() {
    let group = socket::bind(any_port(), 1).unwrap();
    println!("listening on {}", group.local_addr().unwrap());
    on_core(ring(), move || async move {
        let listener = Listener::new(group.into_listeners().pop().unwrap()).unwrap();
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
}

#[test]
fn a_restart_waits_for_the_ring_of_the_dead() {
    for _ in 0..5 {
        let mut process = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "helper_listens"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| {
                line.split("listening on ")
                    .nth(1)
                    .map(|a| a.trim().to_owned())
            })
            .expect("it listens");
        let address: std::net::SocketAddr = address.parse().unwrap();
        let _clients: Vec<_> = (0..50)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(
            socket::bind(address, 2).unwrap().local_addr(),
            Some(address)
        );
    }
}

#[test]
fn all_cores_of_a_group_accept_and_none_is_lost() {
    for driver in drivers() {
        const CONNECTIONS: usize = 400;
        let group = socket::bind(any_port(), 4).unwrap();
        let address = group.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let cores: Vec<_> = group
            .into_listeners()
            .into_iter()
            .map(|bound| {
                let accepted = accepted.clone();
                let serve = move || async move {
                    let listener = Listener::new(bound).unwrap();
                    assert_eq!(listener.local_addr(), Some(address));
                    let mine = Cell::new(0);
                    while accepted.load(Ordering::SeqCst) < CONNECTIONS {
                        // Dropped again and again: no connection may be lost by it.
                        let Ok(next) = timeout(Duration::from_millis(1), listener.accept()).await
                        else {
                            continue;
                        };
                        let next = next.unwrap();
                        assert!(next.peer.is_some_and(|peer| peer.ip().is_loopback()));
                        assert_eq!(next.peer, next.stream.peer_addr());
                        assert!(socket2::SockRef::from(&next.stream).tcp_nodelay().unwrap());
                        mine.set(mine.get() + 1);
                        monoio::spawn(async move {
                            let (read, buffer) = next.stream.read(Buffer::take()).await;
                            if read.unwrap() > 0 {
                                next.stream.write_all(buffer).await.0.unwrap();
                            }
                        });
                        accepted.fetch_add(1, Ordering::SeqCst);
                    }
                    assert!(
                        mine.get() > CONNECTIONS / 16,
                        "the kernel spreads them: {}",
                        mine.get()
                    );
                    monoio::time::sleep(Duration::from_millis(200)).await;
                };
                data_core::spawn(spec("core", driver.clone()), serve).unwrap()
            })
            .collect();
        let clients: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || {
                    for _ in 0..CONNECTIONS / 4 {
                        let mut client = TcpStream::connect(address).unwrap();
                        client.set_read_timeout(Some(LONG)).unwrap();
                        client.write_all(b"hello").unwrap();
                        let mut got = [0; 5];
                        client.read_exact(&mut got).unwrap();
                        assert_eq!(&got, b"hello");
                    }
                })
            })
            .collect();
        clients
            .into_iter()
            .for_each(|client| client.join().unwrap());
        cores.into_iter().for_each(|core| core.join().unwrap());
    }
}

#[test]
fn unix_sockets_too_and_a_dead_socket_file_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "left behind");
    let group = socket::bind_unix(&path, 2).unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(
        socket::bind_unix(&file, 1),
        Err(Error::Listen { .. })
    ));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"hi").unwrap();
    assert!(matches!(
        socket::bind_unix(&path, 2),
        Err(Error::AddressInUse { .. })
    ));
    on_core(ring(), move || async move {
        let listener = Listener::new(group.into_listeners().pop().unwrap()).unwrap();
        let accepted = listener.accept().await.unwrap();
        assert!(accepted.peer.is_none() && accepted.stream.is_unix());
        let (read, buffer) = accepted.stream.read(Buffer::take()).await;
        assert_eq!((read.unwrap(), buffer.as_slice()), (2, &b"hi"[..]));
    });
}

/// Runs in a process of its own: it lowers the limit of open files.
#[test]
#[ignore = "started by descriptors_that_run_out_pause_the_accepting"]
fn helper_out_of_descriptors() {
    on_both(|| async {
        let group = socket::bind(any_port(), 1).unwrap();
        let address = group.local_addr().unwrap();
        let listener = Listener::new(group.into_listeners().pop().unwrap()).unwrap();
        let waiting = TcpStream::connect(address).unwrap();
        let mut hoard = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
        }
        let began = std::time::Instant::now();
        for _ in 0..3 {
            let error = listener.accept().await.unwrap_err();
            assert!(socket::is_exhausted(&error), "{error}");
        }
        assert!(began.elapsed() >= 3 * socket::EXHAUSTED_PAUSE, "it pauses");
        hoard.truncate(hoard.len() - 4);
        let accepted = listener.accept().await.unwrap();
        assert_eq!(accepted.peer, waiting.local_addr().ok());
    });
}

#[test]
fn descriptors_that_run_out_pause_the_accepting() {
    let helper = std::env::current_exe().unwrap();
    let command = format!(
        "ulimit -n 100; exec {} --ignored --exact --nocapture helper_out_of_descriptors",
        helper.display()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &command])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}"
    );
}

#[test]
fn connections_can_go_to_the_core_of_the_cpu_that_they_come_by() {
    let cpus = core_affinity::get_core_ids().unwrap();
    let group = socket::bind(any_port(), 2).unwrap();
    let address = group.local_addr().unwrap();
    // The second listener is that of the CPU which the client below runs on; the first of one that
    // is not there.
    let here = cpus[0].id;
    group.steer_by_cpu(&[Some(4095), Some(here)]).unwrap();
    let [first, second] = <[_; 2]>::try_from(group.into_listeners()).unwrap();
    std::thread::spawn(move || {
        assert!(core_affinity::set_for_current(core_affinity::CoreId {
            id: here
        }));
        let open: Vec<_> = (0..20)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        open.len()
    })
    .join()
    .unwrap();
    on_core(drivers()[0].clone(), move || async move {
        let second = Listener::new(second).unwrap();
        for _ in 0..20 {
            second.accept_now().expect("all came to the second");
        }
        let first = Listener::new(first).unwrap();
        assert!(first.accept_now().is_err(), "and none to the first");
    });
}
