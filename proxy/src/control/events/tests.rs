//! The hub: selection, streams that come back, slow readers.

use std::sync::atomic::Ordering::Relaxed;

use holdfast_config::{Mode, Source, load};

use super::*;
use crate::event::EventKind;

fn setup(events: &str) -> Setup {
    let text = format!(
        "gateway:\n  services: [{{ name: app, upstreams: [{{ id: a, address: \"127.0.0.1:1\" }}] }}]\n  \
         session: {{ identifier: {{ type: cookie, name: s }}, events: {events} }}\n"
    );
    let source = Source {
        name: "t".into(),
        text,
    };
    let outcome = load(&[source], &|_| None, Mode::Run);
    Setup::first(
        Arc::new(outcome.plan.expect("a plan")),
        1,
        Default::default(),
    )
}

fn hub(events: &str) -> Hub {
    let (queue, _) = webhook::Queue::new(Arc::default());
    Hub::new(&setup(events), queue)
}

fn event(kind: EventKind, at: u64) -> Event {
    Event {
        kind,
        at,
        sid: Some(Sid([1; 16])),
        reason: "",
        subject: None,
        upstream: None,
        ordinal: at,
    }
}

fn ats(events: &[Arc<Told>]) -> Vec<u64> {
    events.iter().map(|told| told.event.at).collect()
}

fn drain(live: &mut mpsc::Receiver<Arc<Told>>) -> Vec<u64> {
    let mut all = Vec::new();
    while let Ok(told) = live.try_recv() {
        all.push(told.event.at);
    }
    all
}

#[test]
fn emit_selects_for_streams_and_journals_have_all() {
    let mut hub = hub("{ emit: [sessionDestroyed] }");
    let mut stream = hub.subscribe(None, Arc::default()).unwrap();
    hub.extend([
        event(EventKind::SessionCreated, 1),
        event(EventKind::SessionDestroyed, 2),
    ]);
    assert_eq!(drain(&mut stream.live), [2]);
    assert_eq!(ats(&hub.journal(&Sid([1; 16]))), [1, 2]);
    assert_eq!(hub.counts().taken.iter().sum::<u64>(), 2);
    hub.reload(&setup("{ emit: [sessionCreated] }"));
    hub.extend([event(EventKind::SessionCreated, 3)]);
    assert_eq!(drain(&mut stream.live), [3]);
}

#[test]
fn a_stream_goes_on_after_the_last_event_that_it_saw() {
    let mut hub = hub("{}");
    hub.extend((0..10).map(|at| event(EventKind::SessionRotated, at)));
    let whole = hub.subscribe(Some("never"), Arc::default()).unwrap();
    assert!(whole.gap);
    assert_eq!(ats(&whole.backlog), (0..10).collect::<Vec<_>>());
    let seen = whole.backlog[6].id();
    let mut rest = hub.subscribe(Some(&seen), Arc::default()).unwrap();
    assert!(!rest.gap);
    assert_eq!(ats(&rest.backlog), [7, 8, 9]);
    hub.extend([event(EventKind::SessionRotated, 10)]);
    assert_eq!(
        drain(&mut rest.live),
        [10],
        "none is missed between the two"
    );
    assert!(
        hub.subscribe(None, Arc::default())
            .unwrap()
            .backlog
            .is_empty()
    );
}

#[test]
fn a_slow_reader_is_ended_and_the_others_go_on() {
    let mut hub = hub("{}");
    let end = Arc::new(Notify::new());
    let mut slow = hub.subscribe(None, Arc::clone(&end)).unwrap();
    let mut quick = hub.subscribe(None, Arc::default()).unwrap();
    let mut seen = Vec::new();
    for at in 0..=WAITING as u64 {
        hub.extend([event(EventKind::SessionRotated, at)]);
        seen.extend(drain(&mut quick.live));
    }
    assert_eq!(seen, (0..=WAITING as u64).collect::<Vec<_>>());
    assert_eq!((hub.counts().slow, hub.counts().streams), (1, 1));
    assert_eq!(drain(&mut slow.live).len(), WAITING);
    assert!(slow.live.is_closed());
    let told = std::pin::pin!(end.notified());
    let woken = std::future::Future::poll(
        told,
        &mut std::task::Context::from_waker(std::task::Waker::noop()),
    );
    assert!(woken.is_ready(), "its connection is ended");
}

#[test]
fn streams_are_bounded() {
    let mut hub = hub("{}");
    let mut all: Vec<_> = (0..STREAMS)
        .map(|_| hub.subscribe(None, Arc::default()).unwrap())
        .collect();
    assert!(hub.subscribe(None, Arc::default()).is_none());
    all.pop();
    assert!(hub.subscribe(None, Arc::default()).is_some());
}

#[test]
fn what_the_webhook_has_no_room_for_is_dropped_and_counted_exactly() {
    let counts = Arc::<webhook::Counts>::default();
    let (queue, mut waiting) = webhook::Queue::new(Arc::clone(&counts));
    let hook = "{ handlers: { webhook: { url: \"http://127.0.0.1:1/\" } } }";
    let mut hub = Hub::new(&setup(hook), queue);
    let more = webhook::QUEUE as u64 + 77;
    hub.extend((0..more).map(|at| event(EventKind::SessionRotated, at)));
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
    assert_eq!(count(&counts.full), 77);
    assert_eq!(counts.waiting.load(Relaxed), webhook::QUEUE);
    let kept = drain(&mut waiting);
    assert_eq!(
        kept,
        (0..webhook::QUEUE as u64).collect::<Vec<_>>(),
        "in order"
    );
    // Large ones are bounded by their bytes, which are still counted as waiting here.
    let mut large = event(EventKind::SessionRotated, 0);
    large.subject = Some("x".repeat(webhook::QUEUE_BYTES).into());
    hub.extend([large]);
    assert_eq!(count(&counts.full), 78);
    hub.reload(&setup("{}"));
    hub.extend([event(EventKind::SessionRotated, 0)]);
    assert_eq!(
        count(&counts.full),
        78,
        "nothing is dropped where there is no webhook"
    );
}
