//! Pins that cannot be followed.

use super::*;

#[test]
fn a_table_pin_to_an_upstream_that_is_gone_is_a_miss_and_replaced() {
    let mut gateway = Gateway::new(Some(affinity(vec![SourceIp])));
    gateway.request(&client(1), CookiePin::Absent);
    *gateway.table.values_mut().next().unwrap() = UpstreamTag::of("gone");
    let verdict = gateway.request(&client(1), CookiePin::Absent);
    let miss = Outcome::Miss(Miss::NoSuchUpstream);
    assert_eq!(
        told(verdict),
        (Action::Use(1), miss, CookieAction::Keep, true, None)
    );
    let verdict = gateway.request(&client(1), CookiePin::Absent);
    assert_eq!(
        (verdict.action, verdict.outcome),
        (Action::Use(1), Outcome::Hit(By::Table(0)))
    );
}

#[test]
fn a_pin_to_a_dead_upstream_is_rebound_with_both_events() {
    for (state, lost) in [(Down, Lost::Down), (Maint, Lost::Maint)] {
        for methods in [vec![Cookie, SourceIp], vec![SourceIp], vec![Cookie]] {
            let mut gateway = Gateway::new(Some(affinity(methods.clone())));
            let with_cookie = methods.contains(&Cookie);
            gateway.request(&client(1), CookiePin::Absent);
            gateway.candidates[0].state = state;
            let cookie = if with_cookie {
                pinned(0)
            } else {
                CookiePin::Absent
            };
            let verdict = gateway.request(&client(1), cookie);
            let set = if with_cookie { NEW } else { CookieAction::Keep };
            let broken = Outcome::Broken(lost);
            assert_eq!(
                told(verdict),
                (Action::Use(1), broken, set, true, Some((0, lost))),
                "{methods:?}"
            );
            // It comes back, and nobody returns to it.
            gateway.candidates[0].state = Ready;
            let cookie = if with_cookie {
                pinned(1)
            } else {
                CookiePin::Absent
            };
            assert_eq!(gateway.request(&client(1), cookie).action, Action::Use(1));
        }
    }
}

#[test]
fn the_next_method_may_know_a_usable_one() {
    let mut gateway = Gateway::new(Some(affinity(vec![Cookie, SourceIp])));
    gateway.request(&client(1), CookiePin::Absent);
    gateway.candidates[2].state = Down;
    let verdict = gateway.request(&client(1), pinned(2));
    let broken = (Outcome::Broken(Lost::Down), Some((2, Lost::Down)));
    assert_eq!((verdict.outcome, verdict.broken), broken);
    assert_eq!(
        (verdict.action, verdict.cookie, verdict.established),
        (Action::Use(0), NEW, false)
    );
}

#[test]
fn reject_answers_and_keeps_the_pin() {
    let mut reject = affinity(vec![Cookie, SourceIp]);
    reject.on_unavailable = OnUnavailable::Reject(503);
    let mut gateway = Gateway::new(Some(reject));
    gateway.request(&client(1), CookiePin::Absent);
    gateway.candidates[0].state = Maint;
    for cookie in [pinned(0), CookiePin::Absent] {
        let verdict = gateway.request(&client(1), cookie);
        let broken = Outcome::Broken(Lost::Maint);
        assert_eq!(
            told(verdict),
            (Action::Reject(503), broken, CookieAction::Keep, false, None)
        );
    }
    gateway.candidates[0].state = Ready;
    assert_eq!(
        gateway.request(&client(1), CookiePin::Absent).action,
        Action::Use(0)
    );
    gateway.candidates[0].state = Down;
    assert_eq!(
        gateway.request(&client(2), CookiePin::Absent).action,
        Action::Use(1),
        "no pin, no reject"
    );
}

#[test]
fn hold_waits_and_then_goes_back_or_on() {
    let time = Duration::from_secs(10);
    let mut hold = affinity(vec![Cookie, SourceIp]);
    hold.on_unavailable = OnUnavailable::Hold(time);
    for comes_back in [true, false] {
        let mut gateway = Gateway::new(Some(hold.clone()));
        gateway.request(&client(1), CookiePin::Absent);
        gateway.candidates[0].state = Down;
        let policy = Rc::clone(&gateway.policy);
        let mut decider = Decider::new(&*policy, pinned(0), policy.keys(&client(1)));
        let tried = Tried::new();
        assert_eq!(
            gateway.run(&mut decider, &tried),
            Step::Hold { upstream: 0, time }
        );
        if comes_back {
            gateway.candidates[0].state = Ready;
        } else {
            decider.waited();
        }
        let Step::Decided(verdict) = gateway.run(&mut decider, &tried) else {
            panic!("it holds again")
        };
        let lost = Lost::Down;
        let expected = if comes_back {
            (
                Action::Use(0),
                Outcome::Hit(By::Cookie),
                CookieAction::Keep,
                false,
                None,
            )
        } else {
            (
                Action::Use(1),
                Outcome::Broken(lost),
                NEW,
                true,
                Some((0, lost)),
            )
        };
        assert_eq!(told(verdict), expected);
    }
}

