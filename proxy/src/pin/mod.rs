//! Affinity and load balancing: which upstream serves a request, and what is remembered about it.
//!
//! **Owns** the rules' matching ([`rules`]), the pin cookie ([`cookie`], [`set_cookie`]), the algorithms
//! ([`choose`], [`ring`]), the states of upstreams ([`state`], [`health`], [`drain`]), the keys of table pins
//! ([`table`]) and the decision for one request that puts them together ([`policy`]).
//!
//! **Callers.** Data cores call everything but [`health`], which the control thread drives, once an instance.
//! What is built from the plan ([`policy::RulePolicy`], [`rules::Router`]) is immutable and shared; what
//! changes ([`policy::CoreState`]) belongs to one core.
//!
//! **Invariants.** A pin names an upstream by its id, never by its position, so adding or removing one leaves
//! the pins of the others good. A pinned client moves only when its upstream is `down` or `maint`, could not
//! be reached, gives it up in a drain, or ends the pin itself. Nothing here panics on what a client sends.
//!
//! **Deliberately not here**: clocks, random numbers, sockets, the pin table's memory (`holdfast-store`), and
//! the parsing of `Cookie` lines. Times and randomness are arguments.
//!
//! **Tested** by tables beside each file, by properties, and by `tests/sim_pin`: seeded clients over
//! changing upstreams against a shadow model.

pub mod choose;
pub mod cookie;
pub mod drain;
pub mod hash;
pub mod health;
pub mod ids;
pub mod key;
pub mod policy;
pub mod ring;
pub mod rules;
pub mod set_cookie;
pub mod stage;
pub mod state;
pub mod table;
