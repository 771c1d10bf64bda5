//! The first userspace program of a Linux boot, and the tool that builds its images.
//!
//! `/init` sets up the streams and filesystems that a program needs ([`setup`], [`kmsg`]), reads the
//! kernel command line ([`cmdline`]) and opens what holds the initrd ([`source`]). It walks each
//! source into segments ([`segment`]: [`cpio`] archives, plain or compressed ([`compress`]), and
//! [`erofs`] images) and decides what to do with them ([`plan`]). Nothing has been changed so far.
//!
//! Then it acts: kernel modules ([`load`], by what [`modules`] says), layers and overlay
//! ([`mount`]). It proves that the real init can be executed there ([`proof`]), makes that root `/`,
//! frees the old one ([`switch`]), leaves a [`report`] and starts it, with a word to [`systemd`] if that
//! is what it is. Whatever fails before that goes
//! to [`rescue`], a [`fault`] of this program included. All the while it pings the [`watchdog`], if asked to.
//!
//! With `root=` ([`rootspec`]) there is a device to find, too: [`device`] looks for it and waits
//! ([`uevent`]), by what [`probe`] reads of partition tables and superblocks, while the drivers that
//! the machine's devices ask for are loaded ([`coldplug`], [`alias`]).
//!
//! Data goes one way, and a file imports only what stands above it in this list.

pub mod sys;

pub mod error;

pub mod bytes;
pub mod json;
pub mod words;

pub mod compress;
pub mod cpio;
pub mod erofs;
pub mod modules;
pub mod rootspec;
pub mod uevent;

pub mod alias;
pub mod probe;
pub mod segment;

pub mod cmdline;

pub mod plan;

pub mod kmsg;
pub mod setup;
pub mod systemd;
pub mod watchdog;

pub mod coldplug;
pub mod device;
pub mod load;
pub mod source;

pub mod mount;

pub mod proof;

pub mod switch;

pub mod report;
pub mod rescue;

pub mod fault;

#[cfg(feature = "tool")]
pub mod pack;
