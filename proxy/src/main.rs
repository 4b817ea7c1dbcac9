//! The `holdfast` command: see [`holdfast::boot::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(holdfast::boot::cli::main(std::env::args().skip(1)))
}
