//! The `holdfast` command: see [`holdfast::boot::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(holdfast::boot::cli::main(std::env::args().skip(1)))
}
