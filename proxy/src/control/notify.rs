//! Tells a service manager how the process stands (`sd_notify`): a datagram to `$NOTIFY_SOCKET`.
//!
//! Owns nothing. Called by the control thread. A manager that does not listen is no error: the
//! gateway then runs without one. It deliberately keeps no time: the loop beats far more often than any
//! watchdog asks for.
//!
//! Tested below against a socket in a folder and one in the abstract namespace.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use holdfast_runtime::clock;

/// Sends `state`, such as `READY=1`, if a manager asked for it.
pub fn notify(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(&socket, state)
    {
        crate::log::warn(format!(
            "the service manager can't be told {state}: {error}"
        ));
    }
}

/// Says that the configuration is being taken again; `READY=1` says that this is over (sd_notify(3)).
pub fn reloading() {
    let now = clock::monotonic_ns() / 1_000;
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
}

/// Tells the manager's watchdog, if it set one, that all is well.
pub fn beat() {
    if std::env::var_os("WATCHDOG_USEC").is_some() {
        notify("WATCHDOG=1");
    }
}

/// `@name` is a socket of the abstract namespace, anything else a path.
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(datagram: &UnixDatagram) -> String {
        datagram
            .set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
        let mut buffer = [0; 64];
        let n = datagram.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    #[test]
    fn reaches_a_path_and_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(received(&listener), "READY=1");

        let name = format!("holdfast-test-{}", std::process::id());
        let listener =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        assert_eq!(received(&listener), "STOPPING=1");
    }

    #[test]
    fn an_absent_manager_is_an_error_of_send_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(send(folder.path().join("none").as_os_str(), "READY=1").is_err());
    }
}
