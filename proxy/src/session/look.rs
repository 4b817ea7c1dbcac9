//! What the client of a request looks like, for sessions that check it.
//!
//! Owns [`Looker`], made once a configuration for each core, with what it remembers of browsers, and the
//! reading of user agents. Pure; runs on data cores. It finds values; the session's owner compares their digests.
//!
//! Invariants: nothing is made where no check is on; a header that is absent leaves its trait unknown; the
//! tenant is what the request gives to its attribute, by a header that is believed or a verified token. Deliberately absent: a list of browsers
//! that must be kept up (an unknown one is its own family). Tested here by user agents as browsers send
//! them, and end to end.

use std::cell::RefCell;
use std::net::IpAddr;

use holdfast_config::plan::Session;
use holdfast_store::fields::Name as Field;
use holdfast_store::session::root_keys;
use holdfast_store::traits::{Trait, TraitKeys, Traits};
use smallvec::SmallVec;

use crate::accept::Conn;
use crate::attributes::Said;
use crate::identify::Request;
use crate::parse::Name;

/// The look of one client under each key.
pub type Look = SmallVec<[Traits; 1]>;

/// What is looked at.
#[derive(Debug)]
pub struct Looker {
    keys: TraitKeys,
    /// Bits of an address that count, of each family.
    ip: Option<(u8, u8)>,
    agent: bool,
    exact: bool,
    fingerprint: bool,
    /// The attribute that names the tenant.
    tenant: Option<Field>,
    memo: RefCell<Memo>,
}

impl Looker {
    /// For a configuration; `None` where nothing is checked. `random` is a key for where none is
    /// configured.
    pub fn new(session: &Session, random: &[u8; 32]) -> Option<Self> {
        let security = &session.security;
        let headers = session.from_headers.iter().map(|(_, name, _)| name);
        let claims = session.from_auth.iter().map(|(_, name)| name);
        let mut given = headers.chain(claims);
        let tenant = (security.check_tenant && given.any(|n| *n == security.tenant_attribute))
            .then(|| Field::new(&security.tenant_attribute));
        let agent = security.check_user_agent || security.check_fingerprint;
        if !(security.check_ip || agent || tenant.is_some()) {
            return None;
        }
        let mut keys: Vec<&[u8]> = root_keys(session, random).collect();
        // The random one is another in each process: only for where there is no other.
        if keys.len() > 1 {
            keys.pop();
        }
        Some(Self {
            keys: TraitKeys::new(keys),
            ip: security.check_ip.then_some(security.ip_prefix),
            agent,
            exact: security.exact,
            fingerprint: security.check_fingerprint,
            tenant,
            memo: RefCell::new(Memo::new()),
        })
    }

    /// What the client of a request looks like that says this of itself.
    pub fn look(&self, conn: &Conn, request: &Request, said: &Said) -> Look {
        let mut look = self.browser(conn);
        let mut add = |of: Trait, value: &[u8]| {
            for (key, traits) in look.iter_mut().enumerate() {
                traits.set(of, self.keys.digest(key, of, value));
            }
        };
        if let Some(prefix) = self.ip {
            let (of, bytes) = network(request.client, prefix);
            add(of, &bytes);
        }
        if let (Some(tenant), Some(said)) = (&self.tenant, said)
            && let Some(field) = said.fields.iter().find(|f| f.name == *tenant)
            && let Some(json) = &field.value
        {
            add(Trait::Tenant, json);
        }
        look
    }

    /// The traits that a browser has wherever it is. The same few browsers come again and again, so they
    /// are remembered.
    fn browser(&self, conn: &Conn) -> Look {
        if !self.agent {
            return smallvec::smallvec![Traits::default(); self.keys.len()];
        }
        let (head, buf) = (&conn.head, conn.input.as_slice());
        let other = |name: &[u8]| {
            let line = head.lines.iter().find(|l| l.is(buf, name));
            line.map(|l| l.value(buf))
        };
        let agent = head.value(buf, Name::UserAgent);
        let mut shown = Shown {
            agent,
            ..Shown::default()
        };
        if self.fingerprint {
            let hello = conn.secured.as_ref().and_then(|s| s.facts.hello.as_ref());
            shown.platform = other(b"sec-ch-ua-platform");
            shown.mobile = other(b"sec-ch-ua-mobile");
            shown.language = head.value(buf, Name::AcceptLanguage).map(first_language);
            shown.hello = hello.map(|h| h.as_slice());
        }
        let mut memo = self.memo.borrow_mut();
        memo.find(&shown, || self.digests(&shown))
    }

    fn digests(&self, shown: &Shown<'_>) -> Look {
        let mut text = [0; BROWSER];
        let mut major = 0;
        let agent = shown.agent.map(|agent| {
            if self.exact {
                return agent;
            }
            let read = Agent::read(agent);
            major = read.major;
            read.write(&mut text)
        });
        let found = [
            (Trait::Agent, agent),
            (Trait::Platform, shown.platform),
            (Trait::Mobile, shown.mobile),
            (Trait::Language, shown.language),
            (Trait::Hello, shown.hello),
        ];
        (0..self.keys.len())
            .map(|key| {
                let mut traits = Traits {
                    major,
                    ..Traits::default()
                };
                for (of, value) in found {
                    if let Some(value) = value {
                        traits.set(of, self.keys.digest(key, of, value));
                    }
                }
                traits
            })
            .collect()
    }
}

