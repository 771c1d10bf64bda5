//! What the boot did, for the system that it started: /run/initramfs/layerinit.json.

use std::fs;

use rustix::time::ClockId;

use super::mount::{self, MountMethod, MountedRoot, UPPER};
use super::setup::is_mount_point;
use super::source::OpenSource;
use super::systemd::microseconds;
use crate::error::{Context, Result};
use crate::initrd::Kind;
use crate::json::{Array, Object};
use crate::plan::{self, Plan, Root};

/// Where the report is.
pub const PATH: &str = "/run/initramfs/layerinit.json";

/// Collects the report as the boot goes on.
#[derive(Debug)]
pub struct Report {
    started: u64,
    steps: Vec<(&'static str, u64)>,
}

/// What there is to report besides the times of the steps.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Release of the kernel.
    pub kernel: &'a str,
    /// What the layers were taken from.
    pub sources: &'a [OpenSource],
    /// The plan that was followed.
    pub plan: &'a Plan,
    /// How its root device and layers were mounted.
    pub mounted: &'a MountedRoot<'a>,
    /// Kernel modules that were loaded, in order.
    pub modules: &'a [String],
    /// What was warned of, in order.
    pub warnings: &'a [String],
    /// The real init.
    pub init: &'a str,
    /// Bytes of the old root and of /initrd.image given back.
    pub freed: u64,
}

/// Microseconds since the machine started.
fn now() -> u64 {
    microseconds(ClockId::Boottime)
}

impl Report {
    /// Starts the clock.
    #[allow(clippy::new_without_default, reason = "it reads a clock")]
    pub fn new() -> Self {
        Self {
            started: now(),
            steps: Vec::new(),
        }
    }

    /// Notes that a step has ended now.
    pub fn ended(&mut self, step: &'static str) {
        self.steps.push((step, now()));
    }

    /// The report as one JSON object and a line feed.
    pub fn json(&self, facts: &Facts<'_>) -> String {
        let mut text = String::new();
        let mut report = Object::new(&mut text);
        report.text("version", env!("CARGO_PKG_VERSION"));
        report.text("kernel", facts.kernel);
        sources(report.array("sources"), facts.sources);
        if let (Some(device), Some(how)) = (&facts.plan.device, &facts.mounted.device) {
            let mut object = report.object("device");
            object.text("root", &device.spec.to_string());
            object.text("node", &how.node).text("type", &how.fstype);
        }
        layers(report.array("layers"), facts);
        root(&mut report, facts);
        strings(report.array("modules"), facts.modules);
        strings(report.array("warnings"), facts.warnings);
        report.text("init", facts.init);
        report.number("freed_bytes", facts.freed);
        // In microseconds: the start since the kernel's, each step since the one before.
        report.number("started_us", self.started);
        let mut steps = report.object("steps_us");
        let mut before = self.started;
        for (step, end) in &self.steps {
            steps.number(step, end.saturating_sub(before));
            before = *end;
        }
        drop(steps);
        report.number("total_us", before.saturating_sub(self.started));
        drop(report);
        text.push('\n');
        text
    }

    /// Writes the report, where there is a /run to write it to.
    pub fn write(&self, facts: &Facts<'_>) -> Result<()> {
        // With the dot: it may be a link to its place.
        if !is_mount_point("/run/.".as_ref()) {
            return Ok(());
        }
        fs::create_dir_all(mount::LAYERS).during("create", mount::LAYERS)?;
        fs::write(PATH, self.json(facts)).during("write", PATH)
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
                    Kind::Cpio(_) => "cpio",
                    Kind::Erofs(_) => "erofs",
                    Kind::Bootconfig { .. } => "bootconfig",
                },
            );
        }
    }
}

fn layers(mut array: Array<'_>, facts: &Facts<'_>) {
    for mounted in &facts.mounted.layers {
        let (layer, mut object) = (mounted.layer, array.object());
        object.number("number", layer.number as u64);
        object.text("name", &layer.name);
        match facts.mounted.single {
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
            #[cfg(feature = "extract")]
            MountMethod::Extracted => object.text("type", "erofs").text("backend", "extract"),
            MountMethod::Unpacked => object.text("type", "cpio").text("backend", "unpack"),
        };
    }
}

fn root(report: &mut Object<'_>, facts: &Facts<'_>) {
    let (kind, upper) = match &facts.plan.root {
        _ if facts.mounted.single => ("tmpfs", None),
        Root::Initramfs => ("initramfs", None),
        Root::Device => ("device", None),
        Root::Assembled => ("kernel", None),
        Root::Layer => ("layer", None),
        Root::Overlay(upper) => ("overlay", Some(upper)),
        Root::Extracted { .. } => ("tmpfs", None),
    };
    report.text("root", kind);
    let (Some(upper), Some(mounted)) = (upper, &facts.mounted.upper) else {
        report.null("upper");
        return;
    };
    let mut object = report.object("upper");
    let wanted = match upper {
        plan::Upper::Tmpfs(options) => format!("tmpfs:{}", options.join(",")),
        plan::Upper::Device(persistent) => persistent.to_string(),
        plan::Upper::None => String::new(),
    };
    object.text("overlay", &wanted);
    match &mounted.device {
        Some(device) => object
            .text("type", &device.fstype)
            .text("node", &device.node),
        None => object.text("type", "tmpfs").null("node"),
    };
    object.text("mount", UPPER);
    object.text("directory", &mounted.directory);
    // Writes are to stay, and do not.
    match mounted.fallback.as_ref().or(facts.plan.lost.as_ref()) {
        Some(why) => object.text("refused", why),
        None => object.null("refused"),
    };
}

fn strings<'a>(mut array: Array<'_>, items: impl IntoIterator<Item = &'a String>) {
    for item in items {
        array.text(item);
    }
}
