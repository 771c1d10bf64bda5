//! `layerinit check`: everything about an image that fails at boot, or is unusual, one line each.

pub mod uefi;

pub mod options;

pub mod context;

pub mod real_init;
pub mod requirements;

pub mod conflicts;
pub mod directories;
pub mod kernel_32bit;
pub mod kernel_options;
pub mod memory;
pub mod modules;
pub mod plan_warnings;
pub mod rdinit;
pub mod segments;

use std::io::Write;

use super::finding::{Findings, Severity};
use super::image::input::Initrd;
use crate::error::{Context as _, Result};
use context::Check;
use options::{CheckOptions, LoaderLocation};

/// A group of checks.
pub struct CheckGroup {
    /// Its name in the help.
    pub name: &'static str,
    /// What is found, for the help: a clause.
    pub description: &'static str,
    /// The checks, in the order of their output.
    checks: &'static [fn(&Check, &mut Findings)],
}

/// All checks, in the order of their output.
pub const CHECKS: [CheckGroup; 14] = [
    CheckGroup {
        name: "files",
        description: "files that the kernel drops, for one because their directory is missing; files of /layers \
                      that are no layers",
        checks: &[segments::dropped_files],
    },
    CheckGroup {
        name: "u-boot",
        description: "U-Boot ramdisks with a wrong CRC",
        checks: &[segments::u_boot],
    },
    CheckGroup {
        name: "segments",
        description: "broken and truncated archives and images, wrong checksums, EROFS features that no kernel \
                      knows, blocks larger than the kernel's pages, layers that are not aligned",
        checks: &[segments::segments],
    },
    CheckGroup {
        name: "rdinit",
        description: "no /init, one that the kernel cannot start, or another program in its place",
        checks: &[rdinit::rdinit],
    },
    CheckGroup {
        name: "plan",
        description: "a command line that /init does not understand, more layers than can be stacked, layers that \
                      no backend can mount, layers that the kernel frees before /init reads them",
        checks: &[
            plan_warnings::plan,
            plan_warnings::command_line,
            plan_warnings::unreachable_layers,
            plan_warnings::freed_initrd,
            plan_warnings::tmpfs_options,
            plan_warnings::files_in_tmpfs,
        ],
    },
    CheckGroup {
        name: "layers",
        description: "layers that cannot be read, and their files that /init drops",
        checks: &[segments::layers],
    },
    CheckGroup {
        name: "directories",
        description: "a file or link in place of /dev, /proc, /sys or /run, and directories of archives that \
                      everybody may write to",
        checks: &[directories::mount_points, directories::world_writable],
    },
    CheckGroup {
        name: "init",
        description: "no init in the layers that can be started, or one that is skipped for the next",
        checks: &[real_init::skipped, real_init::missing],
    },
    CheckGroup {
        name: "machine",
        description: "modules for another machine than the programs",
        checks: &[modules::machine],
    },
    CheckGroup {
        name: "kernel",
        description: "with --kernel-config: options that the kernel lacks, EROFS features that it is too old for, a \
                      bootconfig that it ignores",
        checks: &[
            kernel_options::bootconfig,
            kernel_options::erofs_features,
            kernel_options::required,
            kernel_options::modular,
            kernel_options::filesystems,
            kernel_options::recommended,
            kernel_options::initrd_access,
        ],
    },
    CheckGroup {
        name: "modules",
        description: "modules that /init cannot load, and modules without a signature",
        checks: &[modules::unsigned, modules::loadable],
    },
    CheckGroup {
        name: "32-bit",
        description: "with --kernel-config: an initrd beyond the lowmem of ARM, missing 32-bit time system calls",
        checks: &[kernel_32bit::lowmem, kernel_32bit::time32],
    },
    CheckGroup {
        name: "conflicts",
        description: "with --conflicts: what layers change in those below them",
        checks: &[conflicts::conflicts],
    },
    CheckGroup {
        name: "memory",
        description: "the memory that the boot takes",
        checks: &[memory::memory],
    },
];

/// Prints the errors that [`check`] finds, for `layerinit plan`. Returns whether there are none.
///
/// An image without an `/init` is assumed to be for a kernel with the loader built in.
///
/// # Errors
/// The image cannot be read, or `out` not be written.
pub fn errors(image: &Initrd, cmdline: &str, out: &mut dyn Write) -> Result<bool> {
    let options = CheckOptions {
        cmdline: Some(cmdline.into()).filter(|text: &String| !text.is_empty()),
        loader: LoaderLocation::Either,
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
        for run in CHECKS.iter().flat_map(|group| group.checks) {
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
