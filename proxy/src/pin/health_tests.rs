//! Tests of the judge: counts, ejection, probation, lost probes, reloads.

use proptest::prelude::*;

use super::*;
use HealthState::{Down, Drain, Up};

fn check() -> HealthCheck {
    HealthCheck {
        path: "/healthz".into(),
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        healthy: 2,
        unhealthy: 3,
    }
}

fn passive() -> PassiveHealth {
    PassiveHealth {
        failures: 3,
        window: Duration::from_secs(10),
        eject: Duration::from_secs(5),
    }
}

fn judge(check: Option<HealthCheck>, passive: Option<PassiveHealth>) -> Judge {
    Judge::new(["a", "b"].into_iter(), check, passive, 0)
}

fn health(judge: &Judge, upstream: usize) -> HealthState {
    judge.state(upstream).unwrap().1
}

/// Whose, from, to, why.
type Change = (usize, UpstreamState, UpstreamState, Reason);

/// Takes all outputs: the probes and the changes.
fn drain(judge: &mut Judge) -> (Vec<(usize, ProbeId)>, Vec<Change>) {
    let (mut probes, mut changes) = (Vec::new(), Vec::new());
    while let Some(output) = judge.poll_output() {
        match output {
            Output::Probe { upstream, probe } => probes.push((upstream, probe)),
            Output::Changed {
                upstream,
                from,
                to,
                reason,
                ..
            } => changes.push((upstream, from, to, reason)),
        }
    }
    (probes, changes)
}

/// Steps to each timeout up to `until` and answers every probe of upstream 0 with the next of `answers`
/// (then `Good`) and of upstream 1 with `Good`; gives the changes with their times.
fn run(
    judge: &mut Judge,
    from: u64,
    until: u64,
    answers: &[Probed],
) -> Vec<(u64, UpstreamState, Reason)> {
    let (mut seen, mut answers, mut now) = (Vec::new(), answers.iter(), from);
    loop {
        judge.handle_input(Input::Tick, now);
        let (probes, changes) = drain(judge);
        seen.extend(changes.iter().map(|change| (now, change.2, change.3)));
        for (upstream, probe) in probes {
            let outcome = if upstream == 0 {
                answers.next().copied().unwrap_or(Probed::Good)
            } else {
                Probed::Good
            };
            judge.handle_input(
                Input::Probed {
                    upstream,
                    probe,
                    outcome,
                },
                now,
            );
        }
        seen.extend(
            drain(judge)
                .1
                .iter()
                .map(|change| (now, change.2, change.3)),
        );
        match judge.poll_timeout() {
            Some(next) if next <= until => now = next.max(now),
            _ => return seen,
        }
    }
}

#[test]
fn begins_up_and_probes_soon() {
    let mut judge = judge(Some(check()), None);
    assert_eq!((health(&judge, 0), health(&judge, 1)), (Up, Up));
    assert!(judge.poll_timeout().unwrap() < 500);
    judge.handle_input(Input::Tick, 500);
    assert_eq!(drain(&mut judge).0.len(), 2, "each once");
    assert_eq!(drain(&mut judge), (vec![], vec![]));
}

#[test]
fn counts_in_a_row() {
    use Probed::{Bad, Good};
    let mut judge = judge(Some(check()), None);
    let answers = [Bad, Bad, Good, Bad, Bad, Bad, Good, Bad, Good, Good];
    let seen = run(&mut judge, 0, 30_000, &answers);
    let states: Vec<_> = seen.iter().map(|change| (change.1, change.2)).collect();
    assert_eq!(
        states,
        [
            (UpstreamState::Down, Reason::Check),
            (UpstreamState::Ready, Reason::Check)
        ]
    );
    assert_eq!(
        seen[1].0 - seen[0].0,
        4 * 2000,
        "down at the sixth, up at the tenth answer"
    );
}

#[test]
fn a_404_drains_at_once_and_a_good_answer_takes_back() {
    let mut judge = judge(Some(check()), None);
    let seen = run(
        &mut judge,
        0,
        10_000,
        &[Probed::Good, Probed::Drain, Probed::Good],
    );
    let states: Vec<_> = seen.iter().map(|change| change.1).collect();
    assert_eq!(states, [UpstreamState::Drain, UpstreamState::Ready]);
}

#[test]
fn a_404_after_down_brings_back_to_drain() {
    let mut judge = judge(Some(check()), None);
    let mut answers = vec![Probed::Bad; 3];
    answers.extend([Probed::Drain; 20]);
    run(&mut judge, 0, 20_000, &answers);
    assert_eq!(health(&judge, 0), Drain);
}