#[test]
fn a_pinned_client_whose_upstream_cannot_be_reached_follows_on_unavailable() {
    let time = Duration::from_secs(1);
    for on_unavailable in [
        OnUnavailable::Rebind,
        OnUnavailable::Hold(time),
        OnUnavailable::Reject(503),
    ] {
        let mut affinity = affinity(vec![Cookie, SourceIp]);
        affinity.on_unavailable = on_unavailable;
        let mut gateway = Gateway::new(Some(affinity));
        let policy = Rc::clone(&gateway.policy);
        let mut decider = Decider::new(&*policy, pinned(2), policy.keys(&client(1)));
        let mut tried = Tried::new();
        assert!(
            matches!(gateway.run(&mut decider, &tried), Step::Decided(v) if v.action == Action::Use(2))
        );
        tried.add(2);
        decider.retry();
        let lost = Lost::Unreachable;
        match (on_unavailable, gateway.run(&mut decider, &tried)) {
            (OnUnavailable::Rebind, Step::Decided(verdict)) => {
                let expected = (
                    Action::Use(0),
                    Outcome::Broken(lost),
                    NEW,
                    true,
                    Some((2, lost)),
                );
                assert_eq!(told(verdict), expected);
            }
            (OnUnavailable::Hold(_), step) => {
                assert_eq!(step, Step::Hold { upstream: 2, time });
                tried.remove(2);
                let step = gateway.run(&mut decider, &tried);
                assert!(
                    matches!(step, Step::Decided(v) if v.action == Action::Use(2)),
                    "{step:?}"
                );
            }
            (OnUnavailable::Reject(status), Step::Decided(verdict)) => {
                assert_eq!(
                    (verdict.action, verdict.broken),
                    (Action::Reject(status), None)
                );
            }
            (_, step) => panic!("{step:?}"),
        }
    }
}

#[test]
fn a_new_client_whose_upstream_cannot_be_reached_is_still_new() {
    for on_unavailable in [OnUnavailable::Rebind, OnUnavailable::Reject(503)] {
        let mut affinity = affinity(vec![Cookie, SourceIp]);
        affinity.on_unavailable = on_unavailable;
        let mut gateway = Gateway::new(Some(affinity));
        let policy = Rc::clone(&gateway.policy);
        let mut decider = Decider::new(&*policy, CookiePin::Absent, policy.keys(&client(1)));
        let mut tried = Tried::new();
        for turn in 0..3 {
            let step = gateway.run(&mut decider, &tried);
            let Step::Decided(verdict) = step else {
                panic!("{step:?}")
            };
            assert_eq!(
                told(verdict),
                (Action::Use(turn), Outcome::First, NEW, true, None)
            );
            let held: Vec<_> = gateway.table.values().copied().collect();
            assert_eq!(held, [policy.ids().tag(turn).unwrap()], "the table follows");
            tried.add(turn);
            decider.retry();
        }
        let Step::Decided(verdict) = gateway.run(&mut decider, &tried) else {
            panic!("held")
        };
        assert_eq!(
            (verdict.action, verdict.cookie),
            (Action::Unavailable, CookieAction::Keep)
        );
    }
}

#[test]
fn no_usable_upstream() {
    let mut gateway = Gateway::new(Some(affinity(vec![Cookie, SourceIp])));
    gateway
        .candidates
        .iter_mut()
        .for_each(|candidate| candidate.state = Down);
    for (cookie, outcome) in [
        (CookiePin::Absent, Outcome::First),
        (
            CookiePin::Missed(Miss::Expired),
            Outcome::Miss(Miss::Expired),
        ),
        (pinned(1), Outcome::Broken(Lost::Down)),
    ] {
        let verdict = gateway.request(&client(1), cookie);
        assert_eq!(
            told(verdict),
            (
                Action::Unavailable,
                outcome,
                CookieAction::Keep,
                false,
                None
            )
        );
    }
    assert!(gateway.table.is_empty(), "nobody is pinned to nothing");
}
