//! The probe: here, under lowered limits, as another user, and where io_uring is denied.

mod common;

use std::process::Command;

use common::*;
use holdfast_runtime::data_core::{self, Driver};
use holdfast_runtime::probe::{self, Kernel, Wanted};

#[test]
fn here_everything_works() {
    let report = probe::run(&Wanted::default());
    assert!(report.kernel >= Kernel(5, 15), "{}", report.kernel);
    let ring = report
        .ring
        .clone()
        .expect("io_uring, which these tests need");
    assert!(ring.entries >= 256);
    assert_eq!(report.errors, Vec::<String>::new());
    assert!(matches!(report.driver(), Driver::Ring(_)));
    assert!(report.nofile.soft >= report.nofile.found);
    assert_eq!(
        report.nofile.soft.min(1 << 20),
        report.nofile.hard.min(1 << 20),
        "soft goes up to hard"
    );
}

#[test]
fn what_is_demanded_and_can_not_be_is_an_error() {
    let report = probe::run(&Wanted {
        single_issuer: Some(false),
        defer_taskrun: Some(true),
        ..Wanted::default()
    });
    assert_eq!(
        report.errors,
        ["runtime.ring.deferTaskrun: it needs singleIssuer"]
    );
    let report = probe::run(&Wanted {
        sqpoll: Some(true),
        ..Wanted::default()
    });
    let ring = report.ring.unwrap();
    if ring.sqpoll {
        assert!(
            !ring.coop_taskrun && !ring.defer_taskrun,
            "they do not go together"
        );
    } else {
        assert_eq!(
            report.errors,
            ["runtime.ring.sqpoll: this kernel does not allow it"]
        );
    }
    let report = probe::run(&Wanted {
        coop_taskrun: Some(false),
        ..Wanted::default()
    });
    let ring = report.ring.unwrap();
    assert!(!ring.coop_taskrun && ring.single_issuer);
}

#[test]
fn epoll_by_request() {
    let report = probe::run(&Wanted {
        legacy: true,
        ..Wanted::default()
    });
    assert!(report.ring.is_none() && report.glommio.is_err());
    assert_eq!(report.driver(), Driver::Legacy);
}

/// Denies io_uring_setup to this thread and those that it starts, as container profiles do.
fn deny_io_uring(errno: i32) {
    const fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        }
    }
    let mut steps = [
        // The system call's number is the first field of what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_io_uring_setup as u32,
        ),
        step(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | errno as u32,
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the program and its steps outlive the calls, which copy them.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program),
            0
        );
    }
}

#[test]
fn a_seccomp_profile_that_denies_it_is_named_and_epoll_serves() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let (report, got) = std::thread::spawn(move || {
            deny_io_uring(errno);
            let report = probe::run(&Wanted::default());
            let core = data_core::spawn(spec("core", report.driver()), || async {
                monoio::time::sleep(std::time::Duration::from_millis(1)).await;
            })
            .unwrap();
            let got = core.got().clone();
            core.join().unwrap();
            (report, got)
        })
        .join()
        .unwrap();
        assert!(report.ring.is_none() && report.glommio.is_err());
        assert_eq!((got.driver, got.warnings), (Driver::Legacy, vec![]));
        let told = report.warnings.join("; ");
        assert!(
            told.contains("seccomp") && told.contains("running on epoll instead"),
            "{told}"
        );
    }
}

/// Prints what the probe finds, and starts a core on it.
#[test]
#[ignore = "started by the tests below, in a process of its own"]
fn helper_report() {
    let report = probe::run(&Wanted {
        rings: 2,
        ..Wanted::default()
    });
    let handles: Vec<_> = (0..2)
        .map(|_| data_core::spawn(spec("core", report.driver()), || async {}).unwrap())
        .collect();
    for handle in handles {
        println!("core: {} {:?}", handle.got().driver, handle.got().warnings);
        handle.join().unwrap();
    }
    println!("memlock: {}", report.memlock.soft);
    match &report.glommio {
        Ok(()) => println!("glommio: yes"),
        Err(why) => println!("glommio: {why}"),
    }
    for warning in &report.warnings {
        println!("warning: {warning}");
    }
}

/// Runs the helper in a shell after `setup`, by way of `prefix`; `None` if that is not possible here.
fn report(setup: &str, prefix: &str) -> Option<String> {
    // A copy that any user may run.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("probe");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let command = format!(
        "{setup} exec {prefix} {} --ignored --exact --nocapture helper_report",
        program.display()
    );
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if !told.contains("running 1 test") {
        eprintln!("skipped, not possible here: {told}");
        return None;
    }
    assert!(output.status.success(), "{told}");
    Some(told)
}

fn can_switch_user() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:\t0\t0")))
}

#[test]
fn little_locked_memory_as_another_user_steps_down_and_says_what_to_raise() {
    if !can_switch_user() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let Some(told) = report("ulimit -l 512;", as_nobody) else {
        return;
    };
    assert!(told.contains("LimitMEMLOCK"), "{told}");
    assert!(
        told.contains("core: io_uring, 1024 entries")
            || told.contains("core: io_uring, 256 entries"),
        "{told}"
    );
    assert!(told.contains("glommio: yes"), "{told}");
    let Some(told) = report("ulimit -l 0;", as_nobody) else {
        return;
    };
    assert!(told.contains("core: epoll"), "{told}");
    assert!(told.contains("running on epoll instead"), "{told}");
    assert!(
        told.contains("glommio: replication needs io_uring"),
        "{told}"
    );
}

#[test]
fn a_low_soft_limit_is_raised() {
    let Some(told) = report("ulimit -S -l 64;", "") else {
        return;
    };
    let memlock: u64 = told
        .lines()
        .find_map(|l| l.strip_prefix("memlock: "))
        .unwrap()
        .parse()
        .unwrap();
    assert!(memlock > 64 * 1024, "{told}");
}
