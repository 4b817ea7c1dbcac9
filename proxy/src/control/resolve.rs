//! Upstreams by DNS name: looked up at the start, and again every [`EVERY`].
//!
//! Owns one task a distinct name and port, and the last good addresses of each; a name that a reload no
//! longer has loses its task. Runs on the control
//! thread; the look-up itself (getaddrinfo) on a thread of tokio's blocking pool.
//!
//! Invariants: a failed look-up keeps the last good addresses and is told once, until the name
//! resolves again. A look-up that hangs is waited for before the next begins, so that hanging ones
//! don't pile up. The same addresses in another order are no change: resolvers rotate.
//!
//! Deliberately no DNS client of its own: `/etc/hosts`, search domains and NSS hold as for any other
//! program, and the TTL of an answer is not known.
//! Tested below: the judgement on answers, and a real look-up of `localhost`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::plan::UpstreamAddress;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::reload::Known;
use crate::log;
use crate::setup::{Setup, UpstreamId};

/// Pause between two look-ups of a name.
pub const EVERY: Duration = Duration::from_secs(10);

/// When a look-up counts as failed, though it is still waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Addresses kept of one name.
const ADDRESSES: usize = 64;

/// A name; never that of another.
pub type NameId = u64;

/// What a look-up brought: addresses, or why there are none.
pub type Answer = Result<Vec<SocketAddr>, String>;

struct Name {
    id: NameId,
    host: String,
    port: u16,
    upstreams: Vec<UpstreamId>,
    addresses: Arc<[SocketAddr]>,
    answered: bool,
    failing: bool,
    task: Option<AbortHandle>,
}

impl Name {
    fn failed(&mut self, why: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            let rest = if self.addresses.is_empty() {
                "it is not served"
            } else {
                "its last addresses stay in use"
            };
            log::warn(format!(
                "upstream name {} does not resolve ({why}): {rest}",
                self.host
            ));
        }
    }
}

/// All names of a configuration. See the module.
#[derive(Default)]
pub struct Names {
    names: Vec<Name>,
    next: NameId,
    errors: u64,
}

impl Names {
    /// Takes up the names of a configuration: those that are new are looked up from now on, each answer
    /// going to `answers`, and those that are gone no more. Within the control thread's runtime.
    pub fn reload(&mut self, setup: &Setup, answers: &mpsc::Sender<(NameId, Answer)>) {
        let mut old = std::mem::take(&mut self.names);
        for (s, u, endpoint) in setup.all_endpoints() {
            let upstream = setup.plan.services.get(s).and_then(|s| s.upstreams.get(u));
            let Some(UpstreamAddress::Name(host, port)) = upstream.map(|u| &u.address) else {
                continue;
            };
            let is = |name: &Name| name.host == *host && name.port == *port;
            if !self.names.iter().any(is) {
                let name = match old.iter().position(is) {
                    Some(at) => Name {
                        upstreams: Vec::new(),
                        ..old.swap_remove(at)
                    },
                    None => self.begin(host, *port, endpoint.addresses.clone(), answers),
                };
                self.names.push(name);
            }
            if let Some(name) = self.names.iter_mut().find(|name| is(name)) {
                name.upstreams.push(endpoint.id);
            }
        }
        for task in old.into_iter().filter_map(|name| name.task) {
            task.abort();
        }
    }

    fn begin(
        &mut self,
        host: &str,
        port: u16,
        known: Option<Arc<[SocketAddr]>>,
        answers: &mpsc::Sender<(NameId, Answer)>,
    ) -> Name {
        self.next += 1;
        let look_ups = look_up_again_and_again(self.next, host.to_owned(), port, answers.clone());
        Name {
            id: self.next,
            host: host.to_owned(),
            port,
            upstreams: Vec::new(),
            addresses: known.unwrap_or_else(|| Arc::from([])),
            answered: false,
            failing: false,
            task: Some(tokio::spawn(look_ups).abort_handle()),
        }
    }

    /// Where names lead, as far as that is known.
    pub fn known(&self) -> Known {
        let known = self.names.iter().filter(|name| !name.addresses.is_empty());
        known
            .map(|name| ((name.host.clone(), name.port), Arc::clone(&name.addresses)))
            .collect()
    }

