//! Which rule a request falls under.
//!
//! A sorted list and a scan: rules are dozens, a scan of dozens is tens of nanoseconds, and the rules longer
//! than the request's path are skipped by a binary search. Immutable, shared by all cores.

use holdfast_config::plan::{Plan, Rule};

/// All rules, most specific first: longest path, exact before `/*`, exact host before wildcard before none,
/// with methods before without, then the file's order.
#[derive(Debug, Clone)]
pub struct Router {
    entries: Box<[Entry]>,
}

#[derive(Debug, Clone)]
struct Entry {
    path: Box<[u8]>,
    prefix: bool,
    host: Host,
    methods: Box<[Box<[u8]>]>,
    rule: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    /// `.example.com` of `*.example.com`.
    Suffix(Box<[u8]>),
    Exact(Box<[u8]>),
}

impl Router {
    /// For the rules of a plan; what [`Self::route`] gives are positions in [`Plan::rules`].
    pub fn new(plan: &Plan) -> Self {
        Self::of(&plan.rules)
    }

    /// The same for bare rules.
    pub fn of(rules: &[Rule]) -> Self {
        let mut entries: Vec<_> = rules
            .iter()
            .enumerate()
            .map(|(at, rule)| Entry::new(at, rule))
            .collect();
        entries.sort_by_key(Entry::rank);
        Self {
            entries: entries.into_boxed_slice(),
        }
    }

    /// The position of the rule for a request; `None` is a 404.
    ///
    /// `host`: of the request, in any case, with or without port; empty if it has none. `path`: normalised,
    /// without query. `method`: as it came.
    pub fn route(&self, host: &[u8], path: &[u8], method: &[u8]) -> Option<usize> {
        let host = without_port(host);
        let first = self
            .entries
            .partition_point(|entry| entry.path.len() > path.len());
        let fitting = self.entries.get(first..)?.iter();
        fitting
            .into_iter()
            .find(|entry| entry.matches(host, path, method))
            .map(|entry| entry.rule)
    }
}

impl Entry {
    fn new(at: usize, rule: &Rule) -> Self {
        let host = match rule.host.as_deref() {
            None => Host::Any,
            Some(host) => match host.strip_prefix('*') {
                Some(suffix) => {
                    Host::Suffix(suffix.to_ascii_lowercase().into_bytes().into_boxed_slice())
                }
                None => Host::Exact(host.to_ascii_lowercase().into_bytes().into_boxed_slice()),
            },
        };
        Self {
            path: rule.path.as_bytes().into(),
            prefix: rule.prefix,
            host,
            methods: rule
                .methods
                .iter()
                .map(|method| method.as_bytes().into())
                .collect(),
            rule: at,
        }
    }

    fn rank(&self) -> impl Ord + use<> {
        let host = match &self.host {
            Host::Exact(_) => (0, 0),
            Host::Suffix(suffix) => (1, usize::MAX - suffix.len()),
            Host::Any => (2, 0),
        };
        (
            usize::MAX - self.path.len(),
            self.prefix,
            host,
            self.methods.is_empty(),
            self.rule,
        )
    }

    fn matches(&self, host: &[u8], path: &[u8], method: &[u8]) -> bool {
        let Some(rest) = path.strip_prefix(&*self.path) else {
            // `OPTIONS *` is no path and belongs to the rule for all.
            return path == b"*" && self.prefix && *self.path == *b"/" && self.allows(host, method);
        };
        let below = self.path.ends_with(b"/") || rest.first() == Some(&b'/');
        (rest.is_empty() || self.prefix && below) && self.allows(host, method)
    }

    fn allows(&self, host: &[u8], method: &[u8]) -> bool {
        let host_fits = match &self.host {
            Host::Any => true,
            Host::Exact(exact) => host.eq_ignore_ascii_case(exact),
            Host::Suffix(suffix) => host.len().checked_sub(suffix.len()).is_some_and(|at| {
                at > 0
                    && host
                        .get(at..)
                        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }),
        };
        host_fits
            && (self.methods.is_empty() || self.methods.iter().any(|known| **known == *method))
    }
}

