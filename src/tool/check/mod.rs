//! Everything that would go wrong at boot, one line each.

pub mod firmware;

pub mod options;

pub mod conflicts;
pub mod directories;
pub mod doubts;
pub mod memory;
pub mod needs;

pub mod kernel32;
pub mod newroot;

use std::io::Write;

use super::image::boot::{Boot, FINDINGS_MAX};

use super::image::input::Initrd;
use super::image::loader_modules::Modules;
use super::image::machine::{self, Machine};
use super::image::unpack::{Report, Severity};
use super::image::{merged, whose_init};
use super::kernel_config::Config;
use crate::bytes::{Part, ReadAt};
use crate::error::{Context, Result};
use crate::format::erofs::{Checksum, Superblock};
use crate::initrd::{Cpio, Kind, Segment, Walk};
use crate::plan::backend::Backend;
use crate::plan::{Layer, Place, Plan, Source};
use crate::text::shown;
use memory::Memory;
use newroot::program;
use options::{CheckOptions, Loader};

/// What a check says, line by line.
#[derive(Default)]
struct Outcome {
    /// The findings themselves: those that fit.
    findings: Vec<(Severity, String)>,
    /// How many errors there are, with those that do not fit.
    errors: usize,
    warnings: usize,
    /// Conflicts, overrides, and the memory.
    more: Vec<String>,
    /// What the last line says besides the number of findings.
    planned: String,
}

impl Outcome {
    fn report(&mut self, severity: Severity, place: &str, what: &str) {
        let (count, word) = match severity {
            Severity::Error => (&mut self.errors, "error"),
            Severity::Warning => (&mut self.warnings, "warning"),
        };
        *count = count.saturating_add(1);
        if self.findings.len() < FINDINGS_MAX {
            let line = format!("{word}: {place}: {what}");
            self.findings.push((severity, line));
        }
    }
}

/// Prints the errors that [`check`] finds in an image with this command line, for the plan that is made of
/// it. Whether there are none.
///
/// An image of which no archive has an `/init` is taken to be for a kernel with the loader built in.
pub fn errors(image: &Initrd, cmdline: &str, out: &mut dyn Write) -> Result<bool> {
    let options = CheckOptions {
        cmdline: Some(cmdline.into()).filter(|text: &String| !text.is_empty()),
        loader: Loader::Either,
        ..CheckOptions::default()
    };
    let outcome = examine(image, &options)?;
    for (severity, line) in &outcome.findings {
        if *severity == Severity::Error {
            writeln!(out, "{line}").during("write", "the errors")?;
        }
    }
    Ok(outcome.errors == 0)
}

