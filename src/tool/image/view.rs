//! The root that results from an image, or one layer of it, as `cat`, `extract` and `diff` see it.

use super::boot::{Boot, StandIns};
use super::input::Initrd;
use super::merged::{self, Layers, Stacking};
use super::node::Node;
use super::rootfs::Rootfs;
use crate::error::{Error, Result};
use crate::plan::{Plan, Root};
use crate::tool::finding::{Findings, Severity};

/// A tree of files and the location of their bytes.
pub struct View<'a> {
    /// The files.
    pub root: &'a Rootfs,
    /// Their bytes.
    pub layers: &'a Layers<'a>,
    /// Problems of the layers.
    pub findings: &'a Findings,
    /// Whether it is one layer as it is, with marks for overlayfs.
    pub as_is: bool,
    /// The numbers of the layers in the plan; empty: the files are those of the rootfs.
    numbers: Vec<usize>,
}

impl View<'_> {
    /// All files with their paths, in the order of the paths.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        self.root.entries()
    }

    /// The name of the layer with this index for messages.
    pub fn layer_name(&self, index: usize) -> String {
        match self.numbers.get(index) {
            Some(number) => format!("layer {number}"),
            None => "the initramfs".into(),
        }
    }

    /// The first reason why some of the files are unknown.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn complete(&self) -> Result<()> {
        let errors = self.findings.list().iter();
        let mut errors = errors.filter(|finding| finding.severity == Severity::Error);
        match errors.next() {
            Some(error) if self.root.partial => {
                Err(Error::new("read", "the layers", error.to_string()))
            }
            _ => Ok(()),
        }
    }
}

/// Calls `run` with the root that `/init` makes of an image: the merged layers, or the initramfs itself
/// without layers. With `layer`, a number as in the plan, with that layer alone.
///
/// # Errors
/// There is no such layer, or no plan for the image.
pub fn with<T>(
    image: &Initrd,
    layer: Option<usize>,
    run: impl FnOnce(&View) -> Result<T>,
) -> Result<T> {
    let cmdline = image.cmdline.as_deref().unwrap_or_default();
    let boot = Boot::new(image, cmdline, &StandIns::default());
    let mut plan = boot.plan()?;
    if let Some(number) = layer {
        select(&mut plan, number)?;
    } else if plan.layers.is_empty() && plan.root == Root::Initramfs {
        return run(&View {
            root: &boot.rootfs,
            layers: &Layers::of_rootfs(&boot, image),
            findings: &boot.findings,
            as_is: false,
            numbers: Vec::new(),
        });
    }
    let sources = boot.open(image)?;
    let parts = merged::layer_parts(&plan, &sources);
    let stacking = Stacking {
        changes: false,
        as_is: layer.is_some(),
    };
    let (root, layers, findings) = merged::merge(&plan, &sources, &parts, stacking);
    run(&View {
        root: &root,
        layers: &layers,
        findings: &findings,
        as_is: layer.is_some(),
        numbers: plan.layers.iter().map(|layer| layer.number).collect(),
    })
}

/// Drops all layers but the one with this number.
fn select(plan: &mut Plan, number: usize) -> Result<()> {
    let total = plan.layers.len();
    let first = plan.layers.first().map_or(0, |layer| layer.number);
    plan.layers.retain(|layer| layer.number == number);
    plan.device = None;
    if plan.layers.is_empty() {
        let what = match total {
            0 => "there is none; the image has no layers".to_string(),
            n => format!("there is none; the image has {n}, and the first is layer {first}"),
        };
        return Err(Error::new("find", format_args!("layer {number}"), what));
    }
    Ok(())
}
