//! The report of the boot for the new system: /run/initramfs/layerinit.json.

use std::fs;

use rustix::time::ClockId;

use super::clock::microseconds;
use super::filesystem::is_mount_point;
use super::media::OpenMedium;
use super::mount::{self, MountMethod, MountedRoot, MountedUpper};
use super::source::OpenSource;
use super::verified::Verified;
use crate::error::{Context, Result};
use crate::initrd::Kind;
use crate::json::{Array, Object};
use crate::plan::{self, Plan, Root};

/// The path of the report.
pub const PATH: &str = "/run/initramfs/layerinit.json";

/// Records when each step of the boot ended, in microseconds since the machine started.
#[derive(Debug)]
pub struct StepTimes {
    started: u64,
    steps: Vec<(&'static str, u64)>,
}

/// What the report holds.
#[derive(Debug)]
pub struct BootReport<'a> {
    /// The release of the kernel.
    pub kernel: &'a str,
    /// What `rd.layers.from=` names.
    pub media: &'a [OpenMedium],
    /// The sources of layers.
    pub sources: &'a [OpenSource],
    /// The plan.
    pub plan: &'a Plan,
    /// The layers that were verified, if the loader lists them.
    pub verified: Option<&'a Verified>,
    /// How the root device, the layers and the upper were mounted.
    pub mounted: &'a MountedRoot<'a>,
    /// The files of the kernel modules that were loaded, in order.
    pub modules: &'a [String],
    /// The warnings, in order.
    pub warnings: &'a [String],
    /// The path of the real init.
    pub init: &'a str,
    /// Bytes of the old root and of /initrd.image that were freed.
    pub freed: u64,
    /// When the steps ended.
    pub times: &'a StepTimes,
}

/// Microseconds since the machine started, with the time it was suspended.
fn now() -> u64 {
    microseconds(ClockId::Boottime)
}

impl StepTimes {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            started: now(),
            steps: Vec::new(),
        }
    }

    /// Records that a step has ended now.
    pub fn end(&mut self, step: &'static str) {
        self.steps.push((step, now()));
    }
}

impl BootReport<'_> {
    /// The report as one JSON object and a line feed. docs/handover.md describes the fields.
    pub fn json(&self) -> String {
        let mut text = String::new();
        let mut report = Object::new(&mut text);
        report.text("version", env!("CARGO_PKG_VERSION"));
        report.text("kernel", self.kernel);
        sources(report.array("sources"), self.sources);
        if let (Some(device), Some(how)) = (&self.plan.device, &self.mounted.device) {
            let mut object = report.object("device");
            object.text("root", &device.spec.to_string());
            object.text("node", &how.node).text("type", &how.fstype);
        }
        media(report.array("media"), self.media);
        layers(report.array("layers"), self);
        if let Some(verified) = self.verified {
            let mut object = report.object("verified");
            object.number("layers", verified.layers);
            object.number("bytes", verified.bytes);
            object.number("us", verified.microseconds);
        }
        root(&mut report, self);
        strings(report.array("modules"), self.modules);
        strings(report.array("warnings"), self.warnings);
        report.text("init", self.init);
        report.number("freed_bytes", self.freed);
        // The start counts from the kernel's start, each step from the end of the previous one.
        report.number("started_us", self.times.started);
        let mut steps = report.object("steps_us");
        let mut before = self.times.started;
        for (step, end) in &self.times.steps {
            steps.number(step, end.saturating_sub(before));
            before = *end;
        }
        drop(steps);
        report.number("total_us", before.saturating_sub(self.times.started));
        drop(report);
        text.push('\n');
        text
    }

    /// Writes the report to [`PATH`], if /run is mounted.
    pub fn write(&self) -> Result<()> {
        // The dot makes statx(2) follow /run if it is a symbolic link.
        if !is_mount_point("/run/.".as_ref()) {
            return Ok(());
        }
        fs::create_dir_all(mount::LAYERS).during("create", mount::LAYERS)?;
        fs::write(PATH, self.json()).during("write", PATH)
    }
}

