//! No text makes loading panic, and every outcome is a plan or errors, never both or neither.

use std::cell::Cell;

use holdfast_config::keys::{Default, Form, Type, table};
use holdfast_config::{Mode, Outcome, Source, describe, load_on};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn load(texts: &[String], mode: Mode) -> Outcome {
    let sources: Vec<Source> = texts
        .iter()
        .map(|text| Source {
            name: "random.yaml".into(),
            text: text.clone(),
        })
        .collect();
    let env = |name: &str| name.len().is_multiple_of(2).then(|| name.to_owned());
    load_on("host-1", &sources, &env, mode)
}

/// Loads in both modes; how many plans came out.
fn judge(texts: &[String]) -> usize {
    let mut plans = 0;
    for mode in [Mode::Run, Mode::Check] {
        let out = load(texts, mode);
        assert_eq!(out.plan.is_some(), out.errors.is_empty(), "{texts:?}");
        for d in out.errors.iter().chain(&out.warnings) {
            assert!(d.line >= 1 && d.column >= 1 && !d.message.is_empty());
            assert!(!d.to_string().contains('\n'), "{d}");
        }
        if let Some(plan) = out.plan {
            plans += 1;
            assert!(!describe(&plan).is_empty());
            assert!(plan.rules.iter().all(|r| r.service < plan.services.len()));
            assert!(plan.services.iter().all(|s| !s.upstreams.is_empty()));
            assert!(plan.session.is_none_or(|s| !s.sources.is_empty()));
            assert!(mode == Mode::Check || !plan.services.is_empty());
        }
    }
    plans
}

/// Values that are right somewhere and wrong elsewhere.
fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("0".to_owned()),
        Just("30s".to_owned()),
        Just("8KB".to_owned()),
        Just("100/s".to_owned()),
        Just("auto".to_owned()),
        Just("\"127.0.0.1:8080\"".to_owned()),
        Just("cookie".to_owned()),
        Just("\"/a/*\"".to_owned()),
        Just("\"${AB:-x}\"".to_owned()),
        Just("\"${ABC}\"".to_owned()),
        Just("~".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("app".to_owned()),
        (-5i64..100_000).prop_map(|n| n.to_string()),
        "[ -~]{0,12}".prop_map(|s| format!("{s:?}")),
    ]
}

/// A good value for most types, so that the rules over several values are reached.
fn fitting(ty: Type, pick: usize) -> String {
    let of = |words: &[&str]| {
        words
            .get(pick % words.len().max(1))
            .copied()
            .unwrap_or("x")
            .to_owned()
    };
    match ty {
        Type::Bool | Type::BoolOrMap => of(&["true", "false"]),
        Type::BoolOrAuto => of(&["auto", "true", "false"]),
        Type::Int(min, max) => (min + i64::try_from(pick).unwrap_or(0) % 40)
            .min(max)
            .to_string(),
        Type::PowerOfTwo(min, _) => min.to_string(),
        Type::ZeroOrFloat(_) => of(&["0", "1.5"]),
        Type::Enum(words) => of(words),
        Type::Enums(words) => format!("[{}]", of(words)),
        Type::Duration | Type::DurationOrAuto => of(&["0", "5s", "1h30m", "7d"]),
        Type::Size(min, _) => min.to_string(),
        Type::Rate => of(&["0", "5/s", "100/m"]),
        Type::Cores => of(&["auto", "2", "\"0-1\"", "[{ cpu: 0 }, 1]"]),
        Type::CpuOrAuto => of(&["auto", "1"]),
        Type::Factor => of(&["all", "3"]),
        Type::OnUnavailable => of(&["rebind", "{ hold: 5s }", "\"reject: 503\""]),
        Type::Free => "{ a: 1, b: \"${timestamp}\" }".into(),
        Type::Secret | Type::Secrets => "a-secret-of-some-length".into(),
        Type::Text(form) => text(form, pick),
        Type::Texts(form) => format!("[{}]", text(form, pick)),
        _ => "{}".into(),
    }
}

fn text(form: Form, pick: usize) -> String {
    match form {
        Form::Any | Form::Name | Form::Cookie | Form::Parameter => format!("n{}", pick % 50),
        Form::Socket => format!("\"127.0.0.1:{}\"", 1000 + pick),
        Form::HostPort | Form::Upstream => format!("\"h{}.internal:80\"", pick % 100),
        Form::Cidr => "10.0.0.0/8".into(),
        Form::Header => format!("X-{}", pick % 50),
        Form::HeaderPrefix => "X-S-".into(),
        Form::Domain | Form::Host => "a.example.com".into(),
        Form::Path => format!("/p{}", pick % 5),
        Form::RulePath => format!("/p{}/*", pick % 50),
        Form::Method => "GET".into(),
        Form::Url | Form::Origin => "\"https://a.example.com\"".into(),
        Form::LogFormat => "json".into(),
        Form::Table => "t".into(),
    }
}

