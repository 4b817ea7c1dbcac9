//! The command line: what each command says, and how the process starts and ends.

mod check;
mod configs;
mod cores;
mod demo;
mod ending;
mod starting;