#[test]
fn statuses() {
    for (status, outcome) in [
        (200, Probed::Good),
        (204, Probed::Good),
        (302, Probed::Good),
        (404, Probed::Drain),
    ] {
        assert_eq!(Probed::from_status(status), outcome);
    }
    for status in [0, 100, 199, 400, 403, 405, 500, 503, 999] {
        assert_eq!(Probed::from_status(status), Probed::Bad, "{status}");
    }
}

#[test]
fn a_probe_without_an_answer_is_bad_and_a_late_answer_is_nothing() {
    let mut judge = judge(Some(check()), None);
    let mut late = Vec::new();
    let mut now = 0;
    while health(&judge, 0) == Up {
        assert!(
            now < 10_000,
            "three probes of a second each, two seconds apart"
        );
        judge.handle_input(Input::Tick, now);
        late.extend(drain(&mut judge).0);
        now = judge.poll_timeout().unwrap();
    }
    assert_eq!(
        late.iter().filter(|(upstream, _)| *upstream == 0).count(),
        3
    );
    for (upstream, probe) in late {
        judge.handle_input(
            Input::Probed {
                upstream,
                probe,
                outcome: Probed::Good,
            },
            now,
        );
    }
    assert_eq!(health(&judge, 0), Down);
    judge.handle_input(
        Input::Probed {
            upstream: 9,
            probe: ProbeId(0),
            outcome: Probed::Good,
        },
        now,
    );
}

fn fail(judge: &mut Judge, now: u64) {
    judge.handle_input(
        Input::Outcome {
            upstream: 0,
            ok: false,
        },
        now,
    );
}

#[test]
fn failures_in_a_window_eject_for_a_time() {
    let mut judge = judge(None, Some(passive()));
    assert_eq!(judge.poll_timeout(), None);
    [0, 9_000, 10_500]
        .iter()
        .for_each(|now| fail(&mut judge, *now));
    assert_eq!(health(&judge, 0), Up, "the first is out of the window");
    fail(&mut judge, 11_000);
    let (ready, down) = (UpstreamState::Ready, UpstreamState::Down);
    assert_eq!(drain(&mut judge).1, [(0, ready, down, Reason::Passive)]);
    assert_eq!(judge.poll_timeout(), Some(16_000));
    fail(&mut judge, 15_000);
    judge.handle_input(Input::Tick, 15_999);
    assert_eq!(drain(&mut judge).1, []);
    judge.handle_input(Input::Tick, 16_000);
    assert_eq!(
        drain(&mut judge).1,
        [(0, down, ready, Reason::Passive)],
        "failures meanwhile don't prolong it"
    );
    assert_eq!(health(&judge, 1), Up, "the other one never failed");
}

#[test]
fn probation_ends_with_a_success_or_the_first_failure() {
    let mut judge = judge(None, Some(passive()));
    (0..3).for_each(|now| fail(&mut judge, now));
    assert_eq!(health(&judge, 0), Down);
    fail(&mut judge, 6_000);
    assert_eq!(
        health(&judge, 0),
        Down,
        "it came back at 5,002 and failed again"
    );
    judge.handle_input(Input::Tick, 20_000);
    assert_eq!(health(&judge, 0), Up);
    fail(&mut judge, 20_001);
    assert_eq!(health(&judge, 0), Down, "one failure on probation");
    judge.handle_input(Input::Tick, 30_000);
    judge.handle_input(
        Input::Outcome {
            upstream: 0,
            ok: true,
        },
        30_001,
    );
    fail(&mut judge, 30_002);
    fail(&mut judge, 30_003);
    assert_eq!(health(&judge, 0), Up, "it counts anew");
    fail(&mut judge, 30_004);
    assert_eq!(health(&judge, 0), Down);
}

#[test]
fn successes_between_do_not_hide_failures() {
    let mut judge = judge(None, Some(passive()));
    for now in 0..3 {
        judge.handle_input(
            Input::Outcome {
                upstream: 0,
                ok: true,
            },
            now,
        );
        fail(&mut judge, now);
    }
    assert_eq!(health(&judge, 0), Down);
}

