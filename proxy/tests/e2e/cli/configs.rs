//! Whole configuration files: ours, and the user's examples where they are at hand.

use std::path::Path;

use crate::harness::{Launch, Upstream, shared};

fn files(dir: &Path) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = std::fs::read_dir(dir)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read_to_string(path).expect("text"),
            )
        })
        .collect();
    files.sort();
    files
}

const ENVIRONMENT: [(&str, &str); 5] = [
    ("REDIS_PASSWORD", "redis-password-for-tests"),
    ("DATABASE_URL", "postgres://u:p@127.0.0.1:5432/db"),
    (
        "SESSION_ENCRYPTION_KEY",
        "a passphrase of more than twenty characters",
    ),
    (
        "SESSION_ID_SECRET",
        "another passphrase of more than twenty characters",
    ),
    ("ADMIN_TOKEN", "an admin token for tests"),
];

fn with_environment(launch: Launch) -> Launch {
    ENVIRONMENT
        .iter()
        .fold(launch, |launch, (name, value)| launch.env(name, value))
}

#[test]
fn our_own_files_pass_check_without_a_warning_and_serve() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs");
    let files = files(&dir);
    assert!(files.len() >= 5, "{} files", files.len());
    for (name, text) in files {
        let (one, two) = (Upstream::named("one"), Upstream::named("two"));
        let ports = |launch: Launch| {
            with_environment(launch)
                .env("UPSTREAM_1", &one.address())
                .env("UPSTREAM_2", &two.address())
        };
        let said = ports(Launch::files(&[&text])).check();
        assert_eq!(said.code, 0, "{name}: {said:?}");
        assert!(
            !said.all().to_lowercase().contains("not built"),
            "{name}: {}",
            said.all()
        );
        let gateway = ports(Launch::files(&[&text])).start();
        let response = gateway.get("/app/x").expect(200);
        assert!(["one", "two"].contains(&response.text().as_str()), "{name}");
        assert_eq!(one.faults().len() + two.faults().len(), 0);
    }
}

/// What the examples take for granted: services, and a place to listen.
fn base(app: &Upstream) -> String {
    let entry = app.entry();
    let service = |name: &str| format!("    - {{ name: {name}, upstreams: [{entry}] }}\n");
    format!(
        "gateway:\n  listeners: [{{ address: \"127.0.0.1:0\" }}]\n  admin: {{ address: \"127.0.0.1:0\" }}\n  shutdown: {{ delay: 0s }}\n  services:\n{}{}{}  \
         router:\n    rules:\n      - {{ id: rest, path: \"/*\", serviceName: app }}\n",
        service("app"),
        service("chat-service"),
        service("cart-service")
    )
}

#[test]
fn every_example_of_the_document_passes_check_alone_and_over_services() {
    let Some(dir) = shared("spec/examples") else {
        return;
    };
    let examples = files(&dir);
    assert_eq!(examples.len(), 25);
    let app = Upstream::named("app");
    let wrong: Vec<String> = examples
        .iter()
        .flat_map(|(name, text)| {
            let alone = with_environment(Launch::files(&[text])).check();
            let over = with_environment(Launch::files(&[&base(&app), text])).check();
            [(name, "alone", alone), (name, "over services", over)]
        })
        .filter(|(_, _, said)| said.code != 0)
        .map(|(name, how, said)| format!("{name} {how}: {}", said.all()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_example_that_needs_no_other_process_serves() {
    let Some(dir) = shared("spec/examples") else {
        return;
    };
    let elsewhere = ["redis", "database", "replication"];
    let (mut served, mut told) = (0, 0);
    for (name, text) in files(&dir) {
        let app = Upstream::named("app");
        let needs_others = elsewhere.iter().any(|word| {
            text.contains(&format!("type: {word}")) || text.contains(&format!("{word}:\n"))
        });
        match with_environment(Launch::files(&[&base(&app), &text])).try_start() {
            Ok(gateway) => {
                let path = if text.contains("/chat/*") {
                    "/chat/room"
                } else {
                    "/"
                };
                gateway.get(path).expect(200);
                assert_eq!(app.count(), 1, "{name}");
                served += 1;
            }
            Err(said) => {
                assert!(needs_others, "{name}: {}", said.stderr);
                assert!(
                    said.code == 2 && said.stderr.contains("gateway."),
                    "{name} says why: {}",
                    said.stderr
                );
                told += 1;
            }
        }
    }
    assert!(
        served >= 17 && served + told == 25,
        "{served} served, {told} told why not"
    );
}
