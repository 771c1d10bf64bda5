//! The first userspace program of a Linux boot, and the tool that builds its images.
//!
//! `/init` sets up the streams and filesystems that a program needs ([`boot::setup`], [`boot::kmsg`]), reads the
//! kernel command line ([`plan::cmdline`]) and opens what holds the initrd ([`boot::source`]). It walks each
//! source into segments ([`initrd`]: [`format::cpio`] archives, plain or compressed ([`format::compress`]), and
//! [`format::erofs`] images) and decides what to do with them ([`plan`]). Nothing has been changed so far.
//!
//! Then it acts: kernel modules ([`module::loader`], by what [`module::dep`] says), layers and overlay
//! ([`boot::mount`]). It proves that the real init can be executed there ([`boot::verify_init`]), makes that root `/`,
//! frees the old one ([`boot::switch_root`]), leaves a [`boot::report`] and starts it, with a word to [`boot::systemd`] if that
//! is what it is. Whatever fails before that goes
//! to [`boot::rescue`], a [`boot::fault`] of this program included. All the while it pings the
//! [`boot::watchdog`], if asked to.
//!
//! With `root=` ([`plan::device_spec`]) there is a device to find, too: [`device`] looks for it and waits
//! ([`device::uevent`]), by what [`format::superblock`] reads of partition tables and superblocks, while the drivers that
//! the machine's devices ask for are loaded ([`module::sysfs`], [`module::alias`]).
//!
//! Data goes one way, and a file imports only what stands above it in this list.

pub mod sys;

pub mod error;

pub mod bytes;
pub mod json;
pub mod text;

pub mod format;

pub mod initrd;

pub mod plan;

pub mod module;

pub mod device;

pub mod boot;

#[cfg(feature = "tool")]
pub mod tool;
