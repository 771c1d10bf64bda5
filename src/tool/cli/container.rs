//! `layerinit build`: arguments for container images.

use clap::Args;

use crate::tool::build::container::layers::ContainerOptions;
use crate::tool::build::runner::{self, RunOptions};
use crate::tool::shell;

/// How archives and container images become layers, and what starts
#[derive(Args)]
#[group(skip)]
#[command(next_help_heading = "Container options")]
pub(super) struct ContainerArgs {
    /// Use the image for this platform, such as linux/arm64, of a multi-platform container image
    /// [default: this machine's]
    #[arg(long, value_name = "PLATFORM", requires = "layers")]
    platform: Option<String>,
    /// Make one layer of each container image
    #[arg(long, requires = "layers")]
    flatten: bool,
    /// Treat absolute names in tar archives as relative to the new root
    #[arg(long, requires = "layers")]
    absolute_names: bool,
    /// Do not use the cache of layers
    #[arg(long)]
    no_cache: bool,
    /// Keep at most this many MiB in the cache of layers
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    cache_size: u64,
    /// Start this program instead of the image's init, Entrypoint and Cmd; quoting as in a shell
    #[arg(long, value_name = "WORDS", requires = "layers", value_parser = entrypoint,
        allow_hyphen_values = true)]
    entrypoint: Option<Entrypoint>,
    /// Set a variable in the environment of the image's program; may be given several times
    #[arg(long = "env", value_name = "NAME=VALUE", requires = "layers", value_parser = runner::variable)]
    variables: Vec<String>,
    /// Start the image's program as this user, USER[:GROUP], names or numbers
    #[arg(long, value_name = "USER", requires = "layers")]
    user: Option<String>,
}

impl ContainerArgs {
    /// How archives and container images become layers.
    pub(super) fn options(&self) -> ContainerOptions {
        ContainerOptions {
            platform: self.platform.clone(),
            flatten: self.flatten,
            cache: (!self.no_cache).then(|| self.cache_size.saturating_mul(1 << 20)),
            absolute_names: self.absolute_names,
        }
    }

    /// The program that the init of a container image starts.
    pub(super) fn run_options(self) -> RunOptions {
        RunOptions {
            entrypoint: self.entrypoint.map(|Entrypoint(words)| words),
            env: self.variables,
            user: self.user,
        }
    }
}

/// The words of --entrypoint. (A Vec would be an option that may be repeated.)
#[derive(Clone)]
struct Entrypoint(Vec<String>);

fn entrypoint(text: &str) -> std::result::Result<Entrypoint, String> {
    shell::split(text).map(Entrypoint)
}
