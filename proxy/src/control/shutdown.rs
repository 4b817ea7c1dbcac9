//! How the process ends, as a pure state machine: serve, fail readiness, drain, end.
//!
//! Owns the phase and what it waits for; no clock and no signal. Driven by the control loop with
//! `handle_input`, `poll_output`, `poll_timeout`.
//!
//! Invariants: readiness fails before any core drains; `Drain` comes at most once and `End` exactly
//! once, as the last output; after `End` nothing changes any more.
//! Tested below by tables.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The longest a drain lasts that a person asked for.
const HASTY: Duration = Duration::from_secs(1);

/// Where the process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// As ever.
    Serving,
    /// Readiness fails, everything is still served: balancers before us get time to notice.
    Unready,
    /// The cores take no new connections and finish what they have.
    Draining,
    /// Over.
    Ended,
}

/// Why the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Every core had finished.
    Drained,
    /// `shutdown.timeout` was over before.
    TimedOut,
    /// A second signal, or one that doesn't wait.
    Forced,
}

/// What happens to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A signal to end. `hasty`: from a person, who waits for no balancer.
    Stop {
        /// No delay, and at most a second of draining.
        hasty: bool,
    },
    /// A data core has nothing left to do.
    Drained {
        /// Which.
        core: usize,
    },
    /// Time has passed.
    Timeout,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Let readiness fail.
    FailReadiness,
    /// Tell all cores to drain.
    Drain,
    /// Tell all cores to end, and end.
    End(Exit),
}

/// The machine. See the module.
#[derive(Debug)]
pub struct Ending {
    delay: Duration,
    timeout: Duration,
    phase: Phase,
    /// When the phase is over by itself.
    until: Option<Instant>,
    hasty: bool,
    drained: Vec<bool>,
    outputs: VecDeque<Output>,
}

impl Ending {
    /// For so many data cores, with the plan's `shutdown`.
    pub fn new(cores: usize, delay: Duration, timeout: Duration) -> Self {
        Self {
            delay,
            timeout,
            phase: Phase::Serving,
            until: None,
            hasty: false,
            drained: vec![false; cores],
            outputs: VecDeque::new(),
        }
    }

    /// The plan's `shutdown` is another from now on; an end that has begun keeps its times.
    pub fn set_times(&mut self, delay: Duration, timeout: Duration) {
        (self.delay, self.timeout) = (delay, timeout);
    }

    /// Where the process stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When the phase is over by itself, if it is at some time.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Takes what happened.
    pub fn handle_input(&mut self, input: Input, now: Instant) {
        match (self.phase, input) {
            (Phase::Ended, _) => {}
            (Phase::Serving, Input::Stop { hasty }) => {
                self.hasty = hasty;
                self.outputs.push_back(Output::FailReadiness);
                self.phase = Phase::Unready;
                self.until = Some(if hasty { now } else { now + self.delay });
                self.advance(now);
            }
            (Phase::Unready | Phase::Draining, Input::Stop { .. }) => self.end(Exit::Forced),
            (_, Input::Drained { core }) => {
                // A core may be done before it is asked, when it could not go on.
                if let Some(drained) = self.drained.get_mut(core) {
                    *drained = true;
                }
                self.advance(now);
            }
            (_, Input::Timeout) => self.advance(now),
        }
    }

    fn advance(&mut self, now: Instant) {
        let over = self.until.is_some_and(|until| now >= until);
        if self.phase == Phase::Unready && over {
            let bound = if self.hasty {
                self.timeout.min(HASTY)
            } else {
                self.timeout
            };
            self.phase = Phase::Draining;
            self.until = Some(now + bound);
            self.outputs.push_back(Output::Drain);
        }
        if self.phase == Phase::Draining {
            if self.drained.iter().all(|&drained| drained) {
                self.end(Exit::Drained);
            } else if self.until.is_some_and(|until| now >= until) {
                self.end(Exit::TimedOut);
            }
        }
    }

