//! The `holdfast` command: see [`holdfast::boot::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: holdfast_runtime::memory::Allocator = holdfast_runtime::memory::Allocator;

fn main() -> ExitCode {
    ExitCode::from(holdfast::boot::cli::main(std::env::args().skip(1)))
}
