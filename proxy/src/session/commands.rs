//! What an upstream's response asks of the session: its `X-Session-*` headers, as commands.
//!
//! Owns their names and how their values are read. Pure but for counters.

use holdfast_config::plan::Control;
use holdfast_config::units;
use holdfast_store::fields::Fields;
use holdfast_store::session::{Commands, Destroy};

use crate::accept::Conn;
use crate::core::Core;
use crate::metrics::Metric;
use crate::parse::Name;

/// Reads the commands of a response, as far as the service may give them.
pub fn read(core: &Core, conn: &Conn, input: &[u8], control: Control) -> Commands {
    let mut commands = Commands::default();
    let Some(names) = &conn.generation.names else {
        return commands;
    };
    for line in conn
        .response
        .lines
        .iter()
        .filter(|l| l.name == Name::Session)
    {
        let Some(what) = line.name(input).get(names.prefix.len()..) else {
            continue;
        };
        let value = line.value(input);
        let Some(allowed) = one(what, value, control, &mut commands) else {
            core.metrics().count(Metric::SetsMalformed);
            static SAID: crate::log::Limited =
                crate::log::Limited::new(std::time::Duration::from_secs(10));
            SAID.warn(|| {
                format!(
                    "an upstream's {}{} could not be read",
                    names.prefix,
                    String::from_utf8_lossy(what)
                )
            });
            continue;
        };
        if !allowed {
            core.metrics().count(Metric::ControlDenied);
            static SAID: crate::log::Limited =
                crate::log::Limited::new(std::time::Duration::from_secs(10));
            SAID.warn(|| {
                let what = String::from_utf8_lossy(what).into_owned();
                format!(
                    "an upstream sent {}{what}, which its service's control does not allow",
                    names.prefix
                )
            });
        }
    }
    commands
}

/// Takes one header in. `None`: it can't be read; `Some(false)`: the service may not.
fn one(what: &[u8], value: &[u8], control: Control, commands: &mut Commands) -> Option<bool> {
    let is = |name: &str| what.eq_ignore_ascii_case(name.as_bytes());
    let may = |allowed: bool, f: &mut dyn FnMut()| {
        if allowed {
            f();
        }
        Some(allowed)
    };
    if is("Create") {
        flag(value)?;
        may(control.create, &mut || commands.create = true)
    } else if is("Set") {
        let fields = Fields::parse(value).ok()?;
        may(control.set, &mut || commands.set = Some(fields.clone()))
    } else if is("If-Version") {
        let version = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
        // What can't be read is no session's version: the write that it guards must not happen.
        let wanted = version.unwrap_or(u64::MAX);
        let allowed = may(control.set, &mut || commands.if_version = Some(wanted));
        version.and(allowed)
    } else if is("Authenticate") {
        let fields = Fields::parse(value).ok()?;
        may(control.authenticate, &mut || {
            commands.authenticate = Some(fields.clone())
        })
    } else if is("Timeout") {
        let timeout = units::duration(std::str::from_utf8(value).ok()?)?;
        let ms = u64::try_from(timeout.as_millis()).ok()?;
        may(control.set, &mut || commands.timeout = Some(ms))
    } else if is("Rotate") {
        flag(value)?;
        may(control.rotate, &mut || commands.rotate = true)
    } else if is("Destroy") {
        let whom = match value {
            b"1" => Destroy::This,
            _ if value.eq_ignore_ascii_case(b"others") => Destroy::Others,
            _ if value.eq_ignore_ascii_case(b"all") => Destroy::All,
            _ => return None,
        };
        may(control.destroy, &mut || commands.destroy = Some(whom))
    } else {
        // Unknown ones are removed, and mean nothing.
        Some(true)
    }
}

fn flag(value: &[u8]) -> Option<()> {
    (value == b"1").then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Control = Control {
        create: true,
        set: true,
        authenticate: true,
        rotate: true,
        destroy: true,
    };

    fn read_one(what: &str, value: &str, control: Control) -> (Option<bool>, Commands) {
        let mut commands = Commands::default();
        let outcome = one(what.as_bytes(), value.as_bytes(), control, &mut commands);
        (outcome, commands)
    }

    #[test]
    fn each_header_is_a_command() {
        assert!(read_one("create", "1", ALL).1.create);
        assert!(read_one("Set", r#"{"a":1,"b":null}"#, ALL).1.set.is_some());
        assert_eq!(read_one("If-Version", "17", ALL).1.if_version, Some(17));
        assert!(
            read_one("Authenticate", r#"{"userId":"u1"}"#, ALL)
                .1
                .authenticate
                .is_some()
        );
        assert_eq!(read_one("Timeout", "30m", ALL).1.timeout, Some(1_800_000));
        assert!(read_one("Rotate", "1", ALL).1.rotate);
        assert_eq!(
            read_one("Destroy", "Others", ALL).1.destroy,
            Some(Destroy::Others)
        );
        assert_eq!(
            read_one("Nonsense", "x", ALL),
            (Some(true), Commands::default())
        );
    }

    #[test]
    fn what_cannot_be_read_does_nothing() {
        for (what, value) in [
            ("Create", "yes"),
            ("Set", "[1]"),
            ("Set", "{"),
            ("Authenticate", ""),
            ("Timeout", "soon"),
            ("Rotate", "0"),
            ("Destroy", "everything"),
        ] {
            assert_eq!(
                read_one(what, value, ALL),
                (None, Commands::default()),
                "{what}: {value}"
            );
        }
    }

    #[test]
    fn a_version_that_cannot_be_read_matches_none() {
        let (outcome, commands) = read_one("If-Version", "-1", ALL);
        assert_eq!((outcome, commands.if_version), (None, Some(u64::MAX)));
    }

    #[test]
    fn control_takes_away_what_a_service_may_not() {
        let none = Control {
            create: false,
            set: false,
            authenticate: false,
            rotate: false,
            destroy: false,
        };
        for (what, value) in [
            ("Create", "1"),
            ("Set", "{}"),
            ("Authenticate", "{}"),
            ("Rotate", "1"),
            ("Destroy", "1"),
            ("Timeout", "1s"),
        ] {
            assert_eq!(
                read_one(what, value, none),
                (Some(false), Commands::default()),
                "{what}"
            );
        }
    }
}