/// The block below `pattern` with the keys that `picks` chooses, in flow style.
fn block(
    pattern: &str,
    odds: bool,
    picks: &mut impl Iterator<Item = (usize, String)>,
    depth: usize,
) -> String {
    let mut out = String::from("{");
    for key in table().children(pattern) {
        let Some((pick, odd)) = picks.next() else {
            break;
        };
        if pick % 4 != 0 && depth > 0 && key.default != Default::Required {
            continue;
        }
        let name = key.pattern.rsplit('.').next().unwrap_or("");
        let value = match key.ty {
            _ if odds && pick % 23 == 0 => odd,
            Type::Map => block(&key.pattern, odds, picks, depth + 1),
            Type::List | Type::OneOrMany => {
                let item = format!("{}[]", key.pattern);
                let items: Vec<String> = (0..=pick % 3)
                    .map(|_| block(&item, odds, picks, depth + 1))
                    .collect();
                format!("[{}]", items.join(", "))
            }
            ty => fitting(ty, pick),
        };
        out.push_str(&format!("{name}: {value}, "));
    }
    out + "}"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in "\\PC{0,200}", more in "[ -~\\n\\t]{0,200}") {
        judge(std::slice::from_ref(&text));
        judge(&[format!("gateway:\n{more}"), text]);
    }

    #[test]
    fn text_like_yaml(lines in prop::collection::vec("( {0,6})(- )?[a-zA-Z]{1,8}: ?([\\[{\"'&*!|>%@$#:,\\]}a-z0-9]{0,8})", 0..20)) {
        judge(&[format!("gateway:\n{}\n", lines.join("\n"))]);
    }

    #[test]
    fn any_key_with_any_value(rows in prop::collection::vec((0usize..1000, scalar()), 1..6)) {
        let rows: Vec<String> = rows.iter().map(|(i, value)| {
            let keys = table().rows();
            let pattern = &keys[i % keys.len()].pattern;
            let mut text = value.clone();
            for part in pattern.rsplit('.') {
                text = match part.strip_suffix("[]") {
                    Some(name) => format!("{{ {name}: [{text}] }}"),
                    None => format!("{{ {part}: {text} }}"),
                };
            }
            text
        }).collect();
        judge(&rows);
    }
}

/// Whole files of keys whose values fit, half of them with a few that do not: what the rules over several
/// values see. Enough of them must pass for the plan's builders to be reached.
#[test]
fn any_keys_with_fitting_values() {
    let picks = prop::collection::vec((0usize..1000, scalar()), 400);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 192,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let plans = Cell::new(0);
    let outcome = runner.run(&(picks, any::<bool>()), |(picks, odds)| {
        let mut picks = picks.into_iter().cycle().take(20_000);
        plans.set(plans.get() + judge(&[block("", odds, &mut picks, 0)]));
        Ok(())
    });
    if let Err(e) = outcome {
        panic!("{e}");
    }
    assert!(plans.get() >= 10, "only {} plans of 384", plans.get());
}

#[test]
fn long_and_deep_texts_end_soon() {
    let begin = std::time::Instant::now();
    for text in [
        "[".repeat(200_000),
        "{a: ".repeat(200_000),
        "- ".repeat(100_000),
        "? ".repeat(100_000),
        "a: &a [*a]\n".repeat(1000),
        format!(
            "gateway: {{ {} }}",
            (0..3000)
                .map(|i| format!("k{i}: 1"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        format!("gateway:\n  node: \"{}\"", "${A".repeat(50_000)),
        format!("gateway:\n  node: \"{}\"", "${AB:-".repeat(50_000)),
        "x".repeat(5 << 20),
        format!("gateway: [{}]", "a, ".repeat(500_000)),
        format!(
            "gateway: {{ {} }}",
            (0..300_000)
                .map(|i| format!("k{i}: 1"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        format!(
            "gateway: {{ limits: {{ {} }} }}",
            (0..9_000)
                .map(|i| format!("headrs{i}: 1"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        format!(
            "gateway: {{ websocket: {{ allowedOrigins: [{}1] }} }}",
            (0..9_990).map(|i| format!("{i}, ")).collect::<String>()
        ),
    ] {
        assert!(!load(&[text], Mode::Check).errors.is_empty());
    }
    assert!(begin.elapsed().as_secs() < 60, "{:?}", begin.elapsed());
}
