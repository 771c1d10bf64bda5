//! `/init`, the first userspace program of a Linux boot, and `layerinit`, the tool that builds its images.
//!
//! `/init` raises its priority ([`boot::priority`]), mounts /dev, /proc, /sys and /run ([`boot::setup`]),
//! opens the [`boot::console`] and the kernel log ([`boot::kmsg`]), and reads the kernel command line into
//! options ([`plan::cmdline`]). It then opens the sources of layers ([`boot::source`]; those on disks are mounted
//! by [`boot::media`]) and walks each into
//! segments ([`initrd`]): [`format::cpio`] archives, plain or compressed ([`format::compress`]), and
//! [`format::erofs`] and [`format::squashfs`] images. From segments and options follows the [`plan`]. Up to here only
//! the kernel's own filesystems and those media have been mounted.
//!
//! Next it acts on the plan. It loads the kernel modules that the kernel lacks ([`module::loader`]), mounts
//! the layers and stacks them ([`boot::mount`]), verifies that the real init can be executed in the new root
//! ([`boot::verify_init`]), makes that root `/`, frees the old one ([`boot::switch_root`]) and writes the
//! [`boot::report`]. At last it executes the real init, with arguments for [`boot::systemd`] if it is that.
//!
//! If the loader lists its layers, [`boot::trust`] refuses those that differ ([`verify`]), and words of the command line
//! that the loader's policy does not allow.
//!
//! With `root=` ([`plan::device_spec`]) the [`device`] module finds the block device, by the partition tables
//! and superblocks that [`format::superblock`] reads. Until the device appears, it waits for uevents
//! ([`device::uevent`]) and loads the drivers of the machine's devices ([`module::sysfs`],
//! [`module::alias`]).
//!
//! A failure of any step, a panic and a fault of the program ([`boot::fault`]) go to [`boot::rescue`], which
//! applies the failure policy. With `rd.watchdog` a thread pings the [`boot::watchdog`] all the while.
//!
//! `layerinit-run` ([`run`]) is the init of container images that have none: it starts the image's program in the new
//! root, and powers off when the program ends.
//!
//! Data flows one way: a module uses only those above it in this list. `tests/suite/structure.rs` checks
//! that.

pub mod sys;

pub mod error;

pub mod bytes;
pub mod json;
pub mod text;

pub mod run;

pub mod format;

pub mod initrd;

pub mod plan;

#[cfg(feature = "verify")]
pub mod verify;

pub mod module;

#[cfg(feature = "disk")]
pub mod device;

pub mod boot;

#[cfg(feature = "tool")]
pub mod tool;
