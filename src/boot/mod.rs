//! The steps of the boot, as src/bin/init.rs calls them.

pub mod clock;
pub mod console;
pub mod filesystem;
pub mod kmsg;
pub mod priority;

pub mod resolve;
pub mod setup;
pub mod systemd;
pub mod watchdog;

pub mod source;

pub mod mount;

pub mod verify_init;

pub mod switch_root;

pub mod drivers;
pub mod report;

pub mod rescue;

pub mod fault;