/// What a browser shows of itself.
#[derive(Debug, Default)]
struct Shown<'a> {
    agent: Option<&'a [u8]>,
    platform: Option<&'a [u8]>,
    mobile: Option<&'a [u8]>,
    language: Option<&'a [u8]>,
    hello: Option<&'a [u8]>,
}

impl Shown<'_> {
    /// All of it in a form that differs where anything differs; `None` where it is long.
    fn text(&self) -> Option<SmallVec<[u8; 384]>> {
        let mut text = SmallVec::new();
        for part in [
            self.agent,
            self.platform,
            self.mobile,
            self.language,
            self.hello,
        ] {
            // The length and one, 0 for what is not there.
            let len = part.map_or(Some(0), |p| u16::try_from(p.len() + 1).ok())?;
            text.extend_from_slice(&len.to_le_bytes());
            text.extend_from_slice(part.unwrap_or_default());
        }
        (text.len() <= MAX_SHOWN).then_some(text)
    }
}

/// Browsers that a core remembers.
const BROWSERS: usize = 256;
/// Bytes of one that is remembered.
const MAX_SHOWN: usize = 1024;

/// The traits of browsers that were seen: one of each place of a table, the last one that came.
#[derive(Debug)]
struct Memo {
    seen: Vec<Option<(Box<[u8]>, Look)>>,
    hasher: ahash::RandomState,
}

impl Memo {
    fn new() -> Self {
        Self {
            seen: Vec::new(),
            hasher: ahash::RandomState::new(),
        }
    }

    fn find(&mut self, shown: &Shown<'_>, make: impl FnOnce() -> Look) -> Look {
        let Some(text) = shown.text() else {
            return make();
        };
        if self.seen.is_empty() {
            self.seen.resize(BROWSERS, None);
        }
        let at = self.hasher.hash_one(text.as_slice()) as usize % BROWSERS;
        let Some(place) = self.seen.get_mut(at) else {
            return make();
        };
        match place {
            Some((of, look)) if **of == *text => look.clone(),
            place => {
                let look = make();
                *place = Some((text.as_slice().into(), look.clone()));
                look
            }
        }
    }
}

/// The network that a client is in.
fn network(client: IpAddr, (v4, v6): (u8, u8)) -> (Trait, [u8; 16]) {
    let (of, bits) = match client.to_canonical() {
        IpAddr::V4(ip) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(v4.min(32)))
                .unwrap_or(0);
            (Trait::V4, u128::from(u32::from(ip) & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(v6.min(128)))
                .unwrap_or(0);
            (Trait::V6, u128::from(ip) & mask)
        }
    };
    (of, bits.to_be_bytes())
}

/// `de-AT` of `de-AT, de;q=0.9`.
fn first_language(value: &[u8]) -> &[u8] {
    let end = value.iter().position(|b| matches!(b, b',' | b';'));
    value
        .get(..end.unwrap_or(value.len()))
        .unwrap_or_default()
        .trim_ascii()
}

/// Bytes of a family and a system.
const BROWSER: usize = 48;

/// A user agent, as far as it stays the same while its browser is updated.
#[derive(Debug, PartialEq, Eq)]
struct Agent<'a> {
    family: &'a [u8],
    system: &'static str,
    major: u16,
}

/// Products by which a browser is told, those that pretend to be another before that other.
const FAMILIES: [&str; 16] = [
    "EdgiOS/",
    "EdgA/",
    "Edg/",
    "OPR/",
    "OPX/",
    "SamsungBrowser/",
    "YaBrowser/",
    "Vivaldi/",
    "DuckDuckGo/",
    "FxiOS/",
    "Firefox/",
    "CriOS/",
    "HeadlessChrome/",
    "Chrome/",
    "Version/",
    "Safari/",
];
/// Words by which a system is told, in the order in which they are looked for.
const SYSTEMS: [(&str, &str); 8] = [
    ("Windows", "windows"),
    ("Android", "android"),
    ("iPhone", "ios"),
    ("iPad", "ios"),
    ("Macintosh", "mac"),
    ("CrOS", "chromeos"),
    ("Linux", "linux"),
    ("BSD", "bsd"),
];

impl<'a> Agent<'a> {
    fn read(text: &'a [u8]) -> Self {
        let at = |word: &str| memchr::memmem::find(text, word.as_bytes());
        let found = FAMILIES.iter().find_map(|f| Some((at(f)?, f.len())));
        // Of others the first product is the family: `curl/8.5.0`.
        let (start, len) = found.unwrap_or_else(|| {
            let end = text.iter().position(|b| matches!(b, b'/' | b' '));
            (0, end.map_or(text.len(), |n| n + 1))
        });
        let version = text.get(start + len..).unwrap_or_default();
        let digits = version.iter().take_while(|b| b.is_ascii_digit());
        let major = digits.fold(0u16, |n, b| {
            n.saturating_mul(10).saturating_add(u16::from(b - b'0'))
        });
        Self {
            family: text.get(start..start + len).unwrap_or(text),
            system: SYSTEMS
                .iter()
                .find(|(word, _)| at(word).is_some())
                .map_or("", |(_, name)| name),
            major,
        }
    }

