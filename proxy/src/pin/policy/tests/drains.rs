//! Drains and those that they give up.

use super::*;

#[test]
fn a_drain_keeps_its_clients_and_takes_no_new_ones() {
    let mut gateway = Gateway::new(Some(affinity(vec![Cookie, SourceIp])));
    gateway.request(&client(1), CookiePin::Absent);
    gateway.candidates[0].state = Drain;
    for cookie in [pinned(0), CookiePin::Absent] {
        assert_eq!(
            gateway.request(&client(1), cookie).action,
            Action::Use(0),
            "{cookie:?}"
        );
    }
    for n in 2..20 {
        assert_ne!(
            gateway.request(&client(n), CookiePin::Absent).action,
            Action::Use(0)
        );
    }
}

#[test]
fn a_drain_that_ends_moves_its_clients_between_requests() {
    let mut service = service(Balancing::RoundRobin, &[1, 1]);
    service.drain_timeout = Duration::from_secs(60);
    let mut gateway = Gateway::of(Some(affinity(vec![Cookie, SourceIp])), &service, 1);
    gateway.request(&client(1), CookiePin::Absent);
    gateway.candidates[0].state = Drain;
    gateway.core.drains.set(0, Some(0));
    gateway.now_ms = 59_999;
    assert_eq!(
        gateway.request(&client(1), pinned(0)).action,
        Action::Use(0)
    );
    gateway.now_ms = 60_000;
    // Nobody else can take him: he stays, and nothing is said.
    gateway.candidates[1].state = Down;
    for (cookie, by, set) in [
        (pinned(0), By::Cookie, CookieAction::Keep),
        (CookiePin::Absent, By::Table(0), NEW),
    ] {
        let verdict = gateway.request(&client(1), cookie);
        let expected = (Action::Use(0), Outcome::Hit(by), set, false, None);
        assert_eq!(told(verdict), expected);
    }
    gateway.candidates[1].state = Ready;
    let verdict = gateway.request(&client(1), pinned(0));
    let lost = Lost::Drained;
    assert_eq!(
        told(verdict),
        (
            Action::Use(1),
            Outcome::Broken(lost),
            NEW,
            true,
            Some((0, lost))
        )
    );
    let again = gateway.request(&client(1), CookiePin::Absent);
    assert_eq!(
        (again.action, again.outcome),
        (Action::Use(1), Outcome::Hit(By::Table(0)))
    );
}

#[test]
fn a_client_whose_new_place_cannot_be_reached_stays_with_the_drain() {
    let mut service = service(Balancing::RoundRobin, &[1, 1]);
    service.drain_timeout = Duration::from_secs(1);
    for cookie in [pinned(0), CookiePin::Absent] {
        let mut gateway = Gateway::of(Some(affinity(vec![Cookie, SourceIp])), &service, 1);
        gateway.request(&client(1), CookiePin::Absent);
        gateway.candidates[0].state = Drain;
        gateway.core.drains.set(0, Some(0));
        gateway.now_ms = 1_000;
        let policy = Rc::clone(&gateway.policy);
        let mut decider = Decider::new(&*policy, cookie, policy.keys(&client(1)));
        let mut tried = Tried::new();
        let step = gateway.run(&mut decider, &tried);
        assert!(
            matches!(step, Step::Decided(v) if v.action == Action::Use(1)),
            "{step:?}"
        );
        tried.add(1);
        decider.retry();
        let Step::Decided(verdict) = gateway.run(&mut decider, &tried) else {
            panic!("held")
        };
        assert_eq!((verdict.action, verdict.broken), (Action::Use(0), None));
        assert!(matches!(verdict.outcome, Outcome::Hit(_)));
        let held: Vec<_> = gateway.table.values().copied().collect();
        assert_eq!(
            held,
            [policy.ids().tag(0).unwrap()],
            "the table is told again"
        );
    }
}

#[test]
fn a_dead_cookie_pin_beside_a_draining_table_pin_is_told_and_replaced() {
    let mut service = service(Balancing::RoundRobin, &[1, 1]);
    service.drain_timeout = Duration::from_secs(1);
    let mut gateway = Gateway::of(Some(affinity(vec![Cookie, SourceIp])), &service, 1);
    gateway.request(&client(1), CookiePin::Absent);
    gateway.candidates[0].state = Drain;
    gateway.candidates[1].state = Down;
    gateway.core.drains.set(0, Some(0));
    gateway.now_ms = 1_000;
    let lost = Lost::Down;
    let expected = (
        Action::Use(0),
        Outcome::Broken(lost),
        NEW,
        false,
        Some((1, lost)),
    );
    assert_eq!(told(gateway.request(&client(1), pinned(1))), expected);
}

#[test]
fn a_drain_rate_is_spent_once_a_client_whatever_pins_he_has() {
    let mut service = service(Balancing::RoundRobin, &[1, 1]);
    service.drain_rate = 10;
    let mut gateway = Gateway::of(Some(affinity(vec![Cookie, SourceIp])), &service, 1);
    for n in 0..100 {
        gateway.request(&client(n), CookiePin::Absent);
    }
    // Clients of either parity alternate, so the even ones are at 0.
    gateway.candidates[0].state = Drain;
    gateway.core.drains.set(0, Some(0));
    gateway.now_ms = 2_000;
    let moved = (0..100)
        .step_by(2)
        .filter(|n| gateway.request(&client(*n), pinned(0)).action == Action::Use(1))
        .count();
    assert_eq!(moved, 10, "one second's worth");
}

#[test]
fn a_drain_is_bound_anew_whatever_on_unavailable_says() {
    let mut service = service(Balancing::RoundRobin, &[1, 1]);
    service.drain_timeout = Duration::from_secs(1);
    let mut affinity = affinity(vec![Cookie]);
    affinity.on_unavailable = OnUnavailable::Reject(503);
    let mut gateway = Gateway::of(Some(affinity), &service, 1);
    gateway.candidates[0].state = Drain;
    gateway.core.drains.set(0, Some(0));
    gateway.now_ms = 1_000;
    assert_eq!(
        gateway.request(&client(1), pinned(0)).action,
        Action::Use(1)
    );
}
