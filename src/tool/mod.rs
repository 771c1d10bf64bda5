//! The host tool: builds, lists, checks and boots images, and shows the plan for them.
//!
//! `/init` does not link any of this. The modules above this one are for both.

pub mod progress;

pub mod finding;
pub mod hash_tree;
pub mod kernel_config;
pub mod platform;
pub mod shell;
pub mod tmpfile;

pub mod image;

pub mod verify;

pub mod build;

pub mod kernel_file;

pub mod check;
pub mod list;

pub mod bundle;
pub mod cat;
pub mod extract;
pub mod plan;
pub mod qemu;
pub mod segments;

pub mod diff;

pub mod cli;
