//! What one data core makes of one configuration: everything on a request's path that a reload changes.
//!
//! Owns the rules, policies, sources, bounds and names of one [`Setup`], and this core's places at its
//! upstreams. Made on the core's thread at the start and at each reload; used there alone. A request
//! goes by one generation from its beginning to its end (`Conn::generation`), whatever comes meanwhile,
//! and its connection takes up the newest before the next request. The last that uses an old one frees
//! it.
//!
//! Invariants: it is immutable but for what choices remember ([`ServiceCore`]); an [`UpstreamCore`] that
//! is in two generations is one and the same, so that its idle connections go on, unless they are made in
//! another way now (TLS, protocol); one that is only in old ones keeps no connection.
//!
//! It deliberately holds nothing that lives as long as the core: that is [`crate::core::Core`].
//! Tested end to end by reloads under load.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use holdfast_config::plan::{self, Limits, Plan};

use crate::accesslog;
use crate::attributes::AttributePlan;
use crate::attributes::computed::Computed;
use crate::boot::ProcessKeys;
use crate::forward::pool::Pool;
use crate::identify::Identity;
use crate::message::UpstreamRef;
use crate::metrics::{RouteMetrics, UpstreamMetrics};
use crate::parse::{HeadLimits, NameRules};
use crate::pin::choose::Candidate;
use crate::pin::hash::hash64;
use crate::pin::policy::{CoreState, RulePolicy};
use crate::pin::rules::Router;
use crate::pin::state::UpstreamState;
use crate::pin::table::{KeyMaker, TableMethod};
use crate::session::headers::HeaderNames;
use crate::setup::{Endpoint, Setup, UpstreamId};
use crate::tls::{Client, Server};

/// Least bounds on the head of a response, whatever `limits` says of requests: an upstream is not a
/// stranger, and many Set-Cookie lines are usual.
const RESPONSE_HEAD_BYTES: usize = 64 * 1024;
const RESPONSE_HEADERS: usize = 256;

/// An upstream on this core, through all generations that have it.
#[derive(Debug)]
pub struct UpstreamCore {
    /// What all threads see of it.
    pub endpoint: Arc<Endpoint>,
    /// Idle connections.
    pub pool: Pool,
    /// The control thread was told of failures and of no success since.
    pub failing: Cell<bool>,
    /// The newest generation does not have it.
    pub retired: Cell<bool>,
    core: usize,
}

impl UpstreamCore {
    fn new(endpoint: &Arc<Endpoint>, core: usize) -> Rc<Self> {
        let pool = Pool::default();
        if let Some(addresses) = &endpoint.addresses {
            pool.set_addresses(Arc::clone(addresses));
        }
        Rc::new(Self {
            endpoint: Arc::clone(endpoint),
            pool,
            failing: Cell::new(false),
            retired: Cell::new(false),
            core,
        })
    }

    /// Its name in messages.
    pub fn id(&self) -> UpstreamId {
        self.endpoint.id
    }

    /// Exchanges and tunnels in flight over all cores.
    #[inline]
    pub fn active(&self) -> &AtomicU32 {
        &self.endpoint.active
    }

    /// This core's counters of it.
    #[inline]
    pub fn metrics(&self) -> &UpstreamMetrics {
        &self.endpoint.cores[self.core]
    }
}

/// A service on this core.
#[derive(Debug)]
pub struct ServiceCore {
    /// Its index in the plan.
    pub index: u32,
    /// What its table pins are kept under: of its name, so that it outlives positions.
    pub pins: u32,
    /// Its upstreams as a choice sees them.
    pub candidates: RefCell<Vec<Candidate>>,
    /// Rotation and drains.
    pub state: RefCell<CoreState>,
    /// By position.
    pub upstreams: Box<[Rc<UpstreamCore>]>,
    /// How they are spoken to by TLS, with the core's own memory of sessions.
    tls: Option<Client>,
}

/// A listener's part: see [`Setup::listeners`].
#[derive(Debug)]
pub struct ListenerCore {
    /// Bounds on the heads of its requests.
    pub head_limits: HeadLimits,
}

