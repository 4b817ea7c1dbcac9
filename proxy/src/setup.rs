//! What one configuration means to all threads: the plan, and the counters of its routes and upstreams.
//!
//! Made by boot, and again by the control thread at each reload ([`Setup::next`]); read by every thread
//! behind an `Arc`, and freed with the last request that began under it. What a core makes of it for
//! itself is its [`crate::generation::Generation`].
//!
//! Invariants: nothing but counters changes after it is made; an upstream that is in two configurations
//! by service, id and address is one [`Endpoint`] in both, so that its counts and its name in messages
//! ([`UpstreamId`]) go on; so are a route's counters, by the rule's id, and a listener's place, by its
//! address. An id or a place is never given to another.
//!
//! It deliberately holds no state that decides anything: that of upstreams travels as messages.
//! Tested below.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use holdfast_config::plan::{self, Plan};

use crate::attributes::keys::KeySet;
use crate::metrics::{RouteMetrics, UpstreamMetrics};
use crate::session::create::Limiter;
use crate::tls::{Built, Client, Server};

/// Listeners that a process can have had: one that is taken away keeps its place.
pub const MAX_LISTENERS: usize = 4096;

/// An upstream, in messages: the same for as long as its service, id and address stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamId(pub u32);

/// An upstream as all threads see it, through all configurations that have it.
#[derive(Debug)]
pub struct Endpoint {
    /// Its name in messages.
    pub id: UpstreamId,
    /// Exchanges and tunnels in flight over all cores.
    pub active: AtomicU32,
    /// By data core.
    pub cores: Box<[UpstreamMetrics]>,
    /// Where its name led when it came, if it has a name that was known then.
    pub addresses: Option<Arc<[SocketAddr]>>,
}

/// A listener of this configuration, or of an earlier one whose connections may still be there.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its options: the last that it had.
    pub options: plan::Listener,
    /// Which of several with this address it is.
    nth: usize,
    /// It takes connections.
    pub serving: bool,
    /// TLS, where it is spoken: certificates and policy.
    pub tls: Option<Arc<Server>>,
}

/// Where a name leads, as far as that is known.
pub type Resolve<'a> = &'a dyn Fn(&str, u16) -> Option<Arc<[SocketAddr]>>;

/// See the module.
#[derive(Debug)]
pub struct Setup {
    /// Counts configurations from 1.
    pub number: u64,
    /// The configuration.
    pub plan: Arc<Plan>,
    /// By rule, then data core.
    pub routes: Box<[Arc<[RouteMetrics]>]>,
    /// By service, then upstream.
    pub endpoints: Box<[Box<[Arc<Endpoint>]>]>,
    /// By place: what `Conn::listener` is an index into.
    pub listeners: Box<[Place]>,
    /// Keys that tokens are verified with, from the file of the configuration.
    pub keys: Arc<KeySet>,
    /// `creation.limit`, over all cores.
    pub limiter: Option<Arc<Limiter>>,
    /// `guessLimit`, over all cores.
    pub guesses: Option<Arc<Limiter>>,
    /// By service: TLS towards its upstreams.
    clients: Box<[Option<Arc<Client>>]>,
    next_id: u32,
}

impl Setup {
    /// The first configuration of a process. `tls` is what was [built](crate::tls::build_all) of the plan.
    pub fn first(plan: Arc<Plan>, cores: usize, tls: Built) -> Self {
        Self::make(plan, cores, tls, None, &|_, _| None)
    }

    /// The configuration after this one. `resolve` says where a name leads, as far as that is known.
    pub fn next(&self, plan: Arc<Plan>, cores: usize, tls: Built, resolve: Resolve<'_>) -> Self {
        Self::make(plan, cores, tls, Some(self), resolve)
    }

    /// With the [keys](crate::attributes::keys::load) of its file.
    pub fn with_keys(mut self, keys: Arc<KeySet>) -> Self {
        self.keys = keys;
        self
    }

    /// TLS towards the upstreams of a service.
    pub fn client(&self, service: usize) -> Option<&Client> {
        self.clients.get(service)?.as_deref()
    }

