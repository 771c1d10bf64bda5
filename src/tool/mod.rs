//! The host tool `layerinit`: builds images, and lists and checks them.
//!
//! Nothing here is linked into `/init`. What both share (the formats, the walk, the plan) is above this
//! module.

pub mod finding;
pub mod kernel_config;
pub mod nameless;

pub mod image;

pub mod build;

pub mod check;
pub mod list;

pub mod cat;
pub mod extract;
pub mod plan;

pub mod cli;
