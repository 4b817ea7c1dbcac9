//! `check`, `schema` and the words of the command line.

use std::process::Command;

use crate::harness::Launch;
use crate::harness::gateway::{BINARY, Said, complete};

const SERVICE: &str =
    "services: [{ name: app, upstreams: [{ id: a, address: \"127.0.0.1:1\" }] }]\n";

fn holdfast(words: &[&str]) -> Said {
    Said::of(Command::new(BINARY).args(words))
}

#[test]
fn a_good_file_is_0_and_shows_the_effective_plan() {
    let keys = format!(
        "{SERVICE}session: {{ identifier: {{ type: cookie, name: shop-session }}, storage: {{ type: memory, memory: {{ maxSessions: 4321 }} }} }}\nruntime: {{ cores: 2 }}\n"
    );
    let said = Launch::new(&keys).check();
    assert_eq!(said.code, 0, "{said:?}");
    for word in ["127.0.0.1:0", "app", "shop-session", "4321"] {
        assert!(said.stdout.contains(word), "{word} in\n{}", said.stdout);
    }
}

#[test]
fn every_error_is_told_with_its_place_and_the_nearest_key() {
    let text = "gateway:\n  servces: []\n  session:\n    options:\n      timeout: soon\n      rollin: true\n    storage:\n      type: mongodb\n  limits: { headers: -1 }\n";
    let said = Launch::files(&[text]).check();
    assert_eq!(said.code, 2, "{said:?}");
    let all = said.all();
    let expected = [
        (":2:3:", "servces", "services"),
        (":5:16:", "gateway.session.options.timeout", "soon"),
        (":6:7:", "rollin", "rolling"),
        (":8:13:", "gateway.session.storage.type", "memory"),
        (":9:", "gateway.limits.headers", "-1"),
    ];
    for (place, path, hint) in expected {
        assert!(
            all.lines().any(|l| l.contains("config-0.yaml")
                && l.contains(place)
                && l.contains(path)
                && l.contains(hint)),
            "{place} {path} {hint} in\n{all}"
        );
    }
}

#[test]
fn a_file_that_is_no_yaml_or_not_there_is_told_too() {
    let said = Launch::files(&["gateway: [\n  a: b: c\n"]).check();
    assert!(
        said.code == 2 && said.all().contains("config-0.yaml:"),
        "{said:?}"
    );
    let said = holdfast(&["check", "-c", "/does/not/exist.yaml"]);
    assert!(
        said.code == 2 && said.stderr.contains("/does/not/exist.yaml"),
        "{said:?}"
    );
    let said = Launch::files(&[""]).check();
    assert_ne!(said.code, 101, "an empty file is no crash: {said:?}");
}

#[test]
fn several_files_are_merged_in_order() {
    let first = complete(&format!(
        "{SERVICE}limits: {{ headers: 50, uriBytes: 1KB }}\nlisteners: [{{ address: \"127.0.0.1:7001\" }}, {{ address: \"127.0.0.1:7002\" }}]\n"
    ));
    let second =
        "gateway:\n  limits: { headers: 60 }\n  listeners: [{ address: \"127.0.0.1:7003\" }]\n";
    let said = Launch::files(&[&first, second]).check();
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stdout.contains("127.0.0.1:7003") && !said.stdout.contains("127.0.0.1:7001"),
        "lists replace:\n{}",
        said.stdout
    );
    let wrong = Launch::files(&[&first, "gateway:\n  limits: { headers: many }\n"]).check();
    assert!(
        wrong.code == 2 && wrong.all().contains("config-1.yaml:2:"),
        "the second file's error is the second file's: {wrong:?}"
    );
}

#[test]
fn environment_variables_expand_and_a_missing_one_names_its_key() {
    let keys = "services: [{ name: app, upstreams: [{ id: a, address: \"${HOST_OF_TEST}:${PORT_OF_TEST:-9999}\" }] }]\n";
    let said = Launch::new(keys).env("HOST_OF_TEST", "127.0.0.9").check();
    assert!(
        said.code == 0 && said.stdout.contains("127.0.0.9:9999"),
        "{said:?}"
    );
    let said = Launch::new(keys).check();
    assert!(
        said.code == 2
            && said.all().contains("HOST_OF_TEST")
            && said
                .all()
                .contains("gateway.services[0].upstreams[0].address"),
        "{said:?}"
    );
}

#[test]
fn secrets_are_never_shown() {
    let keys = format!(
        "{SERVICE}admin: {{ address: \"127.0.0.1:0\", token: admin-token-hidden }}\nsession:\n  identifier: {{ type: cookie, name: sid }}\n  security: {{ encryption: {{ enabled: true, \
         id: {{ enabled: true, secret: id-secret-hidden-and-long-enough }}, data: {{ key: data-key-hidden-and-long-enough }} }} }}\n\
         router: {{ sessionAffinity: {{ cookie: {{ key: pin-key-hidden-and-long-enough }} }} }}\n"
    );
    let said = Launch::new(&keys).check();
    assert_eq!(said.code, 0, "{said:?}");
    assert!(!said.all().contains("hidden"), "{said:?}");
    let wrong = Launch::new(&keys.replace("id-secret-hidden-and-long-enough", "hidden")).check();
    assert!(!wrong.all().contains("hidden"), "{wrong:?}");
}

