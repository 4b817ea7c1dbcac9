//! Session headers of requests that go upstream.
//!
//! Owns their names, made once from `session.forward.prefix`. Pure but for the core's shard.

use holdfast_config::plan::Forward;
use holdfast_runtime::buffers::Buffer;

use super::Live;
use crate::accept::Conn;
use crate::core::Core;
use crate::identify::Request;
use crate::metrics::Metric;
use crate::text::{Sink, write_number};

/// Names, as they are written.
#[derive(Debug)]
pub struct HeaderNames {
    /// The prefix.
    pub prefix: String,
    /// Name of the header with the sid.
    pub id_name: String,
    /// The whole line that says that the token was refused.
    pub refused: Vec<u8>,
    id: Vec<u8>,
    new: Vec<u8>,
    version: Vec<u8>,
    data: Vec<u8>,
    omitted: Vec<u8>,
    conflict: Vec<u8>,
    max_header: usize,
}

impl HeaderNames {
    /// For a prefix.
    pub fn new(forward: &Forward) -> Self {
        let line = |rest: &str| format!("{}{rest}", forward.prefix).into_bytes();
        Self {
            prefix: forward.prefix.clone(),
            id_name: format!("{}ID", forward.prefix),
            refused: line("State: refused\r\n"),
            id: line("ID: "),
            new: line("New: 1\r\n"),
            version: line("Version: "),
            data: line("Data: "),
            omitted: line("Data-Omitted: size\r\n"),
            conflict: line("Conflict: 1\r\n"),
            max_header: forward.max_header,
        }
    }

    /// Writes the lines of a session.
    pub fn write(
        &self,
        core: &Core,
        conn: &Conn,
        request: &Request,
        live: &Live,
        out: &mut Buffer,
    ) {
        out.put(&self.id);
        out.put(&live.sid.text());
        out.put(b"\r\n");
        if live.new {
            out.put(&self.new);
        }
        out.put(&self.version);
        write_number(live.version, out);
        out.put(b"\r\n");
        if live.conflict {
            out.put(&self.conflict);
        }
        core.with_scratch(|json| {
            live.write_json(core, json);
            if let Some(computed) = &conn.generation.computed {
                computed.add(core, conn, request, live.built_in(core), json);
            }
            if json.is_empty() {
                return;
            }
            if json.len() > self.max_header {
                core.metrics().count(Metric::DataOmitted);
                out.put(&self.omitted);
                return;
            }
            out.put(&self.data);
            out.put(json);
            out.put(b"\r\n");
        });
    }
}