fn sources(mut array: Array<'_>, sources: &[OpenSource]) {
    for open in sources {
        let mut source = array.object();
        source.text("path", &open.path());
        let mut array = source.array("segments");
        for segment in &open.source.walk.segments {
            let mut object = array.object();
            object.number("offset", segment.offset);
            object.number("length", segment.length);
            object.text(
                "kind",
                match segment.kind {
                    Kind::Padding => "padding",
                    Kind::Stop => "stop",
                    Kind::Cpio(_) => "cpio",
                    Kind::Erofs(_) => "erofs",
                    Kind::Squashfs(_) => "squashfs",
                    Kind::Bootconfig { .. } => "bootconfig",
                },
            );
        }
    }
}

fn media(mut array: Array<'_>, media: &[OpenMedium]) {
    for open in media {
        let mut object = array.object();
        object.text("from", &open.medium.to_string());
        match &open.device {
            Some(device) => object
                .text("node", &device.node)
                .text("type", &device.fstype),
            None => object.null("node").null("type"),
        };
        match &open.mount {
            Some(path) => object.text("mount", path),
            None => object.null("mount"),
        };
    }
}

fn layers(mut array: Array<'_>, report: &BootReport<'_>) {
    for mounted in &report.mounted.layers {
        let (layer, mut object) = (mounted.layer, array.object());
        object.number("number", layer.number as u64);
        object.text("name", &layer.name);
        match report.mounted.single {
            // Its files are in the root itself.
            true => object.null("mount"),
            false => object.text("mount", &format!("{}/{}", mount::LAYERS, layer.number)),
        };
        object.number("offset", layer.offset);
        object.number("length", layer.length);
        match mounted.method {
            MountMethod::Erofs(backend) => {
                object.text("type", "erofs").text("backend", backend.name())
            }
            MountMethod::Squashfs(backend) => object
                .text("type", "squashfs")
                .text("backend", backend.name()),
            #[cfg(feature = "extract")]
            MountMethod::Extracted => object.text("type", "erofs").text("backend", "extract"),
            MountMethod::Unpacked => object.text("type", "cpio").text("backend", "unpack"),
        };
    }
}

fn root(object: &mut Object<'_>, report: &BootReport<'_>) {
    let (kind, upper) = match &report.plan.root {
        _ if report.mounted.single => ("tmpfs", None),
        Root::Initramfs => ("initramfs", None),
        Root::Device => ("device", None),
        Root::Assembled => ("kernel", None),
        Root::Layer => ("layer", None),
        Root::Overlay(upper) => ("overlay", Some(upper)),
        Root::Extracted { .. } => ("tmpfs", None),
    };
    object.text("root", kind);
    let lost = report.plan.lost.as_ref();
    match (upper, &report.mounted.upper) {
        (Some(upper), Some(mounted)) => {
            let wanted = match upper {
                plan::Upper::Tmpfs(options) => format!("tmpfs:{}", options.join(",")),
                plan::Upper::Device(persistent) => persistent.to_string(),
                plan::Upper::None => String::new(),
            };
            write_upper(object.object("upper"), &wanted, mounted, lost);
        }
        _ => {
            object.null("upper");
        }
    }
    match (&report.plan.kept, &report.mounted.kept) {
        (Some(plan), Some(mounted)) => {
            let mut kept = object.object("kept");
            strings(kept.array("directories"), &mounted.paths);
            let wanted = plan.store.to_string();
            write_upper(kept.object("upper"), &wanted, &mounted.upper, lost);
        }
        _ => {
            object.null("kept");
        }
    }
}

/// Writes where writes go. `lost` says why writes are lost although the command line asks to keep them.
fn write_upper(
    mut object: Object<'_>,
    wanted: &str,
    mounted: &MountedUpper,
    lost: Option<&String>,
) {
    object.text("overlay", wanted);
    match &mounted.device {
        Some(device) => object
            .text("type", &device.fstype)
            .text("node", &device.node),
        None => object.text("type", "tmpfs").null("node"),
    };
    object.text("mount", mounted.mount);
    object.text("directory", &mounted.directory);
    if let Some(verdict) = &mounted.verdict {
        object.text("state", verdict.state.name());
        strings(object.array("changes"), &verdict.changes);
    }
    match mounted.fallback.as_ref().or(lost) {
        Some(why) => object.text("refused", why),
        None => object.null("refused"),
    };
}

fn strings<'a>(mut array: Array<'_>, items: impl IntoIterator<Item = &'a String>) {
    for item in items {
        array.text(item);
    }
}
