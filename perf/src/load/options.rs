//! What a run is asked to do.
//!
//! Owns the arguments of `load`; main thread, before any thread is started. Tested by the smoke
//! test.

use std::net::SocketAddr;
use std::time::Duration;

use crate::args::Args;
use crate::jar::Jar;
use crate::watch::Group;

/// Usage.
pub const HELP: &str = "\
holdfast-perf load --to ADDRESS:PORT
 what to send
  --connections 64      keep-alive connections, over all threads
  --new-connections     a new connection for every request (each sends Connection: close)
  --rate R              R requests a second in all, evenly; latency is measured from the time a
                        request was due. Default: each connection sends as soon as it can
  --path /  --method GET  --host ADDRESS:PORT  --body 0  --header 'A: b' (repeatable)
 as whom
  --clients N           virtual clients with a cookie jar each, taken in turn by all connections;
                        they learn Set-Cookie
  --mint NAME[:LENGTH]  gives each client a cookie of that name, the same in every run (length 74)
  --cookies FILE        clients with these Cookie lines, one a line
  --jar-out FILE        writes the jars at the end, for --cookies
  --fixed-jar           ignore Set-Cookie
  --affinity            an X-Upstream other than a client's first is an error
 how long
  --warm 0s | --warm-requests 0     before the window
  --duration 5s | --requests N      the window; N requests are sent exactly, warm-up included
  --timeout 10s         ends a run in which nothing moves; older requests are errors at the end
 and
  --threads 1           load threads, a ring each
  --read-buffer 16KiB   bytes read at once
  --watch NAME=PID,PID  CPU a request and memory of these processes over the window (repeatable)
  --json                one line of JSON
";

/// How requests are started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// As soon as the connection is free.
    Closed,
    /// At this many a second in all.
    Rate(f64),
}

/// How the window ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// After this time.
    Duration(Duration),
    /// After this many requests in all, warm-up included.
    Requests(u64),
}

/// See [`HELP`].
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Options {
    pub to: SocketAddr,
    pub connections: usize,
    pub new_connections: bool,
    pub mode: Mode,
    /// Head up to where the Cookie line goes, without the empty line.
    pub head: Vec<u8>,
    pub to_head: bool,
    pub body: usize,
    pub clients: usize,
    pub mint: Option<(String, usize)>,
    pub cookies: Option<String>,
    pub jar_out: Option<String>,
    pub fixed_jar: bool,
    pub affinity: bool,
    pub warm: Duration,
    pub warm_requests: u64,
    pub window: Window,
    pub timeout: Duration,
    pub threads: usize,
    pub read_buffer: usize,
    pub watch: Vec<Group>,
    pub json: bool,
}

