//! Unified kernel images and addons, through ukify(1).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BundleOptions, Parts, execute};
use crate::error::{Context, Error, Result};
use crate::tool::build::temp_files::TempFiles;
use crate::tool::platform::{self, Platform};

/// The packages. Debian 12 has systemd 252, which is older than ukify.
const PACKAGE: &str =
    "systemd-ukify systemd-boot-efi (Debian 13; for Debian 12 from bookworm-backports)";

/// The path of ukify in systemd 253 to 254 and some distributions, which is not in PATH.
const OTHER_PLACE: &str = "/usr/lib/systemd/ukify";

/// The directory of systemd's stubs.
const STUBS: &str = "/usr/lib/systemd/boot/efi";

/// A key and a certificate for Secure Boot, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signing {
    /// The private key; a file, or anything else that ukify accepts.
    pub key: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
}

/// Writes a unified kernel image to a file next to `output`, and returns the path of the file.
pub(super) fn write(parts: &Parts, output: &Path, options: &BundleOptions) -> Result<PathBuf> {
    let stub = stub("linux", parts.platform, options)?;
    let target = parts.temp.beside(output)?;
    let os_release = match &parts.os_release {
        Some(text) => text.clone(),
        // systemd-boot shows no entry without a name and a version.
        None => {
            let name = output.file_stem().unwrap_or_default().to_string_lossy();
            format!("ID=linux\nPRETTY_NAME={name}\n")
        }
    };
    let release_file = parts.temp.path("os-release");
    fs::write(&release_file, os_release).during("write", release_file.display())?;
    let words = [
        format!("--linux={}", parts.kernel.path.display()),
        format!("--initrd={}", parts.initrd.display()),
        format!("--cmdline={}", parts.cmdline),
        format!("--os-release=@{}", release_file.display()),
    ];
    let words = arguments(
        parts.platform,
        &words,
        &stub,
        options.signing.as_ref(),
        &target,
    );
    execute(
        Command::new(program()).args(words),
        PACKAGE,
        output,
        parts.temp,
    )?;
    Ok(target)
}

/// Writes an addon with `initrd`, which holds layers only. From version 257 on, systemd-stub appends it to
/// the initrd of the unified kernel image.
pub(super) fn write_addon(
    initrd: &Path,
    output: &Path,
    options: &BundleOptions,
    temp: &TempFiles,
) -> Result<PathBuf> {
    let own = || {
        platform::ALL
            .iter()
            .find(|row| row.name == std::env::consts::ARCH)
    };
    let platform = own().ok_or_else(|| {
        Error::new(
            "write",
            output.display(),
            "no EFI is known for this machine's architecture",
        )
    })?;
    let stub = stub("addon", platform, options)?;
    let target = temp.beside(output)?;
    let mut words = vec![format!("--initrd={}", initrd.display())];
    words.extend(
        options
            .cmdline
            .iter()
            .map(|cmdline| format!("--cmdline={cmdline}")),
    );
    let words = arguments(platform, &words, &stub, options.signing.as_ref(), &target);
    execute(Command::new(program()).args(words), PACKAGE, output, temp)?;
    Ok(target)
}

/// The arguments of ukify.
fn arguments(
    platform: &Platform,
    sections: &[String],
    stub: &Path,
    signing: Option<&Signing>,
    target: &Path,
) -> Vec<String> {
    let mut words = vec!["build".to_string(), format!("--efi-arch={}", platform.efi)];
    words.extend_from_slice(sections);
    words.push(format!("--stub={}", stub.display()));
    if let Some(Signing { key, certificate }) = signing {
        words.push(format!("--secureboot-private-key={}", key.display()));
        words.push(format!(
            "--secureboot-certificate={}",
            certificate.display()
        ));
    }
    words.push(format!("--output={}", target.display()));
    words
}

/// ukify, from PATH first.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).any(|directory| directory.join("ukify").is_file());
    match in_path || !Path::new(OTHER_PLACE).is_file() {
        true => "ukify".into(),
        false => OTHER_PLACE.into(),
    }
}

/// The stub, which must exist: ukify's own message is a traceback of Python.
fn stub(kind: &str, platform: &Platform, options: &BundleOptions) -> Result<PathBuf> {
    if let Some(path) = &options.stub {
        return Ok(path.clone());
    }
    let path = Path::new(STUBS).join(format!("{kind}{}.efi.stub", platform.efi));
    match path.is_file() {
        true => Ok(path),
        false => {
            let error = Error::new(
                "find",
                "systemd's stub",
                format!("there is no {}", path.display()),
            );
            Err(error.hint(format!(
                "on Debian: apt install {PACKAGE}; or name a stub with --uki-stub"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_exact() {
        let signing = Signing {
            key: "db.key".into(),
            certificate: "db.crt".into(),
        };
        let platform = &platform::ALL[1];
        let sections = ["--linux=Image".to_string(), "--cmdline=a b".into()];
        let words = arguments(
            platform,
            &sections,
            Path::new("s.stub"),
            Some(&signing),
            Path::new("o.efi"),
        );
        assert_eq!(
            words,
            [
                "build",
                "--efi-arch=aa64",
                "--linux=Image",
                "--cmdline=a b",
                "--stub=s.stub",
                "--secureboot-private-key=db.key",
                "--secureboot-certificate=db.crt",
                "--output=o.efi",
            ]
        );
        let words = arguments(platform, &[], Path::new("s"), None, Path::new("o"));
        assert_eq!(
            words,
            ["build", "--efi-arch=aa64", "--stub=s", "--output=o"]
        );
    }
}
