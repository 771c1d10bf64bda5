//! Layers from tar archives and container images.
//!
//! A layer of an image is a tar archive: `member` reads it, `stack` applies it to the layers below, and
//! `archive` or `unpack` passes the result to mkfs.erofs. Both write the same tree, with the whiteouts and
//! opaque directories of overlayfs.

mod digest;
mod file_slice;
mod pax;
pub mod reference;

mod sparse;

mod spool;

mod member;

mod stack;

mod archive;
mod cache;
mod store;

mod image;
mod unpack;

mod erofs;

pub mod layers;
