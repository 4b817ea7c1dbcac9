//! Programs of others, each with a script on its standard input.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Gateway;

/// Runs a program in a folder; gives what it printed. It finds the gateway by `BASE` (with this scheme and
/// host) and `PORT`, and the folder by `CERTS`.
#[track_caller]
pub fn run(
    program: &str,
    words: &[&str],
    script: &str,
    base: &str,
    gateway: &Gateway,
    dir: &Path,
) -> String {
    let port = gateway.http.port();
    let mut child = Command::new(program)
        .args(words)
        .env("BASE", format!("{base}:{port}"))
        .env("PORT", port.to_string())
        .env("CERTS", dir)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} must be installed for this test: {e}"));
    std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), script.as_bytes())
        .expect("the script");
    let output = child.wait_with_output().expect("its end");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {text}\n{said}");
    text
}
