//! `layerinit build`: arguments for the verification of layers.

use std::path::PathBuf;

use clap::Args;

use crate::tool::build::outside::Protection;
use crate::tool::build::verify::{Exception, VerifyOptions};
use crate::verify::policy::{self, Allowed};

/// Verification by the loader
#[derive(Args)]
#[group(skip)]
#[command(next_help_heading = "Verification options")]
pub(super) struct VerificationArgs {
    /// List the layers in the loader: /init boots these and no others
    #[arg(long)]
    pub(super) verify: bool,
    /// Let a layer vary: archives of regular files below DIR, by default the directory of the files of the
    /// layer with this file name
    #[arg(long, value_name = "NAME[:DIR]", requires = "verify", value_parser = Exception::parse)]
    verify_except: Vec<Exception>,
    /// Allow a word of the kernel command line that could defeat verification
    #[arg(long, value_name = "WORD[=VALUE]", requires = "verify", value_parser = allowed)]
    verify_allow: Vec<String>,
    /// Put a public key of minisign into the loader, which then boots only with a signed list
    #[arg(long, value_name = "PUB", requires = "verify")]
    key: Vec<PathBuf>,
    /// Sign the list with this secret key of minisign, and put it after the loader
    #[arg(long, value_name = "KEY", requires = "key")]
    sign: Option<PathBuf>,
    /// Set the version in the signature
    #[arg(long, value_name = "N", requires = "sign")]
    list_version: Option<u64>,
    /// Do not boot a signed list with an older version
    #[arg(long, value_name = "N", requires = "key")]
    minimum_version: Option<u64>,
    /// Append a dm-verity hash tree to each image of --layers-outside: the kernel verifies each block when it
    /// is read, and /init hashes nothing
    #[arg(long, requires = "layers_outside")]
    verity: bool,
    /// List the fs-verity digests of the files of --layers-outside; run `fsverity enable` on them
    #[arg(long, requires_all = ["layers_outside", "verify"], conflicts_with = "verity")]
    fs_verity: bool,
    /// Set what dm-verity does with layers: restart-on-corruption, panic-on-corruption, check-at-most-once,
    /// ignore-zero-blocks
    #[arg(long, value_name = "LIST", requires = "verify", value_parser = verity_options)]
    verity_options: Option<String>,
}

impl VerificationArgs {
    /// How the kernel verifies layers outside of the image.
    pub(super) fn protection(&self) -> Protection {
        match (self.verity, self.fs_verity) {
            (true, _) => Protection::Verity,
            (false, true) => Protection::FsVerity,
            (false, false) => Protection::None,
        }
    }

    /// What the loader verifies; `None`: nothing.
    pub(super) fn options(self) -> Option<VerifyOptions> {
        self.verify.then_some(VerifyOptions {
            exceptions: self.verify_except,
            allowed: self.verify_allow,
            keys: self.key,
            sign: self.sign,
            version: self.list_version,
            minimum_version: self.minimum_version,
            verity: self.verity_options,
        })
    }
}

/// Checks options of dm-verity for the policy.
fn verity_options(text: &str) -> std::result::Result<String, String> {
    policy::verity_options(text)?;
    Ok(text.into())
}

/// Checks a word for the policy.
fn allowed(text: &str) -> std::result::Result<String, String> {
    Allowed::parse(text)?;
    match text.contains('\n') {
        true => Err("it has a newline".into()),
        false => Ok(text.into()),
    }
}