/// See the module.
pub struct Generation {
    /// [`Setup::number`]: what a connection compares at each request.
    pub number: u64,
    /// What all threads see of this configuration.
    pub setup: Arc<Setup>,
    /// The configuration.
    pub plan: Arc<Plan>,
    /// Sources and keys.
    pub identity: Identity,
    /// Rules.
    pub router: Router,
    /// By rule.
    pub policies: Box<[Rc<RulePolicy>]>,
    /// Makers of the keys of table pins that are a session's, with the service of each
    /// ([`ServiceCore::pins`]): such pins end with it.
    pub session_pins: Vec<(u32, KeyMaker)>,
    /// By place.
    pub listeners: Box<[ListenerCore]>,
    /// Bounds on response heads.
    pub response_limits: HeadLimits,
    /// Host for requests of HTTP/1.0 clients that name none.
    pub default_host: Box<[u8]>,
    /// Names of session headers, where they are on.
    pub names: Option<HeaderNames>,
    /// What requests say about their sessions, where something is asked of them.
    pub attributes: Option<AttributePlan>,
    /// Computed attributes, where there are some.
    pub computed: Option<Computed>,
    /// How exchanges are logged, if they are.
    pub log: Option<accesslog::Format>,
    /// By service.
    pub services: Box<[ServiceCore]>,
    core: usize,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Generation {
    /// For core `core` of `cores`, at `now_ms` of its steady clock. Of `old`, the generation before,
    /// upstreams keep their connections, states and drains.
    pub fn new(
        setup: Arc<Setup>,
        core: usize,
        cores: usize,
        keys: &ProcessKeys,
        old: Option<&Self>,
        now_ms: u64,
    ) -> Self {
        let plan = Arc::clone(&setup.plan);
        let services = plan
            .services
            .iter()
            .zip(&setup.endpoints)
            .enumerate()
            .map(|(i, (service, endpoints))| {
                let mut made = ServiceCore::new(i, service, endpoints, core, cores);
                made.tls = setup.client(i).map(|client| client.for_core());
                if let Some(old) = old {
                    made.resume(service, old, now_ms);
                }
                made
            })
            .collect();
        let policy = |rule: &plan::Rule| {
            let service = &plan.services[rule.service];
            let key = keys.pin_key(&plan, rule);
            Rc::new(RulePolicy::new(rule, service, plan.services.len(), &key))
        };
        let policies: Box<[_]> = plan.rules.iter().map(policy).collect();
        let session_pins = session_pins(&plan, &policies);
        let forward = plan.session.as_ref().and_then(|s| s.forward.as_ref());
        Self {
            number: setup.number,
            identity: Identity::new(&plan, &keys.session),
            router: Router::new(&plan),
            policies,
            session_pins,
            listeners: setup
                .listeners
                .iter()
                .map(|place| ListenerCore {
                    head_limits: head_limits(&plan, place.options.raw_paths),
                })
                .collect(),
            response_limits: HeadLimits {
                header_bytes: plan.limits.header_bytes.max(RESPONSE_HEAD_BYTES),
                headers: plan.limits.headers.max(RESPONSE_HEADERS),
                ..head_limits(&plan, false)
            },
            default_host: default_host(&plan),
            names: forward.map(HeaderNames::new),
            attributes: AttributePlan::new(
                &plan,
                &setup.keys,
                old.and_then(|old| old.attributes.as_ref()),
            ),
            computed: plan.session.as_ref().and_then(Computed::new),
            log: plan.access_log.as_ref().map(accesslog::Format::new),
            services,
            core,
            plan,
            setup,
        }
    }

    /// Bounds on requests.
    #[inline]
    pub fn limits(&self) -> &Limits {
        &self.plan.limits
    }

    /// The session policy, where sessions are on.
    #[inline]
    pub fn session(&self) -> Option<&plan::Session> {
        self.plan.session.as_ref()
    }

    /// The options of a place.
    #[inline]
    pub fn listener(&self, place: u16) -> &plan::Listener {
        &self.setup.listeners[place as usize].options
    }

    /// TLS of a place, if it is spoken there.
    #[inline]
    pub fn tls(&self, place: u16) -> Option<&Arc<Server>> {
        self.setup.listeners[place as usize].tls.as_ref()
    }

    /// TLS towards an upstream, if it is spoken there.
    #[inline]
    pub fn client(&self, at: UpstreamRef) -> Option<&Client> {
        self.services[at.service as usize].tls.as_ref()
    }

    /// Whether any service is spoken to by TLS.
    pub fn has_clients(&self) -> bool {
        self.services.iter().any(|s| s.tls.is_some())
    }

    /// The service of a rule.
    pub fn service_of(&self, rule: usize) -> &ServiceCore {
        &self.services[self.plan.rules[rule].service]
    }

    /// The settings of an upstream's service.
    #[inline]
    pub fn service(&self, at: UpstreamRef) -> &plan::Service {
        &self.plan.services[at.service as usize]
    }

    /// An upstream.
    #[inline]
    pub fn upstream(&self, at: UpstreamRef) -> &Rc<UpstreamCore> {
        &self.services[at.service as usize].upstreams[at.upstream as usize]
    }

    /// This core's counters of a rule.
    #[inline]
    pub fn route(&self, rule: usize) -> &RouteMetrics {
        &self.setup.routes[rule][self.core]
    }

    /// All upstreams.
    pub fn upstreams(&self) -> impl Iterator<Item = &Rc<UpstreamCore>> {
        self.services.iter().flat_map(|s| &s.upstreams)
    }

    /// An upstream by its name in messages.
    pub fn find(&self, id: UpstreamId) -> Option<(&ServiceCore, usize)> {
        self.services.iter().find_map(|service| {
            let at = service.upstreams.iter().position(|u| u.id() == id)?;
            Some((service, at))
        })
    }
}

impl ServiceCore {
    fn new(
        index: usize,
        service: &plan::Service,
        endpoints: &[Arc<Endpoint>],
        core: usize,
        cores: usize,
    ) -> Self {
        let candidate = |upstream: &plan::Upstream| Candidate {
            state: UpstreamState::Ready,
            weight: upstream.weight,
            backup: upstream.backup,
            full: false,
            active: 0,
        };
        Self {
            index: index as u32,
            pins: pin_number(service),
            candidates: RefCell::new(service.upstreams.iter().map(candidate).collect()),
            state: RefCell::new(CoreState::new(service, core, cores)),
            upstreams: endpoints
                .iter()
                .map(|e| UpstreamCore::new(e, core))
                .collect(),
            tls: None,
        }
    }

