//! `holdfast-perf`: the measuring tools as one binary. See the library's documentation.

use std::process::ExitCode;

use holdfast_perf::args::Args;
use holdfast_perf::{flame, idle, load, relay, upstream, watch};

const HELP: &str = "\
holdfast-perf <tool> [arguments]

  load      send requests, print rate, latency, statuses, errors (and a process's CPU a request)
  idle      hold many idle keep-alive connections and print a process's memory for each
  upstream  a fast static server
  relay     a bare byte relay: the floor of comparisons
  watch     print a process's CPU and memory
  flame     `perf script` text on stdin -> flame graph (SVG) on stdout; --folded for folded stacks

holdfast-perf <tool> --help tells the arguments.
";

/// Runs one tool.
type Tool = fn(Args) -> Result<(), String>;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let tool = words.next().unwrap_or_default();
    let mut args = Args::new(words);
    let help = args.flag("--help") || args.flag("-h");
    let (text, run): (&str, Tool) = match tool.as_str() {
        "load" => (load::HELP, load::main),
        "idle" => (idle::HELP, idle::main),
        "upstream" => (upstream::HELP, upstream::main),
        "relay" => (relay::HELP, relay::main),
        "watch" => (watch::HELP, watch::main),
        "flame" => (flame::HELP, flame::main),
        "" | "--help" | "-h" | "help" => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprintln!("holdfast-perf: no tool `{other}`\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    if help {
        print!("{text}");
        return ExitCode::SUCCESS;
    }
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast-perf {tool}: {error}");
            ExitCode::FAILURE
        }
    }
}
