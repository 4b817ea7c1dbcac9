//! Command-line arguments: `--name value` and `--name` flags, each asked for by name.
//!
//! Owns the words of one subcommand; used on the main thread, before anything is started. What is
//! not asked for is an error at [`Args::finish`]. Knows no abbreviations and no `--name=value`.
//! Tested here.

use std::net::SocketAddr;
use std::time::Duration;

/// The words after the subcommand.
#[derive(Debug)]
pub struct Args {
    words: Vec<Option<String>>,
}

/// A usage error: the text names the argument and what was expected.
pub type Usage<T> = Result<T, String>;

impl Args {
    /// Takes the words as they came.
    pub fn new(words: impl IntoIterator<Item = String>) -> Self {
        Self {
            words: words.into_iter().map(Some).collect(),
        }
    }

    /// Whether `--name` is there; takes it away.
    pub fn flag(&mut self, name: &str) -> bool {
        for word in &mut self.words {
            if word.as_deref() == Some(name) {
                *word = None;
                return true;
            }
        }
        false
    }

    /// The value after `--name`; takes both away. Errors where the value is missing.
    pub fn value(&mut self, name: &str) -> Usage<Option<String>> {
        let Some(at) = self.words.iter().position(|w| w.as_deref() == Some(name)) else {
            return Ok(None);
        };
        let value = self.words.get_mut(at + 1).and_then(Option::take);
        match value {
            Some(value) if !value.starts_with("--") => {
                if let Some(word) = self.words.get_mut(at) {
                    *word = None;
                }
                Ok(Some(value))
            }
            _ => Err(format!("{name} needs a value")),
        }
    }

    /// Every value given for `--name`, in order.
    pub fn values(&mut self, name: &str) -> Usage<Vec<String>> {
        let mut all = Vec::new();
        while let Some(value) = self.value(name)? {
            all.push(value);
        }
        Ok(all)
    }

    /// The value of `--name` through `parse`, or `default`.
    pub fn parsed<T>(
        &mut self,
        name: &str,
        default: T,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Usage<T> {
        match self.value(name)? {
            None => Ok(default),
            Some(text) => parse(&text).ok_or_else(|| format!("{name}: can't read `{text}`")),
        }
    }

    /// A whole number.
    pub fn number(&mut self, name: &str, default: u64) -> Usage<u64> {
        self.parsed(name, default, |t| t.replace('_', "").parse().ok())
    }

    /// A size in bytes: `600`, `64KiB`, `1MiB` (binary).
    pub fn size(&mut self, name: &str, default: usize) -> Usage<usize> {
        self.parsed(name, default, size)
    }

    /// A duration: `500ms`, `5s`, `2m`; a bare number is seconds.
    pub fn duration(&mut self, name: &str, default: Duration) -> Usage<Duration> {
        self.parsed(name, default, duration)
    }

    /// A required `address:port`.
    pub fn address(&mut self, name: &str) -> Usage<SocketAddr> {
        let text = self
            .value(name)?
            .ok_or_else(|| format!("{name} address:port is required"))?;
        address(&text).ok_or_else(|| format!("{name}: `{text}` is not address:port"))
    }

    /// Errors on whatever was never asked for.
    pub fn finish(self) -> Usage<()> {
        match self.words.into_iter().flatten().next() {
            None => Ok(()),
            Some(word) => Err(format!("unknown argument `{word}`")),
        }
    }
}

/// Reads `600`, `64KiB`, `64KB`, `1MiB` (binary, as the gateway's configuration does).
pub fn size(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit = match unit {
        "" | "B" => 1,
        "KB" | "KiB" | "k" => 1 << 10,
        "MB" | "MiB" | "m" => 1 << 20,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

/// Reads `500us`, `500ms`, `5s`, `2m`, and a bare number as seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

/// Reads `127.0.0.1:80`, `:80` (loopback) and `[::1]:80`.
pub fn address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix(':') {
        Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Args {
        Args::new(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn words_are_taken_once_and_leftovers_are_errors() {
        let mut a = args("--rate 4_000 --json --watch a=1 --watch b=2 --odd");
        assert_eq!(a.number("--rate", 0), Ok(4000));
        assert!(a.flag("--json"));
        assert!(!a.flag("--json"));
        assert_eq!(a.values("--watch"), Ok(vec!["a=1".into(), "b=2".into()]));
        assert_eq!(a.finish(), Err("unknown argument `--odd`".into()));
        assert_eq!(
            args("--rate").number("--rate", 0),
            Err("--rate needs a value".into())
        );
        assert!(args("--rate x").number("--rate", 0).is_err());
    }

    #[test]
    fn units() {
        assert_eq!(size("64KiB"), Some(65536));
        assert_eq!(size("600"), Some(600));
        assert_eq!(size("6G"), None);
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("3"), Some(Duration::from_secs(3)));
        assert_eq!(duration("3h"), None);
        assert_eq!(
            address(":80").map(|a| a.to_string()),
            Some("127.0.0.1:80".into())
        );
    }
}