    /// Family and system in a buffer; a long family is cut.
    fn write<'b>(&self, out: &'b mut [u8; BROWSER]) -> &'b [u8] {
        let bytes = self
            .family
            .iter()
            .take(BROWSER - 9)
            .chain(self.system.as_bytes());
        let mut len = 0;
        for (place, byte) in out.iter_mut().zip(bytes) {
            *place = *byte;
            len += 1;
        }
        &out[..len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_told_by_family_system_and_version() {
        let chrome = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36";
        let safari = "AppleWebKit/605.1.15 (KHTML, like Gecko)";
        for (text, family, system, major) in [
            (
                format!("Mozilla/5.0 (X11; Linux x86_64) {chrome}"),
                "Chrome/",
                "linux",
                131,
            ),
            (
                format!("Mozilla/5.0 (Windows NT 10.0; Win64; x64) {chrome} Edg/130.0.0.0"),
                "Edg/",
                "windows",
                130,
            ),
            (
                format!("Mozilla/5.0 (Linux; Android 10; K) {chrome}"),
                "Chrome/",
                "android",
                131,
            ),
            (
                format!(
                    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {safari} Version/17.6 Safari/605.1.15"
                ),
                "Version/",
                "mac",
                17,
            ),
            (
                format!(
                    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_6 like Mac OS X) {safari} CriOS/128.0 Mobile/15E148 Safari/604.1"
                ),
                "CriOS/",
                "ios",
                128,
            ),
            (
                "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0"
                    .into(),
                "Firefox/",
                "linux",
                132,
            ),
            ("curl/8.5.0".into(), "curl/", "", 8),
            ("Tool".into(), "Tool", "", 0),
            (String::new(), "", "", 0),
            ("X/999999999".into(), "X/", "", u16::MAX),
        ] {
            let read = Agent::read(text.as_bytes());
            let expected = Agent {
                family: family.as_bytes(),
                system,
                major,
            };
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn what_is_remembered_is_what_would_be_made() {
        let mut memo = Memo::new();
        let of = |n: u64| -> Look {
            let mut traits = Traits::default();
            traits.set(Trait::Agent, n + 1);
            smallvec::smallvec![traits]
        };
        let long = "x".repeat(MAX_SHOWN);
        // More browsers than places, each twice in a row, and three that a careless key would mix up.
        for n in 0..2 * BROWSERS as u64 {
            let text = n.to_string();
            let agent = Some(text.as_bytes());
            let shown = Shown {
                agent,
                ..Shown::default()
            };
            assert_eq!(memo.find(&shown, || of(n)), of(n));
            assert_eq!(memo.find(&shown, || of(9_999)), of(n), "remembered");
        }
        for (n, (agent, platform)) in [
            (Some("ab"), None),
            (Some("a"), Some("b")),
            (None, Some("ab")),
            (Some("ab"), Some("")),
        ]
        .into_iter()
        .enumerate()
        {
            let shown = Shown {
                agent: agent.map(str::as_bytes),
                platform: platform.map(str::as_bytes),
                ..Shown::default()
            };
            assert_eq!(memo.find(&shown, || of(n as u64)), of(n as u64));
        }
        let shown = Shown {
            agent: Some(long.as_bytes()),
            ..Shown::default()
        };
        assert_eq!(memo.find(&shown, || of(1)), of(1));
        assert_eq!(memo.find(&shown, || of(2)), of(2), "too long to remember");
    }

    #[test]
    fn a_long_family_is_cut_and_keeps_its_system() {
        let text = format!("{}/1 (Windows)", "x".repeat(100));
        let mut out = [0; BROWSER];
        assert!(
            Agent::read(text.as_bytes())
                .write(&mut out)
                .ends_with(b"windows")
        );
    }

    #[test]
    fn networks_and_languages() {
        let of = |text: &str| network(text.parse().expect("an address"), (24, 56));
        assert_eq!(of("10.1.2.3"), of("10.1.2.200"));
        assert_eq!(of("10.1.2.3"), of("::ffff:10.1.2.9"));
        assert_ne!(of("10.1.2.3"), of("10.1.3.3"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("2001:db8:0:100::1"), of("2001:db8:0:200::1"));
        let all = network("1.2.3.4".parse().expect("an address"), (0, 0));
        assert_eq!(all, (Trait::V4, [0; 16]));
        for (value, language) in [
            ("de-AT, de;q=0.9", "de-AT"),
            ("en;q=1", "en"),
            ("", ""),
            (" fr ", "fr"),
        ] {
            assert_eq!(first_language(value.as_bytes()), language.as_bytes());
        }
    }
}
