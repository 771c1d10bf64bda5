//! Whether the real init is in the root that the layers make, looked at without mounting anything.

use super::boot::Boot;
use super::files::kind;
use super::machine::Machine;
use super::merged::Layers;
use super::rootfs::Rootfs;
use crate::plan::{Plan, Root};
use crate::proof::DEPTH;
use crate::setup::MOVED;
use crate::words::shown;

/// Why none of the plan's inits can be started in `root`, which the `layers` make. `None`: one can, or
/// that cannot be told.
pub fn init(
    boot: &Boot,
    plan: &Plan,
    root: &Rootfs,
    layers: &Layers,
    machine: &Machine,
) -> Option<String> {
    if plan.root == Root::Initramfs {
        return refusals(plan, |path| match boot.rootfs.find(path.as_bytes()) {
            None => Err("not there".into()),
            Some((_, node)) => program(node.mode),
        });
    }
    if root.partial || plan.layers.is_empty() {
        return None;
    }
    refusals(plan, |path| start(root, layers, machine, path, DEPTH))
}

/// Why none of the inits can be started, if that is so.
fn refusals(
    plan: &Plan,
    check: impl Fn(&str) -> std::result::Result<(), String>,
) -> Option<String> {
    let mut refusals = Vec::new();
    for init in &plan.inits {
        match check(init) {
            Ok(()) => return None,
            Err(what) => refusals.push(format!("{init}: {what}")),
        }
    }
    Some(refusals.join("; "))
}

/// Whether a file of this mode can be a program.
pub fn program(mode: u32) -> std::result::Result<(), String> {
    match mode {
        _ if mode & libc::S_IFMT != libc::S_IFREG => Err(format!("a {}, not a file", kind(mode))),
        _ if mode & 0o111 == 0 => Err(format!("not executable (mode {:04o})", mode & 0o7777)),
        _ => Ok(()),
    }
}

/// Whether the kernel can start a program, and those that it starts in its place. What cannot be
/// read here is taken to be good.
fn start(
    root: &Rootfs,
    layers: &Layers,
    machine: &Machine,
    path: &str,
    depth: usize,
) -> std::result::Result<(), String> {
    let Some((found, node)) = root.find(path.as_bytes()) else {
        return Err("not there".into());
    };
    let top = found.split(|byte| *byte == b'/').next();
    if let Some(name) = MOVED.iter().find(|name| top == Some(name.as_bytes())) {
        return Err(format!("it lies in /{name}, which is mounted over it"));
    }
    program(node.mode)?;
    if node.size() == 0 {
        return Err("it is empty".into());
    }
    let Some(content) = layers.content(node) else {
        return Ok(());
    };
    match machine.interpreter(&*content)? {
        None => Ok(()),
        Some(_) if depth == 0 => Err("too many interpreters of interpreters".into()),
        Some(needed) => start(root, layers, machine, &needed, depth.saturating_sub(1))
            .map_err(|what| format!("it needs {}: {what}", shown(needed.as_bytes()))),
    }
}