/// Checks an image. Whether nothing would go wrong.
pub fn check(image: &Initrd, options: &CheckOptions, out: &mut dyn Write) -> Result<bool> {
    let Outcome {
        findings,
        errors,
        warnings,
        more,
        planned,
    } = examine(image, options)?;
    let mut line = |text: &str| writeln!(out, "{text}").during("write", "the findings");
    for (_, finding) in &findings {
        line(finding)?;
    }
    let unsaid = errors
        .saturating_add(warnings)
        .saturating_sub(findings.len());
    if unsaid > 0 {
        line(&format!("... and {unsaid} more"))?;
    }
    more.iter().try_for_each(|text| line(text))?;
    let verdict = match (errors, warnings) {
        (0, 0) => "good".to_string(),
        (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    };
    line(&format!("{}: {verdict}{planned}", image.name))?;
    Ok(errors == 0)
}

/// Looks for everything that would go wrong.
fn examine(image: &Initrd, options: &CheckOptions) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut report =
        |severity, place: String, what: String| outcome.report(severity, &place, &what);
    // Without a command line it is taken to be what the image asks for.
    let cmdline = options.cmdline.as_deref();
    let boot = Boot::new(image, cmdline.unwrap_or("retain_initrd"), &mut report)?;
    for what in image.refused_by_u_boot()? {
        report(Severity::Error, "image".into(), what);
    }
    let config = options.kernel_config.as_deref();
    let config = config.map(Config::read).transpose()?;
    let page = config.as_ref().and_then(machine::page_size);
    for source in &boot.sources {
        segments(source, page, &mut report);
    }
    let machine = Machine::of(&boot, &image, config.as_ref());
    started(&boot, image, &machine, options, &mut report);
    let plan = match boot.plan() {
        Ok(plan) => Some(plan),
        Err(error) => {
            // Where nothing is left to boot from because the walk ended early, that has been said.
            let mut troubles = boot
                .sources
                .iter()
                .filter_map(|source| source.walk.trouble.as_ref());
            let text = error.to_string();
            if !troubles.any(|trouble| text.contains(&trouble.to_string())) {
                report(Severity::Error, "plan".into(), text);
            }
            None
        }
    };
    let mut more = Vec::new();
    let mut listed = String::new();
    if let Some(plan) = &plan {
        planned(&boot, plan, options, &mut report);
        doubts::of(&boot, plan, &mut report);
        let sources = boot.open(image)?;
        let parts = parts(plan, &sources);
        let wanted = options.conflicts;
        let (root, layers) = merged::merge(&boot, plan, &sources, &parts, wanted, &mut report);
        directories::mount_points(plan, &root, &mut report);
        directories::writable(plan, &root, &mut report);
        if let Some(choice) = newroot::init(&boot, plan, &root, &layers, &machine) {
            choice.passed_over(&mut report);
            real_init(plan, choice.refusal(), options, &mut report);
        }
        let cmdline = cmdline.unwrap_or_default();
        let modules = Modules::of(&boot, image, config.as_ref(), cmdline);
        modules.machine(&machine, &mut report);
        match &config {
            Some(config) => {
                let report = &mut report;
                needs::compare(config, &boot, plan, &root, &modules, options, report);
                modules.unsigned(config, plan, report);
                kernel32::lowmem(config, &boot, plan, image.size(), report);
                kernel32::times(config, report);
            }
            None => modules.check(plan, &mut report),
        }
        if let Some(changes) = &root.changes {
            let names: Vec<_> = plan.layers.iter().map(Layer::to_string).collect();
            let (conflicts, overrides) = conflicts::lines(changes, &layers, &names);
            listed = format!(
                "; {}, {}",
                count(conflicts.len(), "conflict"),
                count(overrides.len(), "override")
            );
            more.extend(conflicts);
            more.extend(overrides);
        }
        let copies = config.as_ref().is_some_and(|config| config.copies_initrd());
        let memory = Memory {
            firmware: options.firmware,
            ..Memory::of(image, &boot, plan, copies)
        };
        more.push(format!("memory: {memory}"));
    }
    let planned = plan.map_or_else(String::new, |plan| {
        let layers = count(plan.layers.len(), "layer");
        let needs = Vec::from_iter(needs::of(&boot, &plan)).join(" ");
        format!("{listed}; {layers}; needs {needs}")
    });
    Ok(Outcome {
        more,
        planned,
        ..outcome
    })
}

fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// Where a segment of a source is, for a message.
fn place(source: &Source, offset: u64) -> String {
    match &source.place {
        Place::File(name) => format!("layers/{} {offset:#x}", shown(name.as_bytes())),
        _ => format!("{offset:#010x}"),
    }
}

/// What the segments of a source say by themselves, and to a kernel with pages of `page` bytes.
fn segments(source: &Source, page: Option<u64>, report: Report) {
    let file = matches!(source.place, Place::File(_));
    for segment in &source.walk.segments {
        let at = || place(source, segment.offset);
        match &segment.kind {
            Kind::Erofs(superblock) => {
                erofs(superblock, &at(), report);
                blocks(superblock, page, &at(), report);
            }
            Kind::Bootconfig { intact: false } => {
                report(
                    Severity::Error,
                    at(),
                    "the bootconfig's size or checksum is wrong: the kernel ignores it".into(),
                );
            }
            Kind::Cpio(cpio) => {
                if let Some((severity, what)) = not_unpacked(segment, cpio, file) {
                    report(severity, at(), what);
                }
            }
            Kind::Padding | Kind::Bootconfig { .. } => {}
        }
    }
    alignment(source, report);
    match &source.walk.trouble {
        Some(trouble) if file => report(Severity::Error, place(source, 0), trouble.to_string()),
        Some(trouble) => report(Severity::Error, "image".into(), trouble.to_string()),
        None if file && !source.walk.segments.iter().any(is_layer) => {
            report(
                Severity::Error,
                place(source, 0),
                "neither an EROFS image nor a cpio archive".into(),
            );
        }
        None => {}
    }
}

