//! The cookies of many virtual clients.
//!
//! Owns a `Cookie` header value a client, learnt from `Set-Cookie` or given, and the upstream that
//! first answered each. One jar a load thread. Invariant: a client is in the hands of at most one
//! request at a time, as long as there are more clients than requests in flight. Knows names,
//! values and whether a cookie is expired; no paths, domains or attributes besides (the gateway
//! under load is one origin). Tested here.

/// A client's place in the jar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientId(pub u32);

#[derive(Debug, Default, Clone)]
struct Client {
    cookies: Box<[u8]>,
    /// 1 + the index of the upstream that answered first; 0 for none.
    upstream: u16,
    busy: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Jar {
    clients: Vec<Client>,
    next: usize,
    /// Cookies stored or changed.
    pub stored: u64,
    /// Cookies removed because the server expired them.
    pub expired: u64,
}

impl Jar {
    /// `count` clients without cookies.
    pub fn empty(count: usize) -> Self {
        Self::with(vec![Client::default(); count])
    }

    /// One client for each line: a `Cookie` header value, which may be empty.
    pub fn from_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        Self::with(
            lines
                .map(|line| Client {
                    cookies: line.trim().as_bytes().into(),
                    ..Client::default()
                })
                .collect(),
        )
    }

    /// `count` clients with one cookie each, `name=` and `length` characters of base64url that
    /// depend on `first` and the client's number alone: the same in every run.
    pub fn minted(name: &str, length: usize, first: u64, count: usize) -> Self {
        let mint = |n: u64| {
            let mut text = format!("{name}=").into_bytes();
            let mut state = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
            for _ in 0..length {
                state = mix(state);
                text.push(BASE64URL[(state >> 58) as usize & 63]);
            }
            Client {
                cookies: text.into(),
                ..Client::default()
            }
        };
        Self::with((first..first + count as u64).map(mint).collect())
    }

    fn with(mut clients: Vec<Client>) -> Self {
        if clients.is_empty() {
            clients.push(Client::default());
        }
        Self {
            clients,
            next: 0,
            stored: 0,
            expired: 0,
        }
    }

    /// Clients.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Never: there is always one client.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The next client in rotation, skipping those whose request is still under way (a bounded
    /// look-ahead: with fewer clients than connections some will share one).
    pub fn take(&mut self) -> ClientId {
        let len = self.clients.len();
        for _ in 0..len.min(128) {
            let at = self.next;
            self.next = if at + 1 == len { 0 } else { at + 1 };
            if let Some(client) = self.clients.get_mut(at).filter(|c| !c.busy) {
                client.busy = true;
                return ClientId(at as u32);
            }
        }
        let at = self.next;
        self.next = if at + 1 == len { 0 } else { at + 1 };
        ClientId(at as u32)
    }

    /// Ends a client's request.
    pub fn give_back(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id.0 as usize) {
            client.busy = false;
        }
    }

    /// The client's `Cookie` header value; empty for none.
    pub fn cookies(&self, id: ClientId) -> &[u8] {
        self.clients.get(id.0 as usize).map_or(&[], |c| &c.cookies)
    }

    /// Takes one `Set-Cookie` value in: a new cookie, a new value, or the end of one (Max-Age of 0
    /// or less, or Expires in 1970).
    pub fn store(&mut self, id: ClientId, set_cookie: &[u8]) {
        let Some(client) = self.clients.get_mut(id.0 as usize) else {
            return;
        };
        let mut parts = set_cookie.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let pair = parts.next().unwrap_or_default();
        let Some(equals) = memchr::memchr(b'=', pair) else {
            return;
        };
        let name = pair.get(..=equals).unwrap_or_default();
        let expired = parts.any(ends_cookie);
        let mut line = Vec::with_capacity(client.cookies.len() + pair.len() + 2);
        let others = client.cookies.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let new = if expired { &[][..] } else { pair };
        for cookie in others.filter(|c| !c.starts_with(name)).chain([new]) {
            if !cookie.is_empty() {
                if !line.is_empty() {
                    line.extend_from_slice(b"; ");
                }
                line.extend_from_slice(cookie);
            }
        }
        client.cookies = line.into();
        if expired {
            self.expired += 1;
        } else {
            self.stored += 1;
        }
    }

    /// Notes that upstream `index` answered the client; false if another one did before.
    pub fn check_upstream(&mut self, id: ClientId, index: u16) -> bool {
        match self.clients.get_mut(id.0 as usize) {
            Some(client) if client.upstream == 0 => {
                client.upstream = index + 1;
                true
            }
            Some(client) => client.upstream == index + 1,
            None => true,
        }
    }

    /// All cookies, a line a client.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.clients.iter().map(|c| &*c.cookies)
    }

    /// Clients with at least one cookie.
    pub fn with_cookies(&self) -> usize {
        self.clients
            .iter()
            .filter(|c| !c.cookies.is_empty())
            .count()
    }
}

