//! Everything that would go wrong at boot, one line each.

use std::io::Write;
use std::path::Path;

use super::boot::{Boot, FINDINGS_MAX};

use super::config::{Circumstances, Config};
use super::conflicts;
use super::doubts;
use super::files::kind;
use super::loader_modules::Modules;
use super::machine::Machine;
use super::memory::Memory;
use super::merged;
use super::needs;
use super::newroot;
use super::unpack::{Report, Severity};
use crate::bytes::{Opened, Part, ReadAt};
use crate::cmdline::Backend;
use crate::erofs::{Checksum, Superblock};
use crate::error::{Context, Result};
use crate::plan::{Found, Layer, Place, Plan};
use crate::segment::{Cpio, Kind};
use crate::words::shown;

/// Checks an image. Whether nothing would go wrong.
pub fn check(path: &Path, circumstances: &Circumstances, out: &mut dyn Write) -> Result<bool> {
    let image = Opened::open(path)?;
    let mut findings = Vec::new();
    let (mut errors, mut warnings) = (0usize, 0usize);
    let mut report = |severity, place: String, what: String| {
        let (count, word) = match severity {
            Severity::Error => (&mut errors, "error"),
            Severity::Warning => (&mut warnings, "warning"),
        };
        *count = count.saturating_add(1);
        if findings.len() < FINDINGS_MAX {
            findings.push(format!("{word}: {place}: {what}"));
        }
    };
    // Without a command line it is taken to be what the image asks for.
    let cmdline = circumstances.cmdline.as_deref();
    let boot = Boot::new(&image, cmdline.unwrap_or("retain_initrd"), &mut report)?;
    for source in &boot.sources {
        segments(source, &mut report);
    }
    let config = circumstances.kernel_config.as_deref();
    let config = config.map(Config::read).transpose()?;
    let machine = Machine::of(&boot, &image, config.as_ref());
    if !circumstances.loader_built_in {
        init(&boot, &image, &machine, &mut report);
    }
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
        planned(&boot, plan, circumstances, &mut report);
        doubts::of(&boot, plan, &mut report);
        let sources = boot.open(&image)?;
        let parts = parts(plan, &sources);
        let wanted = circumstances.conflicts;
        let (root, layers) = merged::merge(&boot, plan, &sources, &parts, wanted, &mut report);
        let refusal = newroot::init(&boot, plan, &root, &layers, &machine);
        real_init(plan, refusal, circumstances, &mut report);
        let cmdline = cmdline.unwrap_or_default();
        let modules = Modules::of(&boot, &image, config.as_ref(), cmdline);
        match &config {
            Some(config) => {
                let report = &mut report;
                needs::compare(config, &boot, plan, &root, &modules, circumstances, report);
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
        let memory = Memory::of(&image, &boot, plan, copies);
        more.push(format!("memory: {memory}"));
    }

    let mut line = |text: String| writeln!(out, "{text}").during("write", "the findings");
    let shown_findings = findings.len();
    for finding in findings {
        line(finding)?;
    }
    let unsaid = errors
        .saturating_add(warnings)
        .saturating_sub(shown_findings);
    if unsaid > 0 {
        line(format!("... and {unsaid} more"))?;
    }
    more.into_iter().try_for_each(&mut line)?;
    let verdict = match (errors, warnings) {
        (0, 0) => "good".to_string(),
        (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    };
    let planned = plan.map_or_else(String::new, |plan| {
        let layers = count(plan.layers.len(), "layer");
        let needs = Vec::from_iter(needs::of(&boot, &plan)).join(" ");
        format!("{listed}; {layers}; needs {needs}")
    });
    let name = shown(path.as_os_str().as_encoded_bytes());
    line(format!("{name}: {verdict}{planned}"))?;
    Ok(errors == 0)
}

fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// Where a segment of a source is, for a message.
fn place(source: &Found, offset: u64) -> String {
    match &source.place {
        Place::File(name) => format!("layers/{} {offset:#x}", shown(name.as_bytes())),
        _ => format!("{offset:#010x}"),
    }
}

/// What the segments of a source say by themselves.
fn segments(source: &Found, report: Report) {
    let file = matches!(source.place, Place::File(_));
    for segment in &source.walk.segments {
        let at = || place(source, segment.offset);
        match &segment.kind {
            Kind::Erofs(superblock) => erofs(superblock, &at(), report),
            Kind::Bootconfig { intact: false } => {
                report(
                    Severity::Error,
                    at(),
                    "the bootconfig's size or checksum is wrong: the kernel ignores it".into(),
                );
            }
            Kind::Cpio(Cpio {
                refused: Some(why),
                only_layer_files: true,
                ..
            }) => {
                let what = format!("the kernel does not unpack these files of /layers: {why}");
                report(Severity::Error, at(), what);
            }
            Kind::Padding | Kind::Cpio(_) | Kind::Bootconfig { .. } => {}
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

/// Images that do not lie at a multiple of their block size: one warning for all of them, as they
/// mostly have one cause.
fn alignment(source: &Found, report: Report) {
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

fn is_layer(segment: &crate::segment::Segment) -> bool {
    match &segment.kind {
        Kind::Erofs(_) => true,
        Kind::Cpio(cpio) => cpio.members > 0,
        Kind::Padding | Kind::Bootconfig { .. } => false,
    }
}

/// What is wrong with an EROFS image.
fn erofs(superblock: &Superblock, at: &str, report: Report) {
    /// The page size of most machines; a kernel refuses blocks larger than its pages.
    const PAGE: u64 = 4096;
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
    let block = superblock.block_size();
    if block > PAGE {
        let what = format!(
            "EROFS blocks of {block} bytes: the kernel refuses the image where pages are smaller"
        );
        say(Severity::Warning, what);
    }
}

/// Whether the kernel can start what `rdinit=` says.
fn init(boot: &Boot, image: &Opened, machine: &Machine, report: Report) {
    let rdinit = &boot.options.rdinit;
    let mut say = |what: String| report(Severity::Error, rdinit.clone(), what);
    let Some((_, node)) = boot.rootfs.find(rdinit.as_bytes()) else {
        return say(unreached(boot));
    };
    if node.mode & libc::S_IFMT != libc::S_IFREG {
        return say(format!("a {}, not a file", kind(node.mode)));
    }
    if node.mode & 0o111 == 0 {
        return say(format!("not executable (mode {:04o})", node.mode & 0o7777));
    }
    if node.size() == 0 {
        return say("it is empty".into());
    }
    let file = match boot.content(image, node) {
        Ok(file) => file,
        Err(error) => return say(error.to_string()),
    };
    // What the real init must stand up to as well.
    match machine.interpreter(&*file) {
        Err(what) => say(what),
        Ok(None) => {}
        Ok(Some(needed)) if boot.rootfs.find(needed.as_bytes()).is_some() => {}
        Ok(Some(needed)) => say(format!(
            "it needs {}, which no archive that the kernel unpacks has (a static /init needs nothing)",
            shown(needed.as_bytes())
        )),
    }
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
            "it is in the archive at {late:#x}, and the kernel cannot decompress that at {at:#x}: {why}"
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
fn real_init(plan: &Plan, refusal: Option<String>, circumstances: &Circumstances, report: Report) {
    let Some(what) = refusal else {
        return;
    };
    let layers = !plan.layers.is_empty();
    match (layers, &circumstances.cmdline) {
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
fn planned(boot: &Boot, plan: &Plan, circumstances: &Circumstances, report: Report) {
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
    if circumstances.cmdline.is_some()
        && circumstances.kernel_config.is_none()
        && needs::in_the_initrd(boot, plan)
        && !boot.options.retain_initrd
    {
        let what = "without retain_initrd the layers behind the loader are lost, unless the kernel has \
                    CONFIG_BLK_DEV_RAM=y";
        report(Severity::Warning, "command line".into(), what.into());
    }
}