/// Why the kernel does not unpack an archive. Where that is a layer, `/init` does.
fn not_unpacked(segment: &Segment, cpio: &Cpio, file: bool) -> Option<(Severity, String)> {
    let severity = match cpio.only_layer_files {
        true => Severity::Error,
        false => Severity::Warning,
    };
    // A wrong sum has been reported with its member; a file is not the kernel's to unpack.
    let stopped = segment.stopped();
    let stopped = stopped.filter(|_| !file && cpio.bad_sum.is_none());
    let files = || {
        let why = cpio.refused.filter(|_| cpio.only_layer_files)?;
        Some(format!(
            "the kernel does not unpack these files of /layers: {why}"
        ))
    };
    Some((severity, stopped.or_else(files)?))
}

/// Images that do not lie at a multiple of their block size: one warning for all of them, as they
/// mostly have one cause.
fn alignment(source: &Source, report: Report) {
    let mut unaligned = source
        .walk
        .segments
        .iter()
        .filter_map(|segment| match &segment.kind {
            Kind::Erofs(sb) if !segment.offset.is_multiple_of(sb.block_size()) => {
                Some((segment.offset, sb.block_size()))
            }
            _ => None,
        });
    let Some((offset, block)) = unaligned.next() else {
        return;
    };
    let others = match unaligned.count() {
        0 => String::new(),
        n => format!(" (and {n} more like it)"),
    };
    let what = format!(
        "EROFS image not aligned to its blocks of {block} bytes: they reach over page boundaries, and it cannot be \
         mounted as a file{others}"
    );
    report(Severity::Warning, place(source, offset), what);
}

fn is_layer(segment: &Segment) -> bool {
    match &segment.kind {
        Kind::Erofs(_) => true,
        Kind::Cpio(cpio) => cpio.members > 0,
        Kind::Padding | Kind::Bootconfig { .. } => false,
    }
}

/// What is wrong with an EROFS image.
fn erofs(superblock: &Superblock, at: &str, report: Report) {
    let mut say = |severity, what: String| report(severity, at.to_string(), what);
    match superblock.checksum {
        Checksum::Bad { .. } => {
            let what = format!(
                "EROFS superblock checksum {}: the kernel refuses the image",
                superblock.checksum
            );
            say(Severity::Error, what);
        }
        Checksum::Truncated => say(
            Severity::Error,
            "EROFS image without its first block".into(),
        ),
        Checksum::Good | Checksum::None => {}
    }
    let unknown = superblock.unknown_incompat();
    if unknown != 0 {
        let what = format!(
            "EROFS features {unknown:#x} that no kernel up to 7.2 knows: it refuses the image"
        );
        say(Severity::Error, what);
    }
    if superblock.extra_devices != 0 {
        let devices = count(superblock.extra_devices.into(), "more device");
        say(
            Severity::Error,
            format!("EROFS image that needs {devices}: only images of one piece can be mounted"),
        );
    }
}

/// Blocks that are larger than the kernel's pages (erofs_read_superblock in fs/erofs/super.c).
fn blocks(superblock: &Superblock, page: Option<u64>, at: &str, report: Report) {
    /// The page size of most machines.
    const PAGE: u64 = 4096;
    let block = superblock.block_size();
    let (severity, what) = match page {
        Some(page) if block > page => (
            Severity::Error,
            format!(
                "EROFS blocks of {block} bytes, and this kernel's pages have {page}: it refuses the image"
            ),
        ),
        None if block > PAGE => (
            Severity::Warning,
            format!(
                "EROFS blocks of {block} bytes: the kernel refuses the image where pages are smaller"
            ),
        ),
        _ => return,
    };
    report(severity, at.to_string(), what);
}

/// Reports a program that the kernel cannot start as `/init`, and one that is another.
fn started(
    boot: &Boot,
    image: &dyn ReadAt,
    machine: &Machine,
    options: &CheckOptions,
    report: Report,
) {
    let expected = match options.loader {
        Loader::InImage => true,
        Loader::BuiltIn => false,
        Loader::Either => boot.image().is_some_and(Walk::holds_init),
    };
    let mut refused = |what| report(Severity::Error, boot.options.rdinit.clone(), what);
    let needed = match init(boot, image, machine) {
        Ok(needed) => needed,
        Err(what) if expected => return refused(what),
        Err(_) => None,
    };
    // One in an archive comes before one that is built in. Of another program it does not matter what it
    // needs.
    if let Err(error) = whose_init::check(boot, image) {
        return report(Severity::Error, "loader".into(), error.to_string());
    }
    if let Some(needed) = needed.filter(|path| boot.rootfs.find(path.as_bytes()).is_none()) {
        refused(format!(
            "it needs {}, which no archive that the kernel unpacks has (a static /init needs nothing)",
            shown(needed.as_bytes())
        ));
    }
}

