//! The program `mitmdump`; all of it is in the library.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() {
    std::process::exit(mitm_cli::mitmdump(std::env::args_os()));
}