    /// Takes over what the old generation has of the same upstreams.
    fn resume(&mut self, plan: &plan::Service, old: &Generation, now_ms: u64) {
        for (at, upstream) in self.upstreams.iter_mut().enumerate() {
            let Some((service, known)) = old.find(upstream.id()) else {
                continue;
            };
            let before = &service.upstreams[known];
            // By TLS they were made with what may no longer be trusted: its files may have changed.
            let by_tls = self.tls.is_some() || service.tls.is_some();
            if !by_tls && same_transport(plan, &old.plan.services[service.index as usize]) {
                *upstream = Rc::clone(before);
            } else {
                upstream.pool.resume_addresses(&before.pool);
            }
            let state = service.candidates.borrow()[known].state;
            self.candidates.borrow_mut()[at].state = state;
            let mut ours = self.state.borrow_mut();
            match service.state.borrow().drains.since(known) {
                Some(since) => ours.drains.set(at, Some(since)),
                None if state == UpstreamState::Drain => ours.drains.set(at, Some(now_ms)),
                None => {}
            }
        }
    }
}

/// One for each service with the method `session`.
fn session_pins(plan: &Plan, policies: &[Rc<RulePolicy>]) -> Vec<(u32, KeyMaker)> {
    let mut all: Vec<(u32, KeyMaker)> = Vec::new();
    for (rule, policy) in plan.rules.iter().zip(policies) {
        let service = pin_number(&plan.services[rule.service]);
        let session = |maker: &&KeyMaker| *maker.method() == TableMethod::Session;
        if let Some(maker) = policy.tables().iter().find(session)
            && all.iter().all(|(known, _)| *known != service)
        {
            all.push((service, maker.clone()));
        }
    }
    all
}

/// What table pins of a service are kept under.
fn pin_number(service: &plan::Service) -> u32 {
    hash64(service.name.as_bytes(), 0) as u32
}

/// Whether a connection that was made for one of these serves the other as well.
fn same_transport(a: &plan::Service, b: &plan::Service) -> bool {
    a.tls == b.tls && a.protocol == b.protocol && a.proxy_protocol == b.proxy_protocol
}

fn head_limits(plan: &Plan, raw_paths: bool) -> HeadLimits {
    let prefix = plan
        .session
        .as_ref()
        .and_then(|s| s.forward.as_ref())
        .map_or("X-Session-", |f| &f.prefix);
    HeadLimits {
        header_bytes: plan.limits.header_bytes,
        headers: plan.limits.headers,
        uri_bytes: plan.limits.uri_bytes,
        raw_paths,
        names: NameRules::new(prefix),
    }
}

fn default_host(plan: &Plan) -> Box<[u8]> {
    let text = plan
        .listeners
        .first()
        .map_or_else(String::new, |l| l.address.to_string());
    text.into_bytes().into_boxed_slice()
}
