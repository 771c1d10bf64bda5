//! The host tool: spec files and layers to an image, and an image to what can be said of it.
//!
//! Nothing here is linked into `/init`. What both share (the formats, the walk, the plan) is above this
//! module and is used as it is.

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
