//! gRPC end to end: a client and a server of others, with the gateway between.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::harness::Gateway;

/// A Python gRPC server; it ends with its standard input.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new("python3")
            .args(["-c", include_str!("grpc_server.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout"))
            .read_line(&mut line)
            .expect("its port");
        let port = line
            .trim()
            .parse()
            .expect("the package grpcio; see .ci/tools");
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn unary_calls_and_streams_of_all_kinds_work_through_the_gateway() {
    let server = Server::start();
    let gateway = Gateway::start(&format!(
        "services:\n  - name: app\n    protocol: h2\n    upstreams: [{{ id: a, address: \"127.0.0.1:{}\" }}]\n\
         session: {{ identifier: {{ type: cookie, name: sid }} }}\n",
        server.port
    ));
    let output = Command::new("python3")
        .args(["-c", include_str!("grpc_client.py")])
        .env("PORT", gateway.http.port().to_string())
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.trim(), "done", "{wrong}");
    assert!(
        gateway.metric("upstream_connects_total", &[]) <= 8.0,
        "connections are shared"
    );
    gateway.expect_metric("upstream_errors_total", &[], 0.0);
}