#[test]
fn an_undefined_service_is_a_warning_for_check_and_an_error_for_run() {
    let keys = format!("{SERVICE}router: {{ rules: [{{ path: \"/*\", serviceName: ap }}] }}\n");
    let said = Launch::new(&keys).check();
    assert!(
        said.code == 0 && said.all().contains("serviceName") && said.all().contains("warn"),
        "{said:?}"
    );
    let said = Launch::new(&keys)
        .try_start()
        .err()
        .expect("it does not start");
    assert!(
        said.code == 2 && said.stderr.contains("gateway.router.rules[0].serviceName"),
        "{said:?}"
    );
}

#[test]
fn a_key_whose_feature_is_not_built_is_named() {
    let keys = format!(
        "{SERVICE}session: {{ identifier: {{ type: cookie, name: sid }}, storage: {{ queueBytes: 1MB }} }}\n"
    );
    let said = Launch::new(&keys).check();
    assert!(
        said.code == 0 && said.all().contains("gateway.session.storage.queueBytes"),
        "{said:?}"
    );
    let gateway = Launch::new(&keys).start();
    assert!(
        gateway
            .stderr
            .text()
            .contains("gateway.session.storage.queueBytes"),
        "{}",
        gateway.stderr.text()
    );
}

#[test]
fn run_without_services_is_an_error() {
    let said = Launch::new("limits: { headers: 50 }\n")
        .try_start()
        .err()
        .expect("it does not start");
    assert!(
        said.code == 2 && said.stderr.contains("gateway.services"),
        "{said:?}"
    );
}

#[test]
fn the_schema_is_json_and_knows_the_keys() {
    let said = holdfast(&["schema"]);
    assert_eq!(said.code, 0, "{said:?}");
    let schema: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert!(
        schema["$schema"]
            .as_str()
            .is_some_and(|s| s.contains("json-schema.org"))
    );
    let text = said.stdout;
    for key in [
        "sessionAffinity",
        "evictionPolicy",
        "crossRegion",
        "messageBuffer",
        "trustedProxies",
    ] {
        assert!(text.contains(&format!("\"{key}\"")), "{key}");
    }
}

#[test]
fn the_words_of_the_command_line_are_explained() {
    for words in [&["--help"][..], &["-h"], &["help"]] {
        let said = holdfast(words);
        assert!(
            said.code == 0
                && ["run", "check", "demo", "schema"]
                    .iter()
                    .all(|w| said.stdout.contains(w)),
            "{words:?}: {said:?}"
        );
    }
    let version = holdfast(&["--version"]);
    assert!(
        version.code == 0 && version.stdout.contains(env!("CARGO_PKG_VERSION")),
        "{version:?}"
    );
    for (words, complaint) in [
        (&[][..], "a command is missing"),
        (&["rum"], "unknown command: rum"),
        (&["help", "rum"], "unknown command: rum"),
        (&["run"], "a configuration is missing"),
        (&["run", "-c"], "-c needs a file"),
        (&["run", "--config"], "--config needs a file"),
        (&["run", "--config="], "--config= needs a file"),
        (&["check", "--nope"], "unknown option: --nope"),
        (
            &["check", "--configuration", "a"],
            "unknown option: --configuration",
        ),
        (&["check", "-c", "a", "b"], "unexpected word: b"),
        (&["demo", "--port"], "demo takes no words: --port"),
        (&["schema", "x"], "schema takes no words: x"),
        (
            &["check", "-c", "/nothing/here.yaml"],
            "/nothing/here.yaml: No such file",
        ),
    ] {
        let said = holdfast(words);
        assert_eq!(said.code, 2, "{words:?}: {said:?}");
        assert!(said.stdout.is_empty(), "{words:?}: {said:?}");
        let first = said.stderr.lines().next().unwrap_or_default();
        let expected = format!("holdfast: {complaint}");
        assert!(first.starts_with(&expected), "{words:?}: {first}");
    }
    for command in ["run", "check", "demo", "schema"] {
        let helps = [
            &[command, "--help"][..],
            &[command, "-h"],
            &["help", command],
        ];
        for words in helps {
            let said = holdfast(words);
            let usage = format!("usage: holdfast {command}");
            assert!(
                said.code == 0 && said.stderr.is_empty() && said.stdout.starts_with(&usage),
                "{words:?}: {said:?}"
            );
        }
    }
    let amid = holdfast(&["check", "-c", "/nothing/here.yaml", "--help"]);
    assert_eq!(amid.code, 0, "help is asked for, whatever else: {amid:?}");
    assert!(
        holdfast(&["chek"]).stderr.contains("check"),
        "the nearest word"
    );
}
