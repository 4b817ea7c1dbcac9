//! TLS: clients and upstreams of others (OpenSSL, curl, Python) against the gateway's.

mod certificates;
mod clients;
mod hostile;
mod upstreams;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::{Gateway, Launch, Reply, Upstream, script, service};

/// Certificates made for one test.
pub struct Certs(tempfile::TempDir);

impl Certs {
    /// With an authority `ca`.
    pub fn new() -> Self {
        let certs = Self(tempfile::tempdir().expect("a directory"));
        certs.authority("ca");
        certs
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, words: &str) {
        let output = Command::new("sh")
            .args(["-c", &format!("openssl {words}")])
            .current_dir(self.0.path())
            .output()
            .expect("a shell");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {words}: {said}");
    }

    /// One more authority.
    pub fn authority(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.pem \
             -days 3 -subj '/CN={name}'"
        ));
    }

    /// A certificate `name`.pem with `name`.key, signed by `ca`, for these names (`DNS:a,IP:…`).
    pub fn issue(&self, name: &str, ca: &str, kind: &str, names: &str, subject: &str) {
        let key = match kind {
            "rsa" => "rsa:2048",
            _ => "ec -pkeyopt ec_paramgen_curve:P-256",
        };
        self.openssl(&format!(
            "req -newkey {key} -nodes -utf8 -keyout {name}.key -out {name}.csr -subj '{subject}'"
        ));
        let names = if names.is_empty() {
            "DNS:client"
        } else {
            names
        };
        std::fs::write(self.path("ext"), format!("subjectAltName={names}\n")).expect("a file");
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days 3 -extfile ext \
             -out {name}.pem"
        ));
    }

    /// The usual one, for localhost.
    pub fn localhost(self) -> Self {
        self.issue(
            "server",
            "ca",
            "ec",
            "DNS:localhost,IP:127.0.0.1",
            "/CN=localhost",
        );
        self
    }

    /// A `tls` block of a listener.
    pub fn block(&self, name: &str, more: &str) -> String {
        format!(
            "{{ certificate: \"{}\", key: \"{}\"{more} }}",
            self.path(&format!("{name}.pem")).display(),
            self.path(&format!("{name}.key")).display()
        )
    }
}

/// Listeners with this value of `tls`.
pub fn listeners(tls: &str) -> String {
    format!("listeners: [{{ address: \"127.0.0.1:0\", tls: {tls} }}]\n")
}

/// A gateway that ends TLS in front of `upstreams`.
pub fn secure(certs: &Certs, upstreams: &[&Upstream], more: &str) -> Gateway {
    let body = format!(
        "{}{}{more}",
        listeners(&certs.block("server", "")),
        service(upstreams)
    );
    Gateway::start(&body)
}

/// Says which headers came, or gives a body back.
pub fn echo() -> Upstream {
    Upstream::new("app", |request| {
        if request.body.is_empty() {
            Reply::ok(format!("{:?}", request.head))
        } else {
            Reply::ok(&request.body)
        }
    })
}

/// What every script begins with.
const PRELUDE: &str = "\
import socket, ssl, os, sys, time
PORT = int(os.environ['PORT'])
def context(low=None, high=None, ca='ca.pem'):
    c = ssl.create_default_context(cafile=os.path.join(os.environ['CERTS'], ca))
    if low: c.minimum_version = low
    if high: c.maximum_version = high
    return c
def plain():
    s = socket.create_connection(('127.0.0.1', PORT), 15)
    return s
def connect(c=None, name='localhost', **more):
    return (c or context()).wrap_socket(plain(), server_hostname=name, **more)
def response(s, carry=b''):
    data = carry
    while b'\\r\\n\\r\\n' not in data:
        more = s.recv(65536)
        assert more, ('ended in the head', data)
        data += more
    head, body = data.split(b'\\r\\n\\r\\n', 1)
    length = int([l for l in head.split(b'\\r\\n') if l.lower().startswith(b'content-length:')][0].split(b':')[1])
    while len(body) < length:
        more = s.recv(65536)
        assert more, 'ended in the body'
        body += more
    assert len(body) == length
    return head.decode('latin-1'), body
def get(s, path='/', more=''):
    s.sendall(('GET %s HTTP/1.1\\r\\nHost: localhost\\r\\n%s\\r\\n' % (path, more)).encode())
    return response(s)
";

/// Runs a program with a script on its standard input; gives what it printed.
#[track_caller]
pub fn run(
    program: &str,
    words: &[&str],
    script: &str,
    gateway: &Gateway,
    certs: &Certs,
) -> String {
    let dir = certs.0.path();
    script::run(program, words, script, "https://localhost", gateway, dir)
}

/// Runs a Python script behind the prelude.
#[track_caller]
pub fn python(script: &str, gateway: &Gateway, certs: &Certs) -> String {
    run(
        "python3",
        &["-"],
        &format!("{PRELUDE}{script}"),
        gateway,
        certs,
    )
}

/// Runs a script of the shell.
#[track_caller]
pub fn shell(script: &str, gateway: &Gateway, certs: &Certs) -> String {
    run("sh", &["-e"], script, gateway, certs)
}