/// What the kernel starts in place of the program that `rdinit=` names, or why it starts none.
fn init(
    boot: &Boot,
    image: &dyn ReadAt,
    machine: &Machine,
) -> std::result::Result<Option<String>, String> {
    let Some((_, node)) = boot.rootfs.find(boot.options.rdinit.as_bytes()) else {
        return Err(unreached(boot));
    };
    program(node.mode)?;
    if node.size() == 0 {
        return Err("it is empty".into());
    }
    let file = boot.content(image, node);
    let file = file.map_err(|error| error.to_string())?;
    // What the real init must stand up to as well.
    machine.interpreter(&*file)
}

/// Why the kernel does not come by an `/init`.
fn unreached(boot: &Boot) -> String {
    let segments = boot.image().into_iter().flat_map(|walk| &walk.segments);
    let archives = segments.filter_map(|segment| match &segment.kind {
        Kind::Cpio(cpio) => Some((segment.offset, cpio)),
        _ => None,
    });
    let refused = archives
        .clone()
        .find_map(|(at, cpio)| Some((at, cpio.refused?)));
    let late = archives
        .clone()
        .find(|(_, cpio)| !cpio.by_kernel && cpio.holds_init);
    match (late, refused) {
        (Some((late, _)), Some((at, why))) if at <= late => format!(
            "it is in the archive at {late:#x}, and the kernel cannot unpack that at {at:#x}: {why}"
        ),
        (Some((late, _)), _) => format!(
            "it is in the archive at {late:#x}, where the kernel has stopped unpacking: the loader must come first"
        ),
        (None, _) => "no archive that the kernel unpacks has it (a kernel with the loader built in needs none: \
                      --loader-built-in)"
            .into(),
    }
}

/// The bytes of each layer.
pub(super) fn parts<'a>(
    plan: &Plan,
    sources: &'a [Box<dyn ReadAt + 'a>],
) -> Vec<Part<&'a dyn ReadAt>> {
    static NOTHING: &[u8] = &[];
    let part = |layer: &Layer| match sources.get(layer.source) {
        Some(source) => Part::new(&**source, layer.offset, layer.length),
        // Plans are made of these sources.
        None => Part::new(&NOTHING as &dyn ReadAt, 0, 0),
    };
    plan.layers.iter().map(part).collect()
}

/// Whether the layers hold a program to start.
fn real_init(plan: &Plan, refusal: Option<String>, options: &CheckOptions, report: Report) {
    let Some(what) = refusal else {
        return;
    };
    let layers = !plan.layers.is_empty();
    match (layers, &options.cmdline) {
        (true, _) => report(Severity::Error, "no init in the new root".into(), what),
        (false, Some(_)) => {
            let what = format!("there are no layers, and the initramfs has no other init: {what}");
            report(Severity::Error, "command line".into(), what);
        }
        // Without knowing the command line this is all that can be said.
        (false, None) => {
            let what = "there are no layers, and no init but the loader: it boots with root= only";
            report(Severity::Warning, "image".into(), what.into());
        }
    }
}

/// What the plan says about this command line.
fn planned(boot: &Boot, plan: &Plan, options: &CheckOptions, report: Report) {
    // What there is about segments has been looked at one by one.
    for warning in plan.cmdline_warnings.iter().chain(&plan.lost) {
        report(Severity::Warning, "command line".into(), warning.clone());
    }
    for layer in &plan.layers {
        if let Some(why) = layer.unreachable() {
            // A kernel with BLK_DEV_RAM=y has it in a file, which the file backend may reach.
            let severity = match boot.options.backends.contains(&Backend::File) {
                true => Severity::Warning,
                false => Severity::Error,
            };
            report(severity, layer.to_string(), why);
        }
    }
    if options.cmdline.is_some()
        && options.kernel_config.is_none()
        && needs::in_the_initrd(boot, plan)
        && !boot.options.retain_initrd
    {
        let what = "without retain_initrd the layers behind the loader are lost, unless the kernel has \
                    CONFIG_BLK_DEV_RAM=y";
        report(Severity::Warning, "command line".into(), what.into());
    }
}