    fn make(
        plan: Arc<Plan>,
        cores: usize,
        tls: Built,
        old: Option<&Self>,
        resolve: Resolve<'_>,
    ) -> Self {
        let mut next_id = old.map_or(0, |old| old.next_id);
        let mut endpoint = |service: &plan::Service, upstream: &plan::Upstream| {
            if let Some(known) = old.and_then(|old| old.endpoint(service, upstream)) {
                return Arc::clone(known);
            }
            let id = UpstreamId(next_id);
            next_id += 1;
            Arc::new(Endpoint {
                id,
                active: AtomicU32::new(0),
                cores: (0..cores).map(|_| UpstreamMetrics::default()).collect(),
                addresses: match &upstream.address {
                    plan::UpstreamAddress::Name(name, port) => resolve(name, *port),
                    _ => None,
                },
            })
        };
        let endpoints = plan
            .services
            .iter()
            .map(|s| s.upstreams.iter().map(|u| endpoint(s, u)).collect())
            .collect();
        let route = |rule: &plan::Rule| {
            let known = old.and_then(|old| {
                let at = old.plan.rules.iter().position(|r| r.id == rule.id)?;
                old.routes.get(at).cloned()
            });
            known.unwrap_or_else(|| (0..cores).map(|_| RouteMetrics::default()).collect())
        };
        Self {
            number: old.map_or(1, |old| old.number + 1),
            routes: plan.rules.iter().map(route).collect(),
            endpoints,
            listeners: places(
                &plan.listeners,
                &tls.listeners,
                old.map_or(&[], |old| &old.listeners),
            ),
            clients: tls.services.into_boxed_slice(),
            keys: Arc::default(),
            limiter: limiter(
                &plan,
                |s| s.creation.limit,
                old.and_then(|old| old.limiter.as_ref()),
            ),
            guesses: limiter(
                &plan,
                |s| s.security.guess_limit,
                old.and_then(|old| old.guesses.as_ref()),
            ),
            next_id,
            plan,
        }
    }

    /// An upstream that was there already.
    fn endpoint(
        &self,
        service: &plan::Service,
        upstream: &plan::Upstream,
    ) -> Option<&Arc<Endpoint>> {
        let s = self
            .plan
            .services
            .iter()
            .position(|s| s.name == service.name)?;
        let known = &self.plan.services.get(s)?.upstreams;
        let u = known
            .iter()
            .position(|u| u.id == upstream.id && u.address == upstream.address)?;
        self.endpoints.get(s)?.get(u)
    }

    /// Every upstream: service, position, endpoint.
    pub fn all_endpoints(&self) -> impl Iterator<Item = (usize, usize, &Arc<Endpoint>)> {
        self.endpoints
            .iter()
            .enumerate()
            .flat_map(|(s, of)| of.iter().enumerate().map(move |(u, e)| (s, u, e)))
    }

    /// Whether it has this upstream.
    pub fn has(&self, id: UpstreamId) -> bool {
        self.all_endpoints().any(|(_, _, e)| e.id == id)
    }
}

/// Places for the listeners of a plan. Those that were there keep theirs; of those that are gone the
/// place stays, for the connections that came by it.
fn places(
    listeners: &[plan::Listener],
    tls: &[Option<Arc<Server>>],
    old: &[Place],
) -> Box<[Place]> {
    let mut places: Vec<Place> = old.to_vec();
    for place in &mut places {
        place.serving = false;
    }
    for (i, options) in listeners.iter().enumerate() {
        let nth = listeners
            .iter()
            .take(i)
            .filter(|l| l.address == options.address)
            .count();
        let mut place = Place {
            options: options.clone(),
            nth,
            serving: true,
            tls: tls.get(i).cloned().flatten(),
        };
        let known = |p: &&mut Place| p.options.address == options.address && p.nth == nth;
        match places.iter_mut().find(known) {
            Some(known) => {
                if let (Some(new), Some(old)) = (&place.tls, &known.tls) {
                    place.tls = Some(Arc::clone(new).resuming(old));
                }
                *known = place;
            }
            None => places.push(place),
        }
    }
    places.into_boxed_slice()
}

