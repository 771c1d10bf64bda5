//! `layerinit-run`, the init of a container image that has none: it starts the program that the image's configuration
//! names, as the engines of containers do, and powers off when that ends.
//!
//! [`network`] gives the machine the address that the kernel command line has.
//!
//! [`config`] is the file that `layerinit build` puts beside it, [`user`] finds the user of the program in the image's
//! /etc/passwd and /etc/group, and [`supervise`] starts the program, and waits.

pub mod config;
pub mod network;
pub mod user;

pub mod supervise;
