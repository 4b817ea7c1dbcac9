//! Changes of upstreams by an operator, beside the files: weight, add, remove.
//!
//! Pure: a plan becomes another. The control loop takes it up as it does a reload's
//! ([`super::reload`]), so connections, pins and states stay as they do there. A change holds until the next
//! reload of the files, which says again what there is.
//!
//! Invariants: the plan that comes out would have been accepted as a file; an error changes nothing.
//! Tested below, and end to end.

use holdfast_config::plan::{Plan, Service, Upstream};

/// Largest weight.
const WEIGHT: u32 = 1000;
/// Upstreams of a service.
const UPSTREAMS: usize = 10_000;

/// What to change.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// Of which service.
    pub service: String,
    /// What.
    pub what: What,
}

/// See [`Edit`].
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// Another weight for the upstream of this id.
    Weight(String, u32),
    /// A new upstream.
    Add(Upstream),
    /// One upstream less.
    Remove(String),
}

impl Edit {
    /// The plan with the change.
    ///
    /// # Errors
    /// Why it can't be.
    pub fn apply(&self, plan: &Plan) -> Result<Plan, String> {
        let mut plan = plan.clone();
        let named = |service: &&mut Service| service.name == self.service;
        let service = plan.services.iter_mut().find(named);
        let service = service.ok_or("there is no such service")?;
        let at = |id: &str| service.upstreams.iter().position(|u| u.id == id);
        match &self.what {
            What::Weight(id, weight) => {
                let at = at(id).ok_or("the service has no such upstream")?;
                service.upstreams[at].weight = weighed(*weight)?;
            }
            What::Add(upstream) => {
                if at(&upstream.id).is_some() {
                    return Err("the service has an upstream of that id already".to_owned());
                }
                if service.upstreams.len() >= UPSTREAMS {
                    return Err("the service has as many upstreams as it may".to_owned());
                }
                weighed(upstream.weight)?;
                service.upstreams.push(upstream.clone());
            }
            What::Remove(id) => {
                let at = at(id).ok_or("the service has no such upstream")?;
                if service.upstreams.len() == 1 {
                    return Err("the last upstream of a service can't be removed".to_owned());
                }
                service.upstreams.remove(at);
            }
        }
        Ok(plan)
    }
}

fn weighed(weight: u32) -> Result<u32, String> {
    if weight > WEIGHT {
        return Err(format!("a weight is 0 to {WEIGHT}"));
    }
    Ok(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_config::{Mode, Source, load};

    fn plan() -> Plan {
        let text = "gateway: { services: [{ name: s, upstreams: [{ id: a, address: \"127.0.0.1:1\" }] }] }";
        let source = Source {
            name: "t".into(),
            text: text.into(),
        };
        load(&[source], &|_| None, Mode::Run).plan.expect("a plan")
    }

    fn edited(plan: &Plan, what: What) -> Result<Plan, String> {
        let service = "s".to_owned();
        Edit { service, what }.apply(plan)
    }

    #[test]
    fn upstreams_come_and_go() {
        let one = plan();
        let mut b = one.services[0].upstreams[0].clone();
        b.id = "b".into();
        let two = edited(&one, What::Add(b.clone())).unwrap();
        assert_eq!(two.services[0].upstreams.len(), 2);
        assert!(edited(&two, What::Add(b)).is_err(), "twice");
        let weighed = edited(&two, What::Weight("b".into(), 7)).unwrap();
        assert_eq!(weighed.services[0].upstreams[1].weight, 7);
        assert!(edited(&two, What::Weight("b".into(), 1001)).is_err());
        assert!(edited(&two, What::Weight("c".into(), 1)).is_err());
        let less = edited(&two, What::Remove("a".into())).unwrap();
        assert_eq!(less.services[0].upstreams[0].id, "b");
        assert!(edited(&less, What::Remove("b".into())).is_err(), "the last");
        let elsewhere = Edit {
            service: "t".into(),
            what: What::Remove("a".into()),
        };
        assert!(elsewhere.apply(&two).is_err());
    }
}
