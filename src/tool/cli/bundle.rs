//! `layerinit build`: arguments for the files that boot loaders start.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, Result};
use crate::tool::bundle::BundleOptions;
use crate::tool::bundle::fit::FitKey;
use crate::tool::bundle::uki::Signing;

/// Files for boot loaders
#[derive(Args)]
#[group(skip)]
#[command(next_help_heading = "Boot loader options")]
pub(super) struct BundleArgs {
    /// Write a unified kernel image with the kernel and the image; FILE.addon.efi: an addon with the
    /// layers only
    #[arg(long, value_name = "FILE")]
    uki: Option<PathBuf>,
    /// Write a FIT image for U-Boot
    #[arg(long, value_name = "FILE")]
    fit: Option<PathBuf>,
    /// Write an ISO that a BIOS and UEFI start
    #[arg(long, value_name = "FILE")]
    iso: Option<PathBuf>,
    /// Set the kernel command line of --uki and --iso [default: retain_initrd, if the image needs it]
    #[arg(long, value_name = "STRING", requires = "for_a_cmdline")]
    cmdline: Option<String>,
    /// Sign the unified kernel image for Secure Boot
    #[arg(long, value_names = ["KEY", "CERTIFICATE"], num_args = 2, requires = "uki")]
    uki_sign: Option<Vec<PathBuf>>,
    /// Use this systemd-stub for --uki [default: that in /usr/lib/systemd/boot/efi]
    #[arg(long, value_name = "FILE", requires = "uki")]
    uki_stub: Option<PathBuf>,
    /// Add a device tree, with its own configuration, to the FIT image; may be given several times
    #[arg(long = "dtb", value_name = "FILE", requires = "fit")]
    device_trees: Vec<PathBuf>,
    /// Sign the configurations of the FIT image with this key; NAME.crt must be next to it
    #[arg(long, value_name = "NAME.key", requires = "fit")]
    fit_key: Option<PathBuf>,
}

impl BundleArgs {
    /// What to write, without the key of the FIT image. `kernel` is the value of --kernel.
    pub(super) fn options(&self, kernel: Option<&str>) -> BundleOptions {
        let signing = self.uki_sign.as_deref().and_then(|paths| match paths {
            [key, certificate] => Some(Signing {
                key: key.clone(),
                certificate: certificate.clone(),
            }),
            _ => None,
        });
        BundleOptions {
            uki: self.uki.clone(),
            fit: self.fit.clone(),
            iso: self.iso.clone(),
            kernel: kernel.and_then(kernel_path),
            cmdline: self.cmdline.clone(),
            signing,
            stub: self.uki_stub.clone(),
            device_trees: self.device_trees.clone(),
            fit_key: None,
        }
    }

    /// Reads the key of the FIT image.
    pub(super) fn fit_key(&self) -> Result<Option<FitKey>> {
        self.fit_key.as_deref().map(FitKey::read).transpose()
    }
}

/// The kernel's file, if --kernel names one: it has a slash, or there is such a file.
fn kernel_path(kernel: &str) -> Option<PathBuf> {
    let path = Path::new(kernel);
    (kernel.contains('/') || path.is_file()).then(|| path.into())
}

/// The release of the kernel that --kernel names. The release of a file is in its name: vmlinuz-RELEASE,
/// RELEASE/vmlinuz.
pub(super) fn kernel_release(kernel: &str) -> Result<String> {
    let path = Path::new(kernel);
    if !path.is_file() {
        return Ok(kernel.into());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let of_name = name.split_once('-').map(|(_, release)| release.to_string());
    let directory = path.parent().and_then(Path::file_name);
    let of_directory = || directory.map(|name| name.to_string_lossy().into_owned());
    let release = of_name.or_else(|| of_directory().filter(|_| name == "vmlinuz"));
    release.ok_or_else(|| {
        Error::new(
            "find",
            format_args!("the release of {kernel}"),
            "its name contains none",
        )
    })
}