/// Without `:port` and without the dot of a fully qualified name. An IPv6 literal keeps its brackets.
fn without_port(host: &[u8]) -> &[u8] {
    let name = match memchr::memrchr(b':', host) {
        Some(at) if host.get(at..).is_some_and(|port| !port.contains(&b']')) => {
            host.get(..at).unwrap_or(host)
        }
        _ => host,
    };
    name.strip_suffix(b".").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `host path methods`, where `-` is none.
    fn rules(lines: &[&str]) -> Router {
        let rules: Vec<Rule> = lines
            .iter()
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let (path, prefix) = match words[1].strip_suffix("/*") {
                    Some("") => ("/", true),
                    Some(path) => (path, true),
                    None => (words[1], false),
                };
                Rule {
                    id: (*line).to_owned(),
                    path: path.to_owned(),
                    prefix,
                    host: (words[0] != "-").then(|| words[0].to_owned()),
                    methods: words[2]
                        .split(',')
                        .filter(|m| *m != "-")
                        .map(str::to_owned)
                        .collect(),
                    service: 0,
                    affinity: None,
                }
            })
            .collect();
        Router::of(&rules)
    }

    #[test]
    fn paths() {
        let router = rules(&[
            "- /* -",
            "- /chat/* -",
            "- /chat/admin -",
            "- /chat/admin/* -",
            "- /cart -",
        ]);
        for (path, rule) in [
            ("/", 0),
            ("/x", 0),
            ("/chat", 1),
            ("/chat/", 1),
            ("/chat/x/y", 1),
            ("/chatter", 0),
            ("/Chat", 0),
            ("/chat/admin", 2),
            ("/chat/admin/", 3),
            ("/chat/admin/x", 3),
            ("/chat/administrator", 1),
            ("/cart", 4),
            ("/cart/", 0),
            ("*", 0),
        ] {
            assert_eq!(
                router.route(b"h", path.as_bytes(), b"GET"),
                Some(rule),
                "{path}"
            );
        }
    }

    #[test]
    fn no_rule() {
        let router = rules(&["- /chat/* -"]);
        for path in ["/", "/chatter", "/cha", "", "*", "//chat"] {
            assert_eq!(router.route(b"", path.as_bytes(), b"GET"), None, "{path}");
        }
        assert_eq!(rules(&[]).route(b"", b"/", b"GET"), None);
    }

    #[test]
    fn hosts() {
        let router = rules(&[
            "- /* -",
            "*.example.com /* -",
            "*.eu.example.com /* -",
            "www.example.com /* -",
            "[::1] /* -",
        ]);
        for (host, rule) in [
            ("", 0),
            ("example.com", 0),
            (".example.com", 0),
            ("a.example.com", 1),
            ("A.Example.COM:8080", 1),
            ("a.b.example.com", 1),
            ("a.eu.example.com", 2),
            ("www.example.com", 3),
            ("WWW.example.com.", 3),
            ("www.example.com.:80", 3),
            ("badexample.com", 0),
            ("[::1]", 4),
            ("[::1]:80", 4),
            (":80", 0),
        ] {
            assert_eq!(
                router.route(host.as_bytes(), b"/x", b"GET"),
                Some(rule),
                "{host}"
            );
        }
    }

    #[test]
    fn the_longest_path_beats_host_and_methods() {
        let router = rules(&[
            "h /a/* -",
            "- /a/b/* -",
            "- /a/* POST",
            "- /a/* -",
            "h /a/* GET,PUT",
        ]);
        for (host, path, method, rule) in [
            ("h", "/a/b", "GET", 1),
            ("h", "/a", "GET", 4),
            ("h", "/a", "PUT", 4),
            ("h", "/a", "POST", 0),
            ("x", "/a", "POST", 2),
            ("x", "/a", "GET", 3),
            ("x", "/a", "post", 3),
        ] {
            let found = router.route(host.as_bytes(), path.as_bytes(), method.as_bytes());
            assert_eq!(found, Some(rule), "{host} {path} {method}");
        }
    }

    #[test]
    fn of_equals_the_first_in_the_file() {
        assert_eq!(
            rules(&["- /a -", "- /a -"]).route(b"", b"/a", b"GET"),
            Some(0)
        );
    }
}
