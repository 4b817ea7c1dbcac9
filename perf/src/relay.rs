//! A bare byte relay: what moving a request's bytes costs when nobody looks at them.
//!
//! Owns its connections: for each client one connection to the upstream, opened when the client is
//! accepted, ended with it; one ring, one thread, the ring flags of [`crate::ring`]. Two shapes:
//! *alternate* (read the client, write the upstream, read the upstream, write the client: four ring
//! operations a request and one task a connection; right as long as a request and its answer each
//! fit the buffer) and *duplex* (both directions at once, for large bodies). Each direction has one
//! buffer of the given size. Parses nothing. Tested by the smoke test.

use std::io;
use std::net::SocketAddr;

use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, Splitable};
use monoio::net::TcpStream;

use crate::args::Args;
use crate::ring;

/// Usage.
pub const HELP: &str = "\
holdfast-perf relay --listen ADDRESS:PORT --to ADDRESS:PORT
  --buffer 4KiB     bytes of buffer a direction
  --duplex          both directions at once (large answers); default: read, write, read, write
  Prints `listening relay ADDRESS:PORT`, then runs until killed.
";

/// The subcommand: never returns while all is well.
///
/// # Errors
/// On wrong usage, or when the address can't be bound.
pub fn main(mut args: Args) -> Result<(), String> {
    let at = args.address("--listen")?;
    let to = args.address("--to")?;
    let buffer = args.size("--buffer", 4096)?.max(64);
    let duplex = args.flag("--duplex");
    args.finish()?;
    let listener = ring::listen(at, false).map_err(|e| format!("{at}: {e}"))?;
    let at = listener.local_addr().map_err(|e| e.to_string())?;
    println!("listening relay {at}");
    ring::run(async move {
        let listener = ring::adopt(listener).map_err(|e| e.to_string())?;
        loop {
            match listener.accept().await {
                Ok((client, _)) => {
                    monoio::spawn(async move {
                        // Either side may go at any time; both are closed then.
                        let _ = relay(client, to, buffer, duplex).await;
                    });
                }
                Err(error) => {
                    eprintln!("accept: {error}");
                    monoio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            }
        }
    })
}

async fn relay(client: TcpStream, to: SocketAddr, size: usize, duplex: bool) -> io::Result<()> {
    let _ = client.set_nodelay(true);
    let upstream = TcpStream::connect_addr(to).await?;
    let _ = upstream.set_nodelay(true);
    if duplex {
        let (client_in, client_out) = client.into_split();
        let (upstream_in, upstream_out) = upstream.into_split();
        let back = monoio::spawn(copy(upstream_in, client_out, size));
        copy(client_in, upstream_out, size).await?;
        return back.await;
    }
    let (mut client, mut upstream) = (client, upstream);
    let mut buffer = Vec::with_capacity(size);
    loop {
        buffer = pass(&mut client, &mut upstream, buffer).await?;
        buffer = pass(&mut upstream, &mut client, buffer).await?;
    }
}

/// One read and the write of what it brought; an error at the end of the stream.
async fn pass<R, W>(from: &mut R, to: &mut W, buffer: Vec<u8>) -> io::Result<Vec<u8>>
where
    R: AsyncReadRent,
    W: AsyncWriteRent,
{
    let (read, buffer) = from.read(buffer).await;
    if read? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (written, buffer) = to.write_all(buffer).await;
    written?;
    Ok(buffer)
}

/// Copies one direction to its end, then passes the end on.
async fn copy<R, W>(mut from: R, mut to: W, size: usize) -> io::Result<()>
where
    R: AsyncReadRent,
    W: AsyncWriteRent,
{
    let mut buffer = Vec::with_capacity(size);
    loop {
        match pass(&mut from, &mut to, buffer).await {
            Ok(back) => buffer = back,
            Err(error) => {
                to.shutdown().await?;
                return if error.kind() == io::ErrorKind::UnexpectedEof {
                    Ok(())
                } else {
                    Err(error)
                };
            }
        }
    }
}
