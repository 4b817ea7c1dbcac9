//! Upstreams by DNS name: looked up at the start, and again every [`EVERY`].
//!
//! Owns one task a distinct name and port, and the last good addresses of each. Runs on the control
//! thread; the look-up itself (getaddrinfo) on a thread of tokio's blocking pool.
//!
//! Invariants: a failed look-up keeps the last good addresses and is told once, until the name
//! resolves again. A look-up that hangs is waited for before the next begins, so that hanging ones
//! don't pile up. The same addresses in another order are no change: resolvers rotate.
//!
//! Deliberately no DNS client of its own: `/etc/hosts`, search domains and NSS hold as for any other
//! program, and the TTL of an answer is not known.
//! Tested below: the judgement on answers, and a real look-up of `localhost`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::plan::{Plan, UpstreamAddress};
use tokio::sync::mpsc;

use crate::log;
use crate::message::UpstreamRef;

/// Pause between two look-ups of a name.
pub const EVERY: Duration = Duration::from_secs(10);

/// When a look-up counts as failed, though it is still waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Addresses kept of one name.
const ADDRESSES: usize = 64;

/// A name, as a position in the list of distinct ones.
pub type NameId = usize;

/// What a look-up brought: addresses, or why there are none.
pub type Answer = Result<Vec<SocketAddr>, String>;

struct Name {
    host: String,
    port: u16,
    upstreams: Vec<UpstreamRef>,
    addresses: Arc<[SocketAddr]>,
    answered: bool,
    failing: bool,
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

/// All names of a plan. See the module.
pub struct Names {
    names: Vec<Name>,
    errors: u64,
}

impl Names {
    /// The names of a plan; none is looked up yet.
    pub fn new(plan: &Plan) -> Self {
        let mut names: Vec<Name> = Vec::new();
        let mut known: HashMap<(String, u16), NameId> = HashMap::new();
        for (s, service) in plan.services.iter().enumerate() {
            for (u, upstream) in service.upstreams.iter().enumerate() {
                let UpstreamAddress::Name(host, port) = &upstream.address else {
                    continue;
                };
                let id = *known.entry((host.clone(), *port)).or_insert_with(|| {
                    names.push(Name {
                        host: host.clone(),
                        port: *port,
                        upstreams: Vec::new(),
                        addresses: Arc::from([]),
                        answered: false,
                        failing: false,
                    });
                    names.len() - 1
                });
                names[id].upstreams.push(UpstreamRef {
                    service: s as u32,
                    upstream: u as u32,
                });
            }
        }
        Self { names, errors: 0 }
    }

    /// Starts the look-ups; each answer goes to `answers`. Within the control thread's runtime.
    pub fn start(&self, answers: &mpsc::Sender<(NameId, Answer)>) {
        for (id, name) in self.names.iter().enumerate() {
            tokio::spawn(look_up_again_and_again(
                id,
                name.host.clone(),
                name.port,
                answers.clone(),
            ));
        }
    }

    /// Takes an answer. `Some`: these upstreams are now at these addresses.
    pub fn answered(
        &mut self,
        id: NameId,
        answer: Answer,
    ) -> Option<(&[UpstreamRef], Arc<[SocketAddr]>)> {
        let name = self.names.get_mut(id)?;
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
        let upstream = |n| UpstreamRef {
            service: 0,
            upstream: n,
        };
        let name = |host: &str, upstreams| Name {
            host: host.into(),
            port: 80,
            upstreams,
            addresses: Arc::from([]),
            answered: false,
            failing: false,
        };
        Names {
            names: vec![
                name("localhost", vec![upstream(0), upstream(2)]),
                name("b", vec![upstream(1)]),
            ],
            errors: 0,
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
        assert_eq!(
            upstreams.iter().map(|u| u.upstream).collect::<Vec<_>>(),
            [0, 2]
        );
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
