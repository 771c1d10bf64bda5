//! `layerinit check`: everything about an image that fails at boot, or is unusual, one line each.

pub mod uefi;

pub mod options;

pub mod context;

pub mod real_init;
pub mod requirements;

pub mod backends;

pub mod conflicts;
pub mod directories;
pub mod filesystems;
pub mod in_place;
pub mod kernel_32bit;
pub mod kernel_options;
pub mod memory;
pub mod plan_warnings;
pub mod rdinit;
pub mod segments;
pub mod trust;

pub mod modules;

use std::io::Write;

use super::finding::{Findings, Severity};
use super::image::boot::StandIns;
use super::image::input::Initrd;
use crate::error::{Context as _, Result};
use context::Check;
use options::{CheckOptions, LoaderLocation};

/// One check.
pub struct NamedCheck {
    /// Its name in the help.
    name: &'static str,
    /// What it finds, on one line of the help.
    finds: &'static str,
    /// Runs it.
    run: fn(&Check, &mut Findings),
}

const fn row(
    name: &'static str,
    finds: &'static str,
    run: fn(&Check, &mut Findings),
) -> NamedCheck {
    NamedCheck { name, finds, run }
}

/// All checks, in the order of their findings.
#[rustfmt::skip]
pub const CHECKS: &[NamedCheck] = &[
    row("dropped-files", "files that the kernel drops, and files of /layers that /init does not use",
        segments::dropped_files),
    row("u-boot", "U-Boot ramdisks with a wrong CRC", segments::u_boot),
    row("segments", "broken or truncated archives, and EROFS images that the kernel refuses",
        segments::segments),
    row("rdinit", "no /init that the kernel can start, or another program in its place", rdinit::rdinit),
    row("plan", "an image or a command line for which /init makes no plan", plan_warnings::plan),
    row("command-line", "words of the command line that are wrong or have no effect",
        plan_warnings::command_line),
    row("backends", "layers that no backend can mount", plan_warnings::unreachable_layers),
    row("freed-initrd", "layers in an initrd that the kernel frees", plan_warnings::freed_initrd),
    row("tmpfs-options", "mount options that tmpfs does not have", plan_warnings::tmpfs_options),
    row("image-uuid", "images without UUID below a persistent upper", plan_warnings::images_without_uuid),
    row("kept", "directories of rd.overlay.for= that /init cannot keep", directories::kept),
    row("files-in-tmpfs", "files of /layers that the file backend cannot mount",
        plan_warnings::files_in_tmpfs),
    row("layers", "layers that cannot be read, and their files that /init drops", segments::layers),
    row("verification", "layers that the loader does not list, and words that its policy refuses", trust::trust),
    row("mount-points", "a file or link in place of /dev, /proc, /sys or /run", directories::mount_points),
    row("world-writable", "directories of archives that everybody may write to", directories::world_writable),
    row("skipped-init", "an init that /init skips in favour of the next", real_init::skipped),
    row("missing-init", "no init in the layers that can be started", real_init::missing),
    row("module-machine", "modules for a different machine from the programs", modules::machine),
    row("bootconfig", "a bootconfig that the kernel ignores (--kernel-config)", kernel_options::bootconfig),
    row("erofs-features", "EROFS features newer than the kernel (--kernel-config)",
        kernel_options::erofs_features),
    row("required", "kernel options that are not built in (--kernel-config)", kernel_options::required),
    row("modular", "kernel options neither built in nor a module of the loader (--kernel-config)",
        kernel_options::modular),
    row("filesystems", "filesystems of devices that the kernel does not mount (--kernel-config)",
        filesystems::drivers),
    row("character-sets", "character sets that the driver of a filesystem needs and the kernel lacks",
        filesystems::character_sets),
    row("recommended", "kernel options without which something is lost (--kernel-config)",
        kernel_options::recommended),
    row("initrd-access", "an initrd that /init cannot read (--kernel-config)", kernel_options::initrd_access),
    row("unsigned", "modules without the signature that the kernel requires (--kernel-config)",
        modules::unsigned),
    row("lowmem", "an initrd beyond the lowmem of an ARM kernel (--kernel-config)", kernel_32bit::lowmem),
    row("time32", "a 32-bit kernel without the system calls with 32-bit times (--kernel-config)", kernel_32bit::time32),
    row("loadable", "modules that /init cannot load", modules::loadable),
    row("conflicts", "what layers change in those below them (--conflicts)", conflicts::conflicts),
    row("methods", "the backend of each layer, and its memory (--kernel-config)", backends::backends),
    row("memory", "the memory that the boot takes", memory::memory),
    row("in-place", "how much of uncompressed layers a kernel with memback maps in place", in_place::in_place),
];