impl Options {
    /// Reads the arguments.
    ///
    /// # Errors
    /// On wrong usage.
    pub fn parse(mut args: Args) -> Result<Self, String> {
        let to = args.address("--to")?;
        let method = args.value("--method")?;
        let path = args.value("--path")?.unwrap_or_else(|| "/".into());
        let host = args.value("--host")?.unwrap_or_else(|| to.to_string());
        let headers = args.values("--header")?;
        let body = args.size("--body", 0)?;
        let new_connections = args.flag("--new-connections");
        let method = method.unwrap_or_else(|| if body > 0 { "POST" } else { "GET" }.to_owned());
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        for header in &headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        if body > 0 {
            head.push_str(&format!("Content-Length: {body}\r\n"));
        }
        if new_connections {
            head.push_str("Connection: close\r\n");
        }
        let mint = args
            .value("--mint")?
            .map(|text| match text.split_once(':') {
                None => Ok((text, 74)),
                Some((name, length)) => match length.parse() {
                    Ok(length) => Ok((name.to_owned(), length)),
                    Err(_) => Err(format!("--mint: `{length}` is no length")),
                },
            });
        let requests = args.number("--requests", 0)?;
        let window = match requests {
            0 => Window::Duration(args.duration("--duration", Duration::from_secs(5))?),
            n => Window::Requests(n),
        };
        let rate = args.parsed("--rate", 0.0, |t| {
            t.parse().ok().filter(|r: &f64| r.is_finite() && *r >= 0.0)
        })?;
        let watch = args
            .values("--watch")?
            .iter()
            .map(|text| Group::parse(text).ok_or(format!("--watch NAME=PID,PID, not `{text}`")))
            .collect::<Result<_, _>>()?;
        let options = Self {
            to,
            connections: args.number("--connections", 64)?.max(1) as usize,
            new_connections,
            mode: if rate > 0.0 {
                Mode::Rate(rate)
            } else {
                Mode::Closed
            },
            head: head.into_bytes(),
            to_head: method == "HEAD",
            body,
            clients: args.number("--clients", 0)? as usize,
            mint: mint.transpose()?,
            cookies: args.value("--cookies")?,
            jar_out: args.value("--jar-out")?,
            fixed_jar: args.flag("--fixed-jar"),
            affinity: args.flag("--affinity"),
            warm: args.duration("--warm", Duration::ZERO)?,
            warm_requests: args.number("--warm-requests", 0)?,
            window,
            timeout: args.duration("--timeout", Duration::from_secs(10))?,
            threads: args.number("--threads", 1)?.max(1) as usize,
            read_buffer: args.size("--read-buffer", 16 * 1024)?.max(1024),
            watch,
            json: args.flag("--json"),
        };
        args.finish()?;
        if options.connections < options.threads {
            return Err("fewer --connections than --threads".into());
        }
        if matches!(window, Window::Requests(n) if n <= options.warm_requests) {
            return Err("--requests includes --warm-requests and must be more".into());
        }
        Ok(options)
    }

    /// One jar a thread.
    ///
    /// # Errors
    /// When the file of cookies can't be read.
    pub fn jars(&self) -> Result<Vec<Jar>, String> {
        if let Some(path) = &self.cookies {
            let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
            let lines: Vec<_> = text.lines().collect();
            return Ok((0..self.threads)
                .map(|thread| {
                    let (from, to) = share(lines.len(), self.threads, thread);
                    Jar::from_lines(lines.get(from..to).unwrap_or_default().iter().copied())
                })
                .collect());
        }
        Ok((0..self.threads)
            .map(|thread| {
                let (from, to) = share(self.clients, self.threads, thread);
                match &self.mint {
                    Some((name, length)) => Jar::minted(name, *length, from as u64, to - from),
                    None => Jar::empty(to - from),
                }
            })
            .collect())
    }

    /// Whether requests carry cookies at all.
    pub fn has_clients(&self) -> bool {
        self.clients > 0 || self.cookies.is_some()
    }
}

/// The part of `total` that thread `index` of `threads` takes: from, to.
pub fn share(total: usize, threads: usize, index: usize) -> (usize, usize) {
    (total * index / threads, total * (index + 1) / threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(Args::new(text.split_whitespace().map(str::to_owned)))
    }

    #[test]
    fn heads_and_shares() {
        let o = parse("--to 127.0.0.1:80 --path /a --body 3 --header A:b --threads 2 --clients 5");
        let o = o.unwrap();
        assert_eq!(
            String::from_utf8(o.head.clone()).unwrap(),
            "POST /a HTTP/1.1\r\nHost: 127.0.0.1:80\r\nA:b\r\nContent-Length: 3\r\n"
        );
        let sizes: Vec<_> = o.jars().unwrap().iter().map(Jar::len).collect();
        assert_eq!(sizes, [2, 3]);
    }

    #[test]
    fn wrong_usage() {
        for wrong in [
            "",
            "--to x",
            "--to :1 --connections 1 --threads 2",
            "--to :1 --rate -1",
            "--to :1 --requests 5 --warm-requests 5",
            "--to :1 --mint a:b",
            "--to :1 --watch a",
            "--to :1 --bogus",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
