//! Kernel modules: which to load, their dependencies, and loading them.

pub mod dep;
mod fnmatch;

pub mod modprobe_d;

pub mod alias;

pub mod sysfs;

pub mod loader;
