//! The steps of the boot, as src/bin/init.rs calls them.

pub mod kmsg;
pub mod setup;
pub mod systemd;
pub mod watchdog;

pub mod source;

pub mod mount;

pub mod verify_init;

pub mod switch_root;

pub mod report;
pub mod rescue;

pub mod fault;