    /// Takes an answer. `Some`: these upstreams are now at these addresses.
    pub fn answered(
        &mut self,
        id: NameId,
        answer: Answer,
    ) -> Option<(&[UpstreamId], Arc<[SocketAddr]>)> {
        let name = self.names.iter_mut().find(|name| name.id == id)?;
        name.answered = true;
        let answer = answer.and_then(|some| {
            if some.is_empty() {
                Err("no addresses".to_owned())
            } else {
                Ok(some)
            }
        });
        let mut addresses = match answer {
            Ok(addresses) => addresses,
            Err(why) => {
                self.errors += 1;
                name.failed(&why);
                return None;
            }
        };
        if std::mem::take(&mut name.failing) {
            log::info(format!("{} resolves again", name.host));
        }
        let mut seen = Vec::with_capacity(addresses.len());
        addresses.retain(|address| {
            let new = !seen.contains(address) && seen.len() < ADDRESSES;
            if new {
                seen.push(*address);
            }
            new
        });
        let same = addresses.len() == name.addresses.len()
            && addresses.iter().all(|a| name.addresses.contains(a));
        if same {
            return None;
        }
        name.addresses = Arc::from(addresses);
        Some((&name.upstreams, Arc::clone(&name.addresses)))
    }

    /// Has every name been looked up once, with whatever answer?
    pub fn settled(&self) -> bool {
        self.names.iter().all(|name| name.answered)
    }

    /// Failed look-ups so far.
    pub fn errors(&self) -> u64 {
        self.errors
    }
}

async fn look_up_again_and_again(
    id: NameId,
    host: String,
    port: u16,
    answers: mpsc::Sender<(NameId, Answer)>,
) {
    loop {
        let mut look_up = std::pin::pin!(tokio::net::lookup_host((host.as_str(), port)));
        let answer = match tokio::time::timeout(PATIENCE, &mut look_up).await {
            Ok(answer) => answer,
            Err(_) => {
                let late = Err(format!("no answer within {PATIENCE:?}"));
                if answers.send((id, late)).await.is_err() {
                    return;
                }
                look_up.await
            }
        };
        let answer = answer
            .map(Iterator::collect)
            .map_err(|error| error.to_string());
        if answers.send((id, answer)).await.is_err() {
            return;
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let upstream = UpstreamId;
        let name = |id, host: &str, upstreams| Name {
            id,
            host: host.into(),
            port: 80,
            upstreams,
            addresses: Arc::from([]),
            answered: false,
            failing: false,
            task: None,
        };
        Names {
            names: vec![
                name(0, "localhost", vec![upstream(0), upstream(2)]),
                name(1, "b", vec![upstream(1)]),
            ],
            errors: 0,
            next: 1,
        }
    }

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 80).into()
    }

    #[test]
    fn changes_are_told_and_failures_keep_what_was() {
        let mut names = names();
        let (upstreams, addresses) = names
            .answered(0, Ok(vec![address(1), address(2), address(1)]))
            .unwrap();
        assert_eq!(upstreams.iter().map(|u| u.0).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(&addresses[..], [address(1), address(2)]);
        assert!(!names.settled());

        assert!(
            names
                .answered(0, Ok(vec![address(2), address(1)]))
                .is_none(),
            "another order is no change"
        );
        assert!(names.answered(0, Err("SERVFAIL".into())).is_none());
        assert!(names.answered(0, Ok(vec![])).is_none());
        assert_eq!(&names.names[0].addresses[..], [address(1), address(2)]);
        assert!(
            names
                .answered(0, Ok(vec![address(1), address(2)]))
                .is_none(),
            "back, and the same"
        );

        let (_, addresses) = names.answered(0, Ok(vec![address(3)])).unwrap();
        assert_eq!(&addresses[..], [address(3)]);
        assert!(names.answered(1, Err("NXDOMAIN".into())).is_none());
        assert!(names.settled());
        assert_eq!(names.errors(), 3);
        assert!(names.answered(9, Ok(vec![address(1)])).is_none());
    }

    #[test]
    fn a_name_with_very_many_addresses_is_cut() {
        let mut names = names();
        let many = (0..200).map(address).collect();
        let (_, addresses) = names.answered(0, Ok(many)).unwrap();
        assert_eq!(addresses.len(), ADDRESSES);
    }

    #[test]
    fn localhost_is_looked_up() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (sender, mut answers) = mpsc::channel(4);
            tokio::spawn(look_up_again_and_again(0, "localhost".into(), 80, sender));
            let answer = tokio::time::timeout(Duration::from_secs(10), answers.recv())
                .await
                .unwrap()
                .unwrap();
            let (_, addresses) = (answer.0, answer.1.unwrap());
            assert!(
                addresses
                    .iter()
                    .all(|a| a.ip().is_loopback() && a.port() == 80),
                "{addresses:?}"
            );
        });
        runtime.shutdown_background();
    }
}
