//! The host tool: spec files and layers to an image, and an image to what can be said of it.
//!
//! Nothing here is linked into `/init`. What both need to agree on (the formats, the walk, the
//! plan) stands above this module and is used as it is.

pub mod archive;
pub mod boot;
pub mod build;
pub mod cat;
pub mod check;
pub mod compressed;
pub mod config;
pub mod conflicts;
pub mod depmod;
pub mod doubts;
pub mod erofs_tree;
pub mod files;
pub mod host;
pub mod layer;
pub mod list;
pub mod loader;
pub mod loader_modules;
pub mod machine;
pub mod memory;
pub mod merged;
pub mod module;
pub mod needs;
pub mod newroot;
pub mod output;
pub mod rootfs;
pub mod spec;
pub mod text;
pub mod tree;
pub mod unpack;
