//! The Prometheus text format 0.0.4: what a body of `/metrics` is made of.
//!
//! Owns a growing text. Knows the format and no metric. Called by `admin::metrics`.
//!
//! Invariants: the samples of a name stand together behind one HELP and one TYPE line; label values
//! and help are escaped, so that no name of a configuration can break a line.
//! Tested below, and by the strict reader in `strict`, which the tests of `metrics` use as well.

use std::fmt::{self, Write};

/// `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A body under construction.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    family: String,
}

impl Exposition {
    /// Empty.
    pub fn new() -> Self {
        Self {
            text: String::with_capacity(16 * 1024),
            family: String::new(),
        }
    }

    /// Begins the family `name`: its samples follow.
    pub fn family(&mut self, name: &str, kind: Type, help: &str) {
        self.family.clear();
        self.family.push_str(name);
        // Writing to a string does not fail.
        let _ = write!(
            self.text,
            "# HELP {name} {}\n# TYPE {name} {}\n",
            Escaped(help, false),
            kind.name()
        );
    }

    /// A sample of the family.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.suffixed("", labels, value);
    }

    /// A sample of the family whose labels are written already, such as `reason="x"`, or empty.
    pub fn written(&mut self, labels: &str, value: impl fmt::Display) {
        let family = &self.family;
        let _ = if labels.is_empty() {
            writeln!(self.text, "{family} {value}")
        } else {
            writeln!(self.text, "{family}{{{labels}}} {value}")
        };
    }

    /// A histogram's samples: `counts[i]` fell under `bounds[i]` (seconds) and over the bound before,
    /// the last count over all bounds.
    pub fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        sum_seconds: f64,
    ) {
        let mut cumulated = 0u64;
        for (i, count) in counts.iter().enumerate() {
            cumulated = cumulated.wrapping_add(*count);
            let le = bounds
                .get(i)
                .map_or_else(|| "+Inf".to_owned(), f64::to_string);
            self.suffixed("_bucket", &[labels, &[("le", &le)]].concat(), cumulated);
        }
        self.suffixed("_sum", labels, sum_seconds);
        self.suffixed("_count", labels, cumulated);
    }

    fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.text.push_str(&self.family);
        self.text.push_str(suffix);
        for (i, (name, value)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{name}=\"{}\"", Escaped(value, true));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// The body.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Backslash and line feed escaped, quotes as well in a label value.
struct Escaped<'a>(&'a str, bool);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.1 => f.write_str("\\\"")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A reader that accepts nothing but a well-formed body: for tests.
#[cfg(test)]
pub mod strict {
    use std::collections::{BTreeMap, HashSet};

    /// Labels in the order written.
    pub type Labels = Vec<(String, String)>;

    /// One family.
    #[derive(Debug, Default)]
    pub struct Family {
        /// As its TYPE line says.
        pub kind: String,
        /// As its HELP line says.
        pub help: String,
        /// Name, labels, value.
        pub samples: Vec<(String, Labels, f64)>,
    }

    impl Family {
        /// The one sample with these labels.
        pub fn value(&self, labels: &[(&str, &str)]) -> f64 {
            let found: Vec<f64> = self
                .samples
                .iter()
                .filter(|(_, l, _)| {
                    l.iter()
                        .map(|(k, v)| (k.as_str(), v.as_str()))
                        .eq(labels.iter().copied())
                })
                .map(|(_, _, v)| *v)
                .collect();
            assert_eq!(found.len(), 1, "{labels:?} in {:?}", self.samples);
            found[0]
        }
    }

