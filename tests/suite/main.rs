//! All tests except those in QEMU: pure tests, and tests that mount filesystems in private namespaces (as
//! root).
//!
//! They are one program, so that it is linked once. `cargo test --test suite NAME` runs a subject or a single
//! test.

#[path = "../common/mod.rs"]
mod common;

mod structure;

// format, initrd, plan, module
mod alias;
mod compress;
mod cpio;
mod device_spec;
mod discovery;
mod initrd;
mod plan;
mod superblock;

#[cfg(feature = "tool")]
mod erofs;

// device, boot
mod boot;
mod device;
#[cfg(feature = "tool")]
mod extract;
mod kept;
mod media;
#[cfg(feature = "tool")]
mod merged;
mod run;
#[cfg(feature = "tool")]
mod squashfs;
mod stacked;
mod stale;
mod tree;
#[cfg(feature = "verify")]
mod trust;
mod unpack;
mod upper;

// tool
#[cfg(feature = "tool")]
mod check;
#[cfg(feature = "tool")]
mod docs;
#[cfg(feature = "tool")]
mod man;
#[cfg(feature = "tool")]
mod support;
#[cfg(feature = "tool")]
mod tool;
