//! The blocks of the user's document, where they are at hand.
use std::path::{Path, PathBuf};

use holdfast_config::{Mode, Outcome, Source, load_on};

const SERVICES: &str = "\
gateway:
  services:
    - name: chat-service
      upstreams: [{ address: \"127.0.0.1:9001\" }]
    - name: cart-service
      upstreams: [{ address: \"127.0.0.1:9002\" }]
  router:
    rules:
      - { path: /chat/*, serviceName: chat-service }
      - { path: /*, serviceName: cart-service }
";

fn folder() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let given = std::env::var_os("HOLDFAST_EXAMPLES").map(PathBuf::from);
    let found = given.or_else(|| {
        here.ancestors()
            .map(|a| a.join("shared/spec/examples"))
            .find(|p| p.is_dir())
    });
    if found.is_none() {
        eprintln!("SKIPPED: no folder of example files; name one in HOLDFAST_EXAMPLES");
    }
    found
}

fn secrets(name: &str) -> Option<String> {
    [
        "REDIS_PASSWORD",
        "DATABASE_URL",
        "SESSION_ENCRYPTION_KEY",
        "SESSION_ID_SECRET",
    ]
    .contains(&name)
    .then(|| format!("{name}-that-is-long-enough"))
}

fn load(sources: &[(&str, &str)], mode: Mode) -> Outcome {
    let sources: Vec<Source> = sources
        .iter()
        .map(|(name, text)| Source {
            name: (*name).into(),
            text: (*text).into(),
        })
        .collect();
    load_on("gateway-us-east-1", &sources, &secrets, mode)
}

#[test]
fn every_example_loads_alone_and_over_services() {
    let Some(folder) = folder() else { return };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|e| e.expect("an entry").path())
        .collect();
    files.sort();
    assert_eq!(files.len(), 25);
    for file in files {
        let name = file
            .file_name()
            .and_then(|n| n.to_str())
            .expect("a name")
            .to_owned();
        let text = std::fs::read_to_string(&file).expect("text");
        for sources in [
            vec![(name.as_str(), text.as_str())],
            vec![("services.yaml", SERVICES), (name.as_str(), text.as_str())],
        ] {
            let out = load(&sources, Mode::Check);
            let errors: Vec<String> = out.errors.iter().map(ToString::to_string).collect();
            assert!(errors.is_empty(), "{name}: {errors:#?}");
            assert!(out.plan.is_some());
            for w in &out.warnings {
                eprintln!("{w}");
            }
        }
    }
}
