//! A control thread for tests: with cores that are played by threads, but real shards in them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_config::{Mode, Source, load};
use holdfast_runtime::mesh::{self, Port};
use holdfast_store::Entropy;
use holdfast_store::id::NodeTag;
use holdfast_store::session::Policy;
use holdfast_store::shard::{Home, LocalTotals, Shard};

use super::shutdown::Exit;
use super::{Control, Options, Stopper};
use crate::message::Message;
use crate::metrics::Metric;
use crate::setup::Setup;
use crate::shared::Shared;

/// No wait of a test is longer.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A service with two upstreams that nobody asks.
pub const SERVICE: &str = "  services:
    - name: app
      upstreams: [{ id: a, address: \"127.0.0.1:1\" }, { id: b, address: \"unix:/nowhere/b.sock\" }]
";

/// [`SERVICE`] and more.
pub fn with(more: &str) -> String {
    format!("{SERVICE}{more}")
}

/// Waits until `what` is there.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Random enough for tests, and never the same twice in a process.
struct Numbers;

impl Entropy for Numbers {
    fn fill(&mut self, out: &mut [u8]) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        use sha2::Digest;
        for chunk in out.chunks_mut(32) {
            let block = sha2::Sha256::digest(NEXT.fetch_add(1, Relaxed).to_le_bytes());
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

/// Something to be done on a core's thread.
type Order = Box<dyn FnOnce(&mut OnCore) + Send>;

/// What an order finds.
pub struct OnCore {
    /// The core's shard.
    pub shard: Shard,
    local: mesh::Local<Message>,
    control: usize,
    /// Whether a drain is answered.
    pub drains: bool,
}

impl OnCore {
    /// To the control thread.
    pub fn send(&self, message: Message) {
        self.local.send(self.control, message);
    }

    /// Unix milliseconds.
    pub fn now() -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_millis() as u64
    }

    /// A session with this data; its sid.
    pub fn session(&mut self, data: &str) -> String {
        use holdfast_store::session::{Apply, Commands};
        let created = self.shard.create(Self::now(), &mut Numbers).unwrap();
        let set = Some(holdfast_store::fields::Fields::parse(data.as_bytes()).unwrap());
        let commands = Commands {
            set,
            ..Commands::default()
        };
        let apply = Apply {
            target: created.token.target(),
            commands,
            traits: None,
        };
        self.shard.apply(&apply, Self::now(), &mut Numbers);
        created.token.sid.to_string()
    }
}

/// A played core.
pub struct Core {
    orders: Sender<Order>,
    seen: Arc<Mutex<Vec<Message>>>,
    thread: Option<JoinHandle<()>>,
}

impl Core {
    fn start(port: Port<Message>, shared: Arc<Shared>) -> Self {
        let (orders, queue) = channel();
        let seen = Arc::default();
        let keep = Arc::clone(&seen);
        let thread = std::thread::spawn(move || play(port, &shared, &queue, &keep));
        Self {
            orders,
            seen,
            thread: Some(thread),
        }
    }

    /// Does something on the core's thread.
    pub fn order<T: Send + 'static>(
        &self,
        order: impl FnOnce(&mut OnCore) -> T + Send + 'static,
    ) -> T {
        let (done, result) = channel();
        let order = move |core: &mut OnCore| done.send(order(core)).unwrap();
        self.orders.send(Box::new(order)).unwrap();
        result.recv_timeout(DEADLINE).unwrap()
    }

    /// Sends to the control thread.
    pub fn send(&self, message: Message) {
        self.order(|core| core.send(message));
    }

    /// Waits for a message from the control thread that `wanted` takes.
    pub fn sees<T>(&self, what: &str, wanted: impl Fn(&Message) -> Option<T>) -> T {
        until(what, || self.seen.lock().unwrap().iter().find_map(&wanted))
    }

    /// Forgets what was seen.
    pub fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }
}

fn play(
    port: Port<Message>,
    shared: &Shared,
    orders: &Receiver<Order>,
    seen: &Mutex<Vec<Message>>,
) {
    let id = port.id();
    let policy = Arc::new(Policy::default());
    let home = Home {
        shard: id,
        shards: shared.cores,
    };
    let shard = Shard::new(
        policy,
        home,
        NodeTag::new(1),
        Box::new(LocalTotals::default()),
    );
    let mut core = OnCore {
        shard,
        local: port.local(),
        control: shared.control(),
        drains: true,
    };
    let mut ended = false;
    while !ended {
        let local = core.local.clone();
        local.drain(&mut |from, message| match message {
            Message::Ask { call, ask } => {
                let answer = core.shard.handle(ask, OnCore::now(), &mut Numbers);
                core.local.send(from, Message::Answer { call, answer });
            }
            Message::End => ended = true,
            other => {
                if matches!(other, Message::Drain) && core.drains {
                    core.send(Message::Drained);
                }
                seen.lock().unwrap().push(other);
            }
        });
        shared.metrics[id].count(Metric::Turns);
        match orders.recv_timeout(Duration::from_millis(1)) {
            Ok(order) => order(&mut core),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
    core.local.close();
}

/// A control thread and its played cores.
pub struct Played {
    pub shared: Arc<Shared>,
    pub setup: Arc<Setup>,
    pub cores: Vec<Core>,
    pub admin: SocketAddr,
    pub stopper: Stopper,
    exit: Receiver<Exit>,
}

impl Played {
    /// With two cores, for what stands under `gateway:`. Nothing is ready yet.
    pub fn start(yaml: &str) -> Self {
        let source = |name: &str, rest: &str| Source {
            name: name.into(),
            text: format!("gateway:\n{rest}"),
        };
        let sources = [
            source("base", "  admin: { address: \"127.0.0.1:0\" }\n"),
            source("test", yaml),
        ];
        let outcome = load(&sources, &|_| None, Mode::Run);
        let plan = outcome
            .plan
            .unwrap_or_else(|| panic!("{:?}", outcome.errors));
        let shared = Arc::new(Shared::new(Box::new([None; 2])));
        let setup = Arc::new(Setup::first(
            Arc::new(plan),
            2,
            crate::tls::Built::default(),
        ));
        let mut ports = mesh::build(4, 64);
        ports.truncate(3);
        let port = ports.pop().unwrap();
        let cores = ports
            .into_iter()
            .map(|port| Core::start(port, Arc::clone(&shared)))
            .collect();
        let (started, address) = channel();
        let (done, exit) = channel();
        let theirs = (Arc::clone(&shared), Arc::clone(&setup));
        std::thread::spawn(move || {
            let control = Control::prepare(theirs.0, theirs.1, Options::default()).unwrap();
            started
                .send((control.admin_address().unwrap(), control.stopper()))
                .unwrap();
            let _ = done.send(control.run(port));
        });
        let (admin, stopper) = address.recv_timeout(DEADLINE).unwrap();
        Self {
            shared,
            setup,
            cores,
            admin,
            stopper,
            exit,
        }
    }

    /// The same, with all cores ready.
    pub fn ready(yaml: &str) -> Self {
        let played = Self::start(yaml);
        for core in &played.cores {
            core.send(Message::Ready);
        }
        until("readiness", || {
            (played.get("/readyz").status == 200).then_some(())
        });
        played
    }

    /// A GET.
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, "", "")
    }

    /// A request with some header lines and a body.
    pub fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let host = if headers.contains("Host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.admin)
        };
        let head =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{host}{length}{headers}\r\n");
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // A body over the bound may be refused before it is read.
        let _ = stream.write_all(body.as_bytes());
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        Reply::read(&String::from_utf8(text).unwrap())
    }

    /// A write of JSON.
    pub fn put(&self, path: &str, body: &str) -> Reply {
        self.request("PUT", path, "Content-Type: application/json\r\n", body)
    }

    /// How it ended.
    pub fn exit(&self) -> Exit {
        self.exit
            .recv_timeout(DEADLINE)
            .expect("the control thread ends")
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.stopper.stop(true);
        self.stopper.stop(true);
        if std::thread::panicking() {
            return;
        }
        // An error: `exit` was taken already.
        let _ = self.exit.recv_timeout(DEADLINE);
        for thread in self.cores.iter_mut().filter_map(|core| core.thread.take()) {
            thread.join().unwrap();
        }
    }
}

/// An answer of the admin endpoint.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    fn read(text: &str) -> Self {
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no head: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            status,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    /// The body, as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Status and `error` of a refusal.
    pub fn refusal(&self) -> (u16, String) {
        (
            self.status,
            self.json()["error"].as_str().unwrap().to_owned(),
        )
    }
}
