//! Signals, as the control loop sees them.
//!
//! Owns the process's handlers for the signals below; installed and awaited by the control thread.
//! SIGPIPE is ignored since the process started (the standard library sees to it), so a closed peer
//! is an error of a write. The hand-over is not built yet: SIGUSR2 is taken, so that its default action
//! doesn't end the process, and says so.
//!
//! Deliberately not here: what a signal leads to ([`super::shutdown`], [`super::log`]).
//! Tested below with real signals to this process.

use std::io;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caught {
    /// SIGTERM.
    Terminate,
    /// SIGINT: a person. Supervisors send SIGTERM.
    Interrupt,
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    ReopenLog,
    /// SIGUSR2.
    Upgrade,
}

/// All handlers.
#[derive(Debug)]
pub struct Signals([(Caught, Signal); 5]);

impl Signals {
    /// Installs the handlers. Within a tokio runtime with I/O.
    ///
    /// # Errors
    /// Those of sigaction(2) and of the pipe behind it.
    pub fn install() -> io::Result<Self> {
        Ok(Self([
            (Caught::Terminate, signal(SignalKind::terminate())?),
            (Caught::Interrupt, signal(SignalKind::interrupt())?),
            (Caught::Reload, signal(SignalKind::hangup())?),
            (Caught::ReopenLog, signal(SignalKind::user_defined1())?),
            (Caught::Upgrade, signal(SignalKind::user_defined2())?),
        ]))
    }

    /// The next signal.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Caught> {
        for (caught, signal) in &mut self.0 {
            if let Poll::Ready(Some(())) = signal.poll_recv(cx) {
                return Poll::Ready(*caught);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn signals_arrive_as_what_they_are() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut signals = Signals::install().unwrap();
            for (name, caught) in [
                ("USR1", Caught::ReopenLog),
                ("HUP", Caught::Reload),
                ("USR2", Caught::Upgrade),
            ] {
                let kill = format!("kill -s {name} {}", std::process::id());
                let sent = std::process::Command::new("sh")
                    .args(["-c", &kill])
                    .status()
                    .unwrap();
                assert!(sent.success());
                let next = std::future::poll_fn(|cx| signals.poll_next(cx));
                assert_eq!(
                    tokio::time::timeout(Duration::from_secs(10), next)
                        .await
                        .unwrap(),
                    caught
                );
            }
        });
    }
}
