//! The relay of `relay.rs` on this crate's own parts, to see what they cost.
//!
//! `relay_streams LISTEN UPSTREAM [BUFFER_BYTES] [CPU] [MODE]`, where MODE is `read` (each read armed
//! with a buffer), `ready` (a client is waited for without one, the default), `armed` (deadlines too),
//! `lot` (a client is parked between any two requests) or `tunnel` (all through pipes). A sixth argument
//! `legacy` takes epoll; the variable BUSY_POLL_US sets how long the core spins.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use holdfast_runtime::buffers::{self, Buffer};
use holdfast_runtime::data_core::{self, Spec};
use holdfast_runtime::deadline::Expire;
use holdfast_runtime::parking::{Lot, Why};
use holdfast_runtime::socket::{self, Listener};
use holdfast_runtime::stream::{Stream, Target};
use holdfast_runtime::{probe, splice};

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Read,
    Ready,
    Armed,
    Lot,
    Tunnel,
}

/// One request and its answer.
async fn exchange(
    mode: Mode,
    client: &Stream,
    server: &Stream,
    buffer: Buffer,
) -> std::io::Result<Buffer> {
    let (read, buffer) = client.read(buffer).await;
    if read? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    if mode == Mode::Armed {
        server.arm(LIMIT, Expire::Both);
    }
    let (written, buffer) = server.write_all(buffer).await;
    written?;
    let (read, buffer) = server.read(buffer).await;
    if read? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    if mode == Mode::Armed {
        server.disarm();
        client.arm(LIMIT, Expire::Both);
    }
    let (written, buffer) = client.write_all(buffer).await;
    written?;
    Ok(buffer)
}

async fn serve(mode: Mode, client: Stream, target: Target) -> std::io::Result<()> {
    let server = Stream::connect(&target, LIMIT).await?;
    if mode == Mode::Tunnel {
        splice::tunnel(&client, &server, |_, _| {}).await;
        return Ok(());
    }
    let mut buffer = Buffer::empty();
    loop {
        match mode {
            Mode::Read => {}
            Mode::Armed => {
                client.arm(LIMIT, Expire::Wake);
                if client.slot().until(client.readable()).await.is_none() {
                    return Ok(());
                }
            }
            _ => client.readable().await?,
        }
        if buffer.capacity() == 0 {
            buffer = Buffer::take();
        }
        let back = exchange(mode, &client, &server, buffer).await?;
        buffer = if mode == Mode::Read {
            back
        } else {
            Buffer::empty()
        };
    }
}

async fn watch(lot: Rc<Lot<Rc<Stream>>>) {
    while let Ok(parked) = lot.next().await {
        if parked.why != Why::Readable {
            continue;
        }
        let Ok(client) = Stream::from_fd(parked.fd) else {
            continue;
        };
        let lot = lot.clone();
        monoio::spawn(async move {
            let server = parked.data;
            if exchange(Mode::Lot, &client, &server, Buffer::take())
                .await
                .is_ok()
                && let Ok(fd) = client.into_fd()
            {
                let _ = lot.park(fd, server, LIMIT);
            }
        });
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (arguments.next(), arguments.next()) else {
        return Err("usage: relay_streams LISTEN UPSTREAM [BUFFER_BYTES] [CPU] [MODE]".into());
    };
    let (listen, upstream): (SocketAddr, SocketAddr) = (listen.parse()?, upstream.parse()?);
    let size = arguments.next().map_or(Ok(65_536), |size| size.parse())?;
    let cpu = arguments.next().map_or(Ok(0), |cpu| cpu.parse())?;
    let mode = match arguments.next().as_deref() {
        Some("read") => Mode::Read,
        Some("armed") => Mode::Armed,
        Some("lot") => Mode::Lot,
        Some("tunnel") => Mode::Tunnel,
        _ => Mode::Ready,
    };
    let legacy = arguments.next().is_some_and(|driver| driver == "legacy");
    let report = probe::run(&probe::Wanted {
        legacy,
        ..probe::Wanted::default()
    });
    let bound = socket::bind(listen, 1)?
        .into_listeners()
        .pop()
        .ok_or("no listener")?;
    let busy_poll =
        Duration::from_micros(std::env::var("BUSY_POLL_US").map_or(Ok(0), |us| us.parse())?);
    let spec = Spec {
        name: "relay".to_owned(),
        cpu: Some(cpu),
        driver: report.driver(),
        busy_poll,
    };
    let core = data_core::spawn(spec, move || async move {
        buffers::configure(size, 256);
        let (Ok(listener), Ok(lot)) = (Listener::new(bound), Lot::new().map(Rc::new)) else {
            return;
        };
        monoio::spawn(watch(lot.clone()));
        let target = Target::Tcp(upstream);
        while let Ok(accepted) = listener.accept().await {
            let (target, lot) = (target.clone(), lot.clone());
            monoio::spawn(async move {
                if mode != Mode::Lot {
                    let _ = serve(mode, accepted.stream, target).await;
                } else if let Ok(server) = Stream::connect(&target, LIMIT).await
                    && let Ok(fd) = accepted.stream.into_fd()
                {
                    let _ = lot.park(fd, Rc::new(server), LIMIT);
                }
            });
        }
    })?;
    println!("{:?}", core.got());
    core.join()?;
    Ok(())
}
