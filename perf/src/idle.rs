//! Many idle keep-alive connections, and what each costs a process in memory.
//!
//! Owns the connections; one ring, one thread. Opens them a few hundred at a time, sends one
//! request on each, then holds them still; memory of the watched processes is read before, while
//! held (once at the start and once at the end, since a gateway may park connections after some
//! seconds), and after they were closed. Reports growth a connection in bytes. A server that ends
//! idle connections meanwhile is noticed and counted. Tested by the smoke test.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;

use crate::args::Args;
use crate::http::{self, Body};
use crate::json::Object;
use crate::ring;
use crate::watch::{Group, Memory};

/// Usage.
pub const HELP: &str = "\
holdfast-perf idle --to ADDRESS:PORT --watch NAME=PID,PID
  --connections 9000
  --rate 0          connections opened a second; 0: as fast as they go
  --hold 15s        how long they are held
  --settle 10s      how long after the close memory is read again
  --path /          the one request on each; `--path none` sends none
  --json
";

/// Connections opened at once.
const AT_ONCE: usize = 256;

/// The subcommand.
///
/// # Errors
/// On wrong usage, when a watched process is gone, or when a connection can't be opened.
pub fn main(mut args: Args) -> Result<(), String> {
    let to = args.address("--to")?;
    let connections = args.number("--connections", 9000)?.max(1) as usize;
    let rate = args.number("--rate", 0)?;
    let hold = args.duration("--hold", Duration::from_secs(15))?;
    let settle = args.duration("--settle", Duration::from_secs(10))?;
    let path = args.value("--path")?.unwrap_or_else(|| "/".into());
    let json = args.flag("--json");
    let watch = args.value("--watch")?.ok_or("--watch is required")?;
    let group = Group::parse(&watch).ok_or("--watch NAME=PID,PID")?;
    args.finish()?;
    let request =
        (path != "none").then(|| format!("GET {path} HTTP/1.1\r\nHost: {to}\r\n\r\n").into_bytes());
    let shape = Shape {
        to,
        connections,
        rate,
        hold,
        settle,
        request,
    };
    let report = ring::run(measure(shape, group))?;
    if json {
        println!("{}", report.json().finish());
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

/// What is held, and how.
struct Shape {
    to: SocketAddr,
    connections: usize,
    /// Opened a second; 0 for no bound.
    rate: u64,
    hold: Duration,
    settle: Duration,
    request: Option<Vec<u8>>,
}

impl Shape {
    /// When connection `number` may be opened, after the start.
    fn due(&self, number: usize) -> Duration {
        match self.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(number as f64 / rate as f64),
        }
    }
}

/// Memory at each stage.
#[derive(Debug)]
struct Report {
    connections: usize,
    lost: usize,
    stages: [(&'static str, Memory); 4],
}

impl Report {
    fn each(&self, stage: usize) -> (f64, f64) {
        let at = |i: usize| self.stages.get(i).map_or(Memory::default(), |s| s.1);
        let (before, now) = (at(0), at(stage));
        let n = self.connections as f64;
        (
            (now.rss as f64 - before.rss as f64) / n,
            (now.anonymous as f64 - before.anonymous as f64) / n,
        )
    }

    fn json(&self) -> Object {
        let mut out = Object::new();
        out.integer("connections", self.connections as u64)
            .integer("lost", self.lost as u64);
        for (i, (name, memory)) in self.stages.iter().enumerate() {
            let mut one = Object::new();
            let (rss, anonymous) = self.each(i);
            one.integer("rss", memory.rss)
                .integer("anonymous", memory.anonymous)
                .number("rss_each", rss)
                .number("anonymous_each", anonymous);
            out.object(name, &one);
        }
        out
    }

    fn text(&self) -> String {
        let mut out = format!("{} connections, {} lost\n", self.connections, self.lost);
        for (i, (name, memory)) in self.stages.iter().enumerate() {
            let (rss, anonymous) = self.each(i);
            out.push_str(&format!(
                "{name:>7}: RSS {:>8} KiB ({rss:>8.0} bytes each), anonymous {:>8} KiB ({anonymous:>8.0} bytes each)\n",
                memory.rss / 1024,
                memory.anonymous / 1024
            ));
        }
        out
    }
}

async fn measure(shape: Shape, group: Group) -> Result<Report, String> {
    let memory = || group.memory().map_err(|e| format!("{}: {e}", group.name));
    let before = memory()?;
    let (hold, settle, connections) = (shape.hold, shape.settle, shape.connections);
    let patience = Duration::from_secs(60) + shape.due(connections);
    let streams = monoio::time::timeout(patience, open_all(Rc::new(shape)))
        .await
        .map_err(|_| "connections don't open".to_owned())??;
    monoio::time::sleep(Duration::from_millis(500)).await;
    let opened = memory()?;
    monoio::time::sleep(hold.saturating_sub(Duration::from_millis(500))).await;
    let kept = memory()?;
    let lost = ended(streams).await;
    monoio::time::sleep(settle).await;
    let closed = memory()?;
    Ok(Report {
        connections,
        lost,
        stages: [
            ("before", before),
            ("opened", opened),
            ("held", kept),
            ("closed", closed),
        ],
    })
}

/// Opens all connections, some at once.
async fn open_all(shape: Rc<Shape>) -> Result<Vec<TcpStream>, String> {
    let next = Rc::new(Cell::new(0));
    let begun = Instant::now();
    let mut openers = Vec::new();
    for _ in 0..AT_ONCE {
        let (shape, next) = (Rc::clone(&shape), Rc::clone(&next));
        openers.push(monoio::spawn(async move {
            let mut opened = Vec::new();
            while next.get() < shape.connections {
                let number = next.get();
                next.set(number + 1);
                let wait = shape.due(number).saturating_sub(begun.elapsed());
                if !wait.is_zero() {
                    monoio::time::sleep(wait).await;
                }
                opened.push(open(shape.to, shape.request.clone()).await?);
            }
            Ok::<_, String>(opened)
        }));
    }
    let mut streams = Vec::with_capacity(shape.connections);
    for opener in openers {
        streams.extend(opener.await?);
    }
    Ok(streams)
}

async fn open(to: SocketAddr, request: Option<Vec<u8>>) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect_addr(to)
        .await
        .map_err(|e| e.to_string())?;
    let Some(request) = request else {
        return Ok(stream);
    };
    stream
        .write_all(request)
        .await
        .0
        .map_err(|e| e.to_string())?;
    let mut input: Vec<u8> = Vec::with_capacity(16 * 1024);
    let mut body: Option<Body> = None;
    let mut all: Vec<u8> = Vec::new();
    loop {
        let (read, back) = stream.read(input).await;
        input = back;
        if read.map_err(|e| e.to_string())? == 0 {
            return Err("closed within the answer".into());
        }
        all.extend_from_slice(&input);
        if body.is_none() {
            let head = http::response_head(&all, false, |_, _| {}).map_err(|e| e.0.to_owned())?;
            let Some(head) = head else { continue };
            if head.close {
                return Err("the answer ends the connection".into());
            }
            all.drain(..head.len);
            body = Some(Body::new(head.framing));
        }
        if let Some(body) = &mut body {
            let used = body.feed(&all).map_err(|e| e.0.to_owned())?;
            all.drain(..used);
            if body.done() {
                return Ok(stream);
            }
        }
    }
}

/// Closes all; how many the server had ended before (a read that is ready at once tells).
async fn ended(streams: Vec<TcpStream>) -> usize {
    let lost = Rc::new(Cell::new(0));
    let mut closing = Vec::with_capacity(streams.len());
    for mut stream in streams {
        let lost = Rc::clone(&lost);
        closing.push(monoio::spawn(async move {
            monoio::select! {
                (read, _) = stream.read(vec![0u8; 1]) => {
                    lost.set(lost.get() + usize::from(matches!(read, Ok(0) | Err(_))));
                }
                () = monoio::time::sleep(Duration::from_millis(5)) => {}
            }
        }));
    }
    for one in closing {
        one.await;
    }
    lost.get()
}
