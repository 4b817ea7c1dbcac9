//! What the client of a request looks like, for sessions that check it.
//!
//! Owns [`Looker`], made once a configuration for each core, and the reading of user agents. Pure; runs on
//! data cores. It finds values; the session's owner compares their digests.
//!
//! Invariants: nothing is made where no check is on; a header that is absent leaves its trait unknown; the
//! tenant is what the request gives to its attribute, by a header that is believed or a verified token. Deliberately absent: a list of browsers
//! that must be kept up (an unknown one is its own family). Tested here by user agents as browsers send
//! them, and end to end.

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
        })
    }

    /// What the client of a request looks like that says this of itself.
    pub fn look(&self, conn: &Conn, request: &Request, said: &Said) -> Look {
        let (head, buf) = (&conn.head, conn.input.as_slice());
        let mut major = 0;
        let network = self.ip.map(|prefix| network(request.client, prefix));
        let mut browser = [0; BROWSER];
        let hello = conn.secured.as_ref().and_then(|s| s.facts.hello);
        let mut seen: SmallVec<[(Trait, &[u8]); 8]> = SmallVec::new();
        if let Some((of, bytes)) = &network {
            seen.push((*of, bytes));
        }
        if self.agent
            && let Some(agent) = head.value(buf, Name::UserAgent)
        {
            if self.exact {
                seen.push((Trait::Agent, agent));
            } else {
                let read = Agent::read(agent);
                major = read.major;
                seen.push((Trait::Agent, read.write(&mut browser)));
            }
        }
        let other = |name: &[u8]| {
            let line = head.lines.iter().find(|l| l.is(buf, name));
            line.map(|l| l.value(buf))
        };
        if self.fingerprint {
            let language = head.value(buf, Name::AcceptLanguage).map(first_language);
            let found = [
                (Trait::Platform, other(b"sec-ch-ua-platform")),
                (Trait::Mobile, other(b"sec-ch-ua-mobile")),
                (Trait::Language, language),
                (Trait::Hello, hello.as_ref().map(|h| h.as_slice())),
            ];
            seen.extend(found.into_iter().filter_map(|(of, v)| Some((of, v?))));
        }
        if let (Some(tenant), Some(said)) = (&self.tenant, said)
            && let Some(field) = said.fields.iter().find(|f| f.name == *tenant)
            && let Some(json) = &field.value
        {
            seen.push((Trait::Tenant, json));
        }
        (0..self.keys.len())
            .map(|key| {
                let mut traits = Traits {
                    major,
                    ..Traits::default()
                };
                for (of, value) in &seen {
                    traits.set(*of, self.keys.digest(key, *of, value));
                }
                traits
            })
            .collect()
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