    fn end(&mut self, exit: Exit) {
        self.phase = Phase::Ended;
        self.until = None;
        self.outputs.push_back(Output::End(exit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(5);
    const TIMEOUT: Duration = Duration::from_secs(30);

    struct Run {
        ending: Ending,
        zero: Instant,
    }

    impl Run {
        fn new(delay: Duration, timeout: Duration) -> Self {
            Self {
                ending: Ending::new(2, delay, timeout),
                zero: Instant::now(),
            }
        }

        /// What comes out of an input at so many milliseconds.
        fn at(&mut self, ms: u64, input: Input) -> Vec<Output> {
            self.ending
                .handle_input(input, self.zero + Duration::from_millis(ms));
            std::iter::from_fn(|| self.ending.poll_output()).collect()
        }

        fn due_ms(&self) -> Option<u128> {
            self.ending
                .poll_timeout()
                .map(|at| (at - self.zero).as_millis())
        }
    }

    const TERM: Input = Input::Stop { hasty: false };
    const INT: Input = Input::Stop { hasty: true };

    #[test]
    fn readiness_fails_then_the_cores_drain() {
        let mut run = Run::new(DELAY, TIMEOUT);
        assert_eq!(run.at(0, Input::Timeout), []);
        assert_eq!(run.at(100, TERM), [Output::FailReadiness]);
        assert_eq!(
            (run.ending.phase(), run.due_ms()),
            (Phase::Unready, Some(5_100))
        );
        assert_eq!(run.at(5_099, Input::Timeout), []);
        assert_eq!(run.at(5_100, Input::Timeout), [Output::Drain]);
        assert_eq!(
            (run.ending.phase(), run.due_ms()),
            (Phase::Draining, Some(35_100))
        );
        assert_eq!(run.at(6_000, Input::Drained { core: 1 }), []);
        assert_eq!(run.at(6_000, Input::Drained { core: 1 }), []);
        assert_eq!(run.at(6_000, Input::Drained { core: 9 }), []);
        assert_eq!(
            run.at(7_000, Input::Drained { core: 0 }),
            [Output::End(Exit::Drained)]
        );
        assert_eq!(run.at(8_000, TERM), []);
        assert_eq!((run.ending.phase(), run.due_ms()), (Phase::Ended, None));
    }

    #[test]
    fn a_drain_has_an_end() {
        let mut run = Run::new(DELAY, TIMEOUT);
        run.at(0, TERM);
        run.at(5_000, Input::Timeout);
        run.at(5_500, Input::Drained { core: 0 });
        assert_eq!(
            run.at(35_000, Input::Timeout),
            [Output::End(Exit::TimedOut)]
        );
    }

    #[test]
    fn a_second_signal_ends_at_once() {
        let mut run = Run::new(DELAY, TIMEOUT);
        run.at(0, TERM);
        assert_eq!(run.at(1, INT), [Output::End(Exit::Forced)]);
        let mut run = Run::new(Duration::ZERO, TIMEOUT);
        assert_eq!(run.at(0, TERM), [Output::FailReadiness, Output::Drain]);
        assert_eq!(run.at(1, TERM), [Output::End(Exit::Forced)]);
    }

    #[test]
    fn a_person_does_not_wait() {
        let mut run = Run::new(DELAY, TIMEOUT);
        assert_eq!(run.at(0, INT), [Output::FailReadiness, Output::Drain]);
        assert_eq!(run.due_ms(), Some(1_000));
        let mut run = Run::new(DELAY, Duration::from_millis(200));
        run.at(0, INT);
        assert_eq!(run.due_ms(), Some(200));
    }

    #[test]
    fn cores_that_were_done_before_are_not_waited_for() {
        let mut run = Run::new(DELAY, TIMEOUT);
        run.at(0, Input::Drained { core: 0 });
        run.at(0, Input::Drained { core: 1 });
        run.at(0, TERM);
        assert_eq!(
            run.at(5_000, Input::Timeout),
            [Output::Drain, Output::End(Exit::Drained)]
        );
    }

    #[test]
    fn no_time_to_drain_is_no_drain() {
        let mut run = Run::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(
            run.at(0, TERM),
            [
                Output::FailReadiness,
                Output::Drain,
                Output::End(Exit::TimedOut)
            ]
        );
    }
}
