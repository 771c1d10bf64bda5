//! Kernel modules: which ones are wanted, what these depend on, and loading them.

pub mod dep;
mod fnmatch;

pub mod modprobe_d;

pub mod alias;

pub mod sysfs;

pub mod loader;
