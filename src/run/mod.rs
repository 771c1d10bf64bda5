//! `layerinit-run`, the init of a container image that has none: it starts the program that the image's
//! configuration names, as container engines do, and powers off when the program ends.
//!
//! [`network`] sets the address from the kernel command line.
//!
//! [`config`] is the file that `layerinit build` puts next to it, [`user`] finds the user of the program in
//! the image's /etc/passwd and /etc/group, and [`supervise`] starts the program, and waits.

pub mod config;
pub mod network;
pub mod user;

pub mod supervise;
