//! Layers from tar archives and container images.
//!
//! A layer of an image is a tar archive: `member` reads it, `layer_builder` applies it to the
//! `stack` of layers below, and `archive` or `unpack` passes the result to mkfs.erofs. Both write the same tree, with the whiteouts and
//! opaque directories of overlayfs.

mod digest;
mod file_slice;
mod pax;
mod platform;
pub mod reference;

mod sparse;

mod spool;

mod member;

mod stack;

mod layer_builder;

mod archive;
mod cache;
mod store;

mod image;
mod unpack;

mod erofs;

pub mod layers;