    fn is_name(name: &str, colon: bool) -> bool {
        let ok = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':');
        !name.is_empty() && name.chars().all(ok) && !name.starts_with(|c: char| c.is_ascii_digit())
    }

    fn labels(text: &str) -> Result<(Labels, &str), String> {
        let Some(mut rest) = text.strip_prefix('{') else {
            return Ok((Vec::new(), text));
        };
        let mut labels = Labels::new();
        loop {
            let (name, after) = rest.split_once("=\"").ok_or("no value")?;
            if !is_name(name, false) || labels.iter().any(|(n, _)| n == name) {
                return Err(format!("label {name:?}"));
            }
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().ok_or("open value")? {
                    (_, '\\') => value.push(match chars.next().ok_or("open escape")?.1 {
                        '\\' => '\\',
                        '"' => '"',
                        'n' => '\n',
                        c => return Err(format!("escape {c:?}")),
                    }),
                    (i, '"') => break i,
                    (_, c) => value.push(c),
                }
            };
            labels.push((name.to_owned(), value));
            rest = &after[end + 1..];
            if let Some(after) = rest.strip_prefix('}') {
                return Ok((labels, after));
            }
            rest = rest.strip_prefix(',').ok_or("no comma")?;
        }
    }

    /// Reads a body, or says what is wrong with it.
    pub fn read(body: &str) -> Result<BTreeMap<String, Family>, String> {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        let mut seen = HashSet::new();
        let body = body.strip_suffix('\n').ok_or("no last line end")?;
        let mut lines = body.split('\n').peekable();
        while let Some(line) = lines.next() {
            let err = |why: &str| format!("{why}: {line:?}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| err("no help"))?;
                let kind = lines
                    .next()
                    .and_then(|l| l.strip_prefix("# TYPE "))
                    .and_then(|l| l.strip_prefix(name))
                    .and_then(|l| l.strip_prefix(' '))
                    .ok_or_else(|| err("no TYPE behind HELP"))?;
                if !["counter", "gauge", "histogram"].contains(&kind)
                    || !is_name(name, true)
                    || help.is_empty()
                {
                    return Err(err("bad family"));
                }
                let family = Family {
                    kind: kind.into(),
                    help: help.into(),
                    ..Family::default()
                };
                if families.insert(name.to_owned(), family).is_some() {
                    return Err(err("family twice"));
                }
                current = name.to_owned();
                continue;
            }
            let end = line.find(['{', ' ']).ok_or_else(|| err("no value"))?;
            let (name, rest) = line.split_at(end);
            let (labels, rest) = labels(rest).map_err(|e| err(&e))?;
            let value: f64 = match rest.strip_prefix(' ').ok_or_else(|| err("no blank"))? {
                "+Inf" => f64::INFINITY,
                v => v.parse().map_err(|_| err("value"))?,
            };
            let family = families
                .get_mut(&current)
                .ok_or_else(|| err("before any family"))?;
            let suffix = name
                .strip_prefix(current.as_str())
                .ok_or_else(|| err("foreign sample"))?;
            let allowed: &[&str] = if family.kind == "histogram" {
                &["_bucket", "_sum", "_count"]
            } else {
                &[""]
            };
            if !allowed.contains(&suffix) {
                return Err(err("suffix"));
            }
            if family.kind == "counter" && (!name.ends_with("_total") || value < 0.0) {
                return Err(err("counter"));
            }
            let mut key = labels.clone();
            key.sort();
            if !seen.insert((name.to_owned(), key)) {
                return Err(err("series twice"));
            }
            family.samples.push((name.to_owned(), labels, value));
        }
        for (name, family) in &families {
            if family.kind == "histogram" {
                histogram(name, family)?;
            }
        }
        Ok(families)
    }

    /// Buckets as (bound, count), sum, count.
    type Group = (Vec<(f64, f64)>, Option<f64>, Option<f64>);

    /// Buckets grow, end in `+Inf`, and the last equals the count; every group has a sum.
    fn histogram(name: &str, family: &Family) -> Result<(), String> {
        let mut groups: BTreeMap<Labels, Group> = BTreeMap::new();
        for (sample, labels, value) in &family.samples {
            let rest: Labels = labels.iter().filter(|(n, _)| n != "le").cloned().collect();
            let group = groups.entry(rest).or_default();
            match &sample[name.len()..] {
                "_bucket" => {
                    let le = labels.iter().find(|(n, _)| n == "le").ok_or("no le")?;
                    let le = if le.1 == "+Inf" {
                        f64::INFINITY
                    } else {
                        le.1.parse().map_err(|_| "le")?
                    };
                    group.0.push((le, *value));
                }
                "_sum" => group.1 = Some(*value),
                _ => group.2 = Some(*value),
            }
        }
        for (labels, (buckets, sum, count)) in groups {
            let ordered = buckets
                .windows(2)
                .all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1);
            let last = buckets.last().copied().ok_or("no buckets")?;
            if !ordered || last.0 != f64::INFINITY || Some(last.1) != count || sum.is_none() {
                return Err(format!("histogram {name} {labels:?}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_as_the_format_wants_it() {
        let mut out = Exposition::new();
        out.family("a_total", Type::Counter, "Help \\ of\na \"thing\".");
        out.sample(&[], 3u64);
        out.sample(&[("x", "q\"b\\l\n")], 0.5);
        out.written("reason=\"r\"", 7);
        out.family("h", Type::Histogram, "H.");
        out.histogram(&[("route", "r")], &[0.0001, 2.5], &[1, 0, 2], 7.25);
        let text = out.finish();
        assert_eq!(
            text,
            "# HELP a_total Help \\\\ of\\na \"thing\".\n# TYPE a_total counter\na_total 3\n\
             a_total{x=\"q\\\"b\\\\l\\n\"} 0.5\na_total{reason=\"r\"} 7\n\
             # HELP h H.\n# TYPE h histogram\nh_bucket{route=\"r\",le=\"0.0001\"} 1\n\
             h_bucket{route=\"r\",le=\"2.5\"} 1\nh_bucket{route=\"r\",le=\"+Inf\"} 3\n\
             h_sum{route=\"r\"} 7.25\nh_count{route=\"r\"} 3\n"
        );
        let families = strict::read(&text).unwrap();
        assert_eq!(families["a_total"].value(&[("x", "q\"b\\l\n")]), 0.5);
    }

    #[test]
    fn the_strict_reader_refuses() {
        for bad in [
            "",
            "a 1\n",
            "# HELP a h\n# TYPE a gauge\na 1",
            "# HELP a h\n# TYPE a gauge\na 1\na 1\n",
            "# HELP a h\n# TYPE b gauge\na 1\n",
            "# HELP a h\n# TYPE a counter\na 1\n",
            "# HELP a h\n# TYPE a gauge\nb 1\n",
            "# HELP a h\n# TYPE a gauge\na{x=\"y} 1\n",
            "# HELP a h\n# TYPE a gauge\na{x=\"y\",x=\"z\"} 1\n",
            "# HELP a h\n# TYPE a gauge\na one\n",
            "# HELP a h\n# TYPE a gauge\na 1\n# HELP a h\n# TYPE a gauge\na{b=\"c\"} 1\n",
            "# HELP a h\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 1\na_count 1\n",
            "# HELP a h\n# TYPE a histogram\na_bucket{le=\"1\"} 3\na_bucket{le=\"+Inf\"} 2\na_sum 1\na_count 2\n",
        ] {
            assert!(strict::read(bad).is_err(), "{bad:?}");
        }
    }
}