/// One whose rate is the same goes on counting.
fn limiter(
    plan: &Plan,
    rate: impl Fn(&plan::Session) -> Option<plan::Rate>,
    old: Option<&Arc<Limiter>>,
) -> Option<Arc<Limiter>> {
    let session = plan.session.as_ref()?;
    let (rate, prefix) = (rate(session)?, session.security.ip_prefix);
    old.cloned()
        .filter(|limiter| limiter.is(rate, prefix))
        .or_else(|| Some(Arc::new(Limiter::new(rate, prefix))))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use holdfast_config::{Mode, Source, load};

    use super::*;

    fn plan(text: &str) -> Arc<Plan> {
        let source = Source {
            name: "test".into(),
            text: format!("gateway:\n{text}"),
        };
        let outcome = load(&[source], &|_| None, Mode::Run);
        Arc::new(
            outcome
                .plan
                .unwrap_or_else(|| panic!("{:?}", outcome.errors)),
        )
    }

    fn ids(setup: &Setup) -> Vec<Vec<u32>> {
        let of = |service: &[Arc<Endpoint>]| service.iter().map(|e| e.id.0).collect();
        setup.endpoints.iter().map(|s| of(s)).collect()
    }

    #[test]
    fn upstreams_are_the_same_by_service_id_and_address() {
        let first = Setup::first(
            plan(
                "  services:
    - { name: s, upstreams: [{ id: a, address: \"127.0.0.1:1\" }, { id: b, address: \"127.0.0.1:2\" }] }
    - { name: t, upstreams: [{ id: a, address: \"127.0.0.1:1\" }] }
  router: { rules: [{ path: /s, serviceName: s }, { path: /t, serviceName: t }] }
",
            ),
            2,
            Built::default(),
        );
        assert_eq!(ids(&first), [vec![0, 1], vec![2]]);
        first.endpoints[0][1].active.store(7, Relaxed);
        let second = first.next(
            plan(
                "  services:
    - { name: t, upstreams: [{ id: a, address: \"127.0.0.1:9\" }] }
    - { name: s, upstreams: [{ id: new, address: \"127.0.0.1:1\" }, { id: b, address: \"127.0.0.1:2\" }] }
  router: { rules: [{ path: /t, serviceName: t }, { path: /s, serviceName: s }] }
",
            ),
            2,
            Built::default(),
            &|_, _| None,
        );
        assert_eq!(ids(&second), [vec![3], vec![4, 1]]);
        assert_eq!(second.endpoints[1][1].active.load(Relaxed), 7);
        assert_eq!((first.number, second.number), (1, 2));
        assert!(second.has(UpstreamId(1)) && !second.has(UpstreamId(0)));
        // One that comes back is another: its connections were closed.
        let third = second.next(Arc::clone(&first.plan), 2, Built::default(), &|_, _| None);
        assert_eq!(ids(&third), [vec![5, 1], vec![6]]);
    }

    #[test]
    fn routes_are_the_same_by_id() {
        let rules = |rules: &str| {
            plan(&format!(
                "  services: [{{ name: s, upstreams: [{{ address: \"127.0.0.1:1\" }}] }}]
  router: {{ rules: [{rules}] }}
"
            ))
        };
        let first = Setup::first(
            rules("{ id: x, path: /x, serviceName: s }, { id: y, path: /y, serviceName: s }"),
            1,
            Built::default(),
        );
        first.routes[1][0].finished(200, 1);
        let second = first.next(
            rules("{ id: y, path: /other, serviceName: s }, { id: z, path: /z, serviceName: s }"),
            1,
            Built::default(),
            &|_, _| None,
        );
        assert!(Arc::ptr_eq(&first.routes[1], &second.routes[0]));
        assert_eq!(second.routes[1][0].classes[1].load(Relaxed), 0);
    }

    #[test]
    fn listeners_keep_their_places() {
        let listeners = |addresses: &[&str]| {
            let list: Vec<String> = addresses
                .iter()
                .map(|a| format!("{{ address: \"{a}\" }}"))
                .collect();
            plan(&format!(
                "  listeners: [{}]\n  services: [{{ upstreams: [{{ address: \"127.0.0.1:1\" }}] }}]\n",
                list.join(", ")
            ))
        };
        let shown = |setup: &Setup| -> Vec<(u16, bool)> {
            let of = |p: &Place| (p.options.address.port(), p.serving);
            setup.listeners.iter().map(of).collect()
        };
        let first = Setup::first(
            listeners(&["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:5"]),
            1,
            Built::default(),
        );
        assert_eq!(shown(&first), [(0, true), (0, true), (5, true)]);
        let second = first.next(
            listeners(&["127.0.0.1:6", "127.0.0.1:0"]),
            1,
            Built::default(),
            &|_, _| None,
        );
        assert_eq!(
            shown(&second),
            [(0, true), (0, false), (5, false), (6, true)]
        );
        let third = second.next(
            listeners(&["127.0.0.1:5", "127.0.0.1:6"]),
            1,
            Built::default(),
            &|_, _| None,
        );
        assert_eq!(
            shown(&third),
            [(0, false), (0, false), (5, true), (6, true)]
        );
    }
}