/// The list of [`CHECKS`] for the help, a line of at most 100 columns each.
pub fn help() -> String {
    let lines = CHECKS
        .iter()
        .map(|NamedCheck { name, finds, .. }| format!("    {name:<16} {finds}\n"));
    lines.collect()
}

/// Prints the errors that [`check`] finds, for `layerinit plan`. Returns whether there are none.
///
/// An image without an `/init` is assumed to be for a kernel with the loader built in.
///
/// # Errors
/// The image cannot be read, or `out` not be written.
pub fn errors(
    image: &Initrd,
    cmdline: &str,
    stand_ins: &StandIns,
    out: &mut dyn Write,
) -> Result<bool> {
    let options = CheckOptions {
        cmdline: Some(cmdline.into()).filter(|text: &String| !text.is_empty()),
        loader: LoaderLocation::Either,
        stand_ins: stand_ins.clone(),
        ..CheckOptions::default()
    };
    let findings = examine(image, &options)?;
    let all = findings.list().iter();
    for error in all.filter(|finding| finding.severity == Severity::Error) {
        writeln!(out, "{error}").during("write", "the errors")?;
    }
    Ok(findings.errors() == 0)
}

/// Checks an image, and prints the findings. Returns whether there are no errors.
///
/// # Errors
/// The image or the kernel's configuration cannot be read, or `out` not be written.
pub fn check(image: &Initrd, options: &CheckOptions, out: &mut dyn Write) -> Result<bool> {
    let findings = examine(image, options)?;
    let mut line = |text: &str| writeln!(out, "{text}").during("write", "the findings");
    for finding in findings.list() {
        line(&finding.to_string())?;
    }
    if findings.dropped() > 0 {
        line(&format!("... and {} more", findings.dropped()))?;
    }
    findings.notes().iter().try_for_each(|text| line(text))?;
    let verdict = match (findings.errors(), findings.warnings()) {
        (0, 0) => "good".to_string(),
        (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    };
    let clauses = findings.summary().iter();
    let clauses: String = clauses.map(|clause| format!("; {clause}")).collect();
    line(&format!("{}: {verdict}{clauses}", image.name))?;
    Ok(findings.errors() == 0)
}

/// Runs all checks.
fn examine(image: &Initrd, options: &CheckOptions) -> Result<Findings> {
    context::with(image, options, |check| {
        let mut findings = Findings::default();
        for NamedCheck { run, .. } in CHECKS {
            run(check, &mut findings);
        }
        if let Some(plan) = check.plan() {
            findings.summarize(count(plan.layers.len(), "layer"));
            let needs = Vec::from_iter(requirements::requirements(check, plan));
            findings.summarize(format!("needs {}", needs.join(" ")));
        }
        findings
    })
}

/// A number with its noun: `1 layer`, `2 layers`.
fn count(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_has_a_line_in_the_help() {
        let help = help();
        assert!(help.contains("\n    u-boot           U-Boot ramdisks with a wrong CRC\n"));
        assert_eq!(help.lines().count(), CHECKS.len());
        let mut names = Vec::new();
        for (line, NamedCheck { name, .. }) in help.lines().zip(CHECKS) {
            assert!(line.len() <= 100 && name.len() <= 16, "{line}");
            assert!(!names.contains(name), "{name} twice");
            names.push(*name);
        }
    }
}
