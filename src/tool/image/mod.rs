//! Reads the contents of an image without mounting anything.

pub mod date;
pub mod fit;
pub mod iso9660;
pub mod pe;
pub mod uimage;

pub mod input;

pub mod files;

pub mod erofs_tree;

pub mod squashfs;

pub mod in_place;

pub mod node;

pub mod changes;

pub mod rootfs;
pub mod spool;

pub mod layer_kernels;

pub mod unpack;

pub mod boot;

pub mod machine;
pub mod rdinit;

pub mod loader_modules;

mod over;

pub mod merged;

pub mod view;
