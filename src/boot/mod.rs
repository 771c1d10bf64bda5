//! The steps of the boot, as src/bin/init.rs calls them.
//!
//! A step of a cargo feature that is off has a stand-in, NAME_off.rs, which does nothing or fails.

pub mod clock;
pub mod console;
pub mod filesystem;
pub mod kmsg;
pub mod priority;

pub mod resolve;
pub mod setup;
#[cfg_attr(not(feature = "systemd"), path = "systemd_off.rs")]
pub mod systemd;
#[cfg_attr(not(feature = "watchdog"), path = "watchdog_off.rs")]
pub mod watchdog;

pub mod source;

pub mod release;
pub mod verified;

#[cfg_attr(not(feature = "verify"), path = "trust_off.rs")]
pub mod trust;

pub mod mount;

pub mod media;

pub mod verify_init;

pub mod switch_root;

#[cfg_attr(not(feature = "disk"), path = "drivers_off.rs")]
pub mod drivers;
pub mod report;

pub mod rescue;

pub mod fault;