fn ends_cookie(attribute: &[u8]) -> bool {
    let starts = |prefix: &[u8]| {
        attribute
            .get(..prefix.len())
            .is_some_and(|a| a.eq_ignore_ascii_case(prefix))
    };
    (starts(b"max-age=0") && attribute.len() == 9)
        || starts(b"max-age=-")
        || (starts(b"expires=") && memchr::memmem::find(attribute, b" 1970 ").is_some())
}

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// One step of splitmix64.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(jar: &Jar, id: ClientId) -> &str {
        std::str::from_utf8(jar.cookies(id)).unwrap()
    }

    #[test]
    fn learns_replaces_and_expires() {
        let mut jar = Jar::empty(2);
        let id = jar.take();
        jar.store(id, b"sid=abc; Path=/; HttpOnly");
        jar.store(id, b"pin=u1;Max-Age=60");
        assert_eq!(text(&jar, id), "sid=abc; pin=u1");
        jar.store(id, b"sid=new=");
        assert_eq!(text(&jar, id), "pin=u1; sid=new=");
        jar.store(id, b"pin=; Max-Age=0");
        assert_eq!(text(&jar, id), "sid=new=");
        jar.store(id, b"sid=; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(text(&jar, id), "");
        jar.store(id, b"no pair");
        assert_eq!((jar.stored, jar.expired, jar.with_cookies()), (3, 2, 0));
        assert_eq!(text(&jar, ClientId(1)), "");
    }

    #[test]
    fn a_name_is_not_a_prefix_of_another() {
        let mut jar = Jar::from_lines(["sid2=x; sid=y"].into_iter());
        jar.store(ClientId(0), b"sid=z");
        assert_eq!(text(&jar, ClientId(0)), "sid2=x; sid=z");
    }

    #[test]
    fn rotation_skips_busy_clients() {
        let mut jar = Jar::empty(3);
        let first = jar.take();
        let second = jar.take();
        jar.give_back(second);
        let third = jar.take();
        assert_eq!(jar.take(), second);
        jar.give_back(first);
        jar.give_back(third);
        jar.give_back(second);
        assert_eq!((first.0, second.0, third.0), (0, 1, 2));
        // All busy: shared rather than stuck.
        let mut one = Jar::empty(1);
        assert_eq!(one.take(), one.take());
    }

    #[test]
    fn affinity_is_judged_by_the_first_answer() {
        let mut jar = Jar::empty(1);
        assert!(jar.check_upstream(ClientId(0), 4));
        assert!(jar.check_upstream(ClientId(0), 4));
        assert!(!jar.check_upstream(ClientId(0), 0));
    }

    #[test]
    fn minted_cookies_are_distinct_and_the_same_every_time() {
        let a = Jar::minted("sid", 74, 0, 1000);
        let b = Jar::minted("sid", 74, 500, 500);
        let set: std::collections::HashSet<_> = a.lines().collect();
        assert_eq!(set.len(), 1000);
        assert!(a.lines().skip(500).eq(b.lines()));
        assert!(a.lines().all(|l| l.len() == 78));
    }
}