#[test]
fn the_administrator_goes_before_health_in_one_way_only() {
    let mut judge = judge(None, Some(passive()));
    judge.handle_input(
        Input::Admin {
            upstream: 0,
            state: AdminState::Drain,
        },
        0,
    );
    judge.handle_input(
        Input::Admin {
            upstream: 0,
            state: AdminState::Drain,
        },
        0,
    );
    let (ready, drained) = (UpstreamState::Ready, UpstreamState::Drain);
    assert_eq!(drain(&mut judge).1, [(0, ready, drained, Reason::Admin)]);
    (0..3).for_each(|now| fail(&mut judge, now));
    assert_eq!(
        judge.state(0).unwrap(),
        (AdminState::Drain, Down, UpstreamState::Down)
    );
    judge.handle_input(
        Input::Admin {
            upstream: 0,
            state: AdminState::Maint,
        },
        4,
    );
    assert_eq!(
        drain(&mut judge).1,
        [(0, drained, UpstreamState::Maint, Reason::Admin)]
    );
    judge.handle_input(
        Input::Admin {
            upstream: 0,
            state: AdminState::Ready,
        },
        5,
    );
    assert_eq!(
        judge.state(0).unwrap().2,
        UpstreamState::Down,
        "ready means that health decides"
    );
    judge.handle_input(
        Input::Admin {
            upstream: 7,
            state: AdminState::Maint,
        },
        6,
    );
}

#[test]
fn a_reload_keeps_what_was_known() {
    let mut old = judge(Some(check()), Some(passive()));
    (0..3).for_each(|now| fail(&mut old, now));
    old.handle_input(
        Input::Admin {
            upstream: 1,
            state: AdminState::Maint,
        },
        3,
    );
    let mut new = Judge::new(
        ["new", "b", "a"].into_iter(),
        Some(check()),
        Some(passive()),
        10,
    );
    assert_eq!(drain(&mut old).1.len(), 2, "the cores have heard of both");
    new.resume(1, &old, 1);
    new.resume(2, &old, 0);
    assert_eq!(
        (health(&new, 2), new.state(1).unwrap().0),
        (Down, AdminState::Maint)
    );
    assert_eq!(drain(&mut new).1, [], "and need not hear of it again");
    new.handle_input(Input::Tick, 5_100);
    assert_eq!(health(&new, 2), Up, "the ejection ends when it would have");
    let mut bare = Judge::new(["a"].into_iter(), None, None, 10);
    bare.resume(0, &old, 0);
    assert_eq!(
        health(&bare, 0),
        Up,
        "what nobody judges any more does not stay down for ever"
    );
}

#[derive(Debug, Clone)]
enum Event {
    Wait(u64),
    Answer(usize, u8),
    Outcome(usize, bool),
    Admin(usize, u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u64..4000).prop_map(Event::Wait),
        (0usize..3, 0u8..3).prop_map(|(upstream, kind)| Event::Answer(upstream, kind)),
        (0usize..3, any::<bool>()).prop_map(|(upstream, ok)| Event::Outcome(upstream, ok)),
        (0usize..3, 0u8..4).prop_map(|(upstream, state)| Event::Admin(upstream, state)),
    ]
}

proptest! {
    /// What the cores were told always adds up to what holds, probes come at their interval, and there is
    /// always a next thing to wait for.
    #[test]
    fn told_is_what_holds(events in proptest::collection::vec(event(), 1..200)) {
        let mut judge = judge(Some(check()), Some(passive()));
        let (mut now, mut told) = (0, [UpstreamState::Ready; 2]);
        let mut flying: [Vec<ProbeId>; 2] = Default::default();
        let mut last_probe = [None; 2];
        for event in events {
            let input = match event {
                Event::Wait(time) => { now += time; Input::Tick }
                Event::Answer(upstream, kind) => {
                    let outcome = [Probed::Good, Probed::Drain, Probed::Bad][usize::from(kind)];
                    let probe = flying.get_mut(upstream).and_then(Vec::pop).unwrap_or(ProbeId(0));
                    Input::Probed { upstream, probe, outcome }
                }
                Event::Outcome(upstream, ok) => Input::Outcome { upstream, ok },
                Event::Admin(upstream, state) => {
                    let states = [AdminState::Ready, AdminState::Drain, AdminState::Down, AdminState::Maint];
                    Input::Admin { upstream, state: states[usize::from(state)] }
                }
            };
            judge.handle_input(input, now);
            let (probes, changes) = drain(&mut judge);
            for (upstream, from, to, _) in changes {
                prop_assert_eq!(told[upstream], from);
                told[upstream] = to;
            }
            for (upstream, probe) in probes {
                if let Some(last) = last_probe[upstream].replace(now) {
                    prop_assert!(now - last >= 2000, "two probes within an interval");
                }
                flying[upstream].push(probe);
            }
            for (upstream, told) in told.iter().enumerate() {
                prop_assert_eq!(judge.state(upstream).unwrap().2, *told);
            }
            prop_assert!(judge.poll_timeout().is_some_and(|next| next > now && next <= now + 5000));
            for watched in &judge.upstreams {
                prop_assert!(watched.failures.len() <= 3);
            }
        }
    }
}
