//! PID 1 of a container image without an init: its program, from start to power-off. The library describes each step.

use std::io::Write;

use layerinit::run::network;
use layerinit::run::supervise::{NOT_STARTED, end_others, run};
use rustix::system::{RebootCommand, reboot};

fn main() {
    if !rustix::process::getpid().is_init() {
        eprintln!(
            "layerinit-run {}: the init of a container image, which `layerinit build` adds to it. Only the kernel or \
             /init can start it, as PID 1.",
            env!("CARGO_PKG_VERSION")
        );
        std::process::exit(1);
    }
    // The kernel then sends SIGINT for Ctrl-Alt-Del. In a container, it refuses.
    let _ = reboot(RebootCommand::CadOff);
    // A kernel may have no networking.
    let _ = network::loopback_up();
    if let Err(error) = network::configure() {
        say(&format!("layerinit-run: {error}"));
    }
    let status = run().unwrap_or_else(|error| {
        say(&format!("layerinit-run: {error}"));
        NOT_STARTED
    });
    end_others();
    rustix::fs::sync();
    say(&format!("layerinit-run: exit status {status}"));
    let _ = rustix::termios::tcdrain(rustix::stdio::stdout());
    for command in [RebootCommand::PowerOff, RebootCommand::Halt] {
        if let Err(errno) = reboot(command) {
            say(&format!("layerinit-run: {command:?}: {errno}"));
        }
    }
    loop {
        std::thread::park();
    }
}

/// Writes a line to the console. An error is ignored: there is nowhere to report it.
fn say(line: &str) {
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}
