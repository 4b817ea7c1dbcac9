//! A bare relay of bytes: the floor that a proxy on monoio is measured against.
//!
//! `relay LISTEN UPSTREAM [BUFFER_BYTES] [CPU] [turns|duplex]`: one connection to the upstream is
//! kept for each client connection. It knows no framing. In `turns` bytes go read, write, read, write
//! (a request, then its answer), so each must fit in one read; in `duplex` each direction has a task
//! of its own, and answers may be of any length.

use std::io;
use std::net::SocketAddr;

use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, Splitable};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

async fn turns(mut client: TcpStream, mut server: TcpStream, size: usize) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(size);
    loop {
        let (read, filled) = client.read(buffer).await;
        if read? == 0 {
            return Ok(());
        }
        let (written, filled) = server.write_all(filled).await;
        written?;
        let (read, filled) = server.read(filled).await;
        if read? == 0 {
            return Ok(());
        }
        let (written, filled) = client.write_all(filled).await;
        written?;
        buffer = filled;
    }
}

async fn one_way(
    mut from: impl AsyncReadRent,
    mut to: impl AsyncWriteRent,
    size: usize,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(size);
    loop {
        let (read, filled) = from.read(buffer).await;
        if read? == 0 {
            return to.shutdown().await;
        }
        let (written, filled) = to.write_all(filled).await;
        written?;
        buffer = filled;
    }
}

async fn serve(
    client: TcpStream,
    upstream: SocketAddr,
    size: usize,
    duplex: bool,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect_addr(upstream).await?;
    server.set_nodelay(true)?;
    if !duplex {
        return turns(client, server, size).await;
    }
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    monoio::spawn(async move {
        let _ = one_way(client_read, server_write, size).await;
    });
    one_way(server_read, client_write, size).await
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (arguments.next(), arguments.next()) else {
        return Err("usage: relay LISTEN UPSTREAM [BUFFER_BYTES] [CPU] [turns|duplex]".into());
    };
    let (listen, upstream): (SocketAddr, SocketAddr) = (listen.parse()?, upstream.parse()?);
    let size = arguments.next().map_or(Ok(65_536), |size| size.parse())?;
    let cpu = arguments.next().map_or(Ok(0), |cpu| cpu.parse())?;
    let duplex = arguments.next().is_some_and(|mode| mode == "duplex");
    if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
        eprintln!("relay: could not pin to CPU {cpu}");
    }
    let mut ring = io_uring::IoUring::builder();
    ring.setup_coop_taskrun()
        .setup_single_issuer()
        .setup_defer_taskrun();
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .uring_builder(ring)
        .with_entries(1024)
        .build()?;
    runtime.block_on(async move {
        let options = ListenerOpts::new()
            .reuse_addr(true)
            .reuse_port(false)
            .backlog(4096);
        let listener = TcpListener::bind_with_config(listen, &options)?;
        loop {
            let (client, _) = listener.accept().await?;
            monoio::spawn(async move {
                let _ = serve(client, upstream, size, duplex).await;
            });
        }
    })
}
