//! Whether the real init is in the root that the layers make, looked at without mounting anything.

use crate::boot::filesystem::MOVED_MOUNTS;
use crate::boot::verify_init::MAX_INTERPRETERS;
use crate::plan::{Plan, Root};
use crate::text::shown;
use crate::tool::image::boot::Boot;
use crate::tool::image::files::kind;
use crate::tool::image::machine::Machine;
use crate::tool::image::merged::Layers;
use crate::tool::image::rootfs::{Node, Rootfs};
use crate::tool::image::unpack::{Report, Severity};

/// The real init that would be started, and why not those before it.
#[derive(Debug, Default)]
pub struct Choice<'a> {
    /// `None`: none of them can be started.
    pub started: Option<&'a str>,
    /// Those before it, each with the reason.
    pub refused: Vec<(&'a str, String)>,
}

/// Which of the plan's inits can be started in `root`, which the `layers` make. `None` where that cannot
/// be told.
pub fn init<'a>(
    boot: &Boot,
    plan: &'a Plan,
    root: &Rootfs,
    layers: &Layers,
    machine: &Machine,
) -> Option<Choice<'a>> {
    if plan.root == Root::Initramfs {
        return Some(choose(plan, |path| {
            let (_, node) = find(&boot.rootfs, path)?;
            program(node.mode)
        }));
    }
    if root.partial || plan.layers.is_empty() {
        return None;
    }
    Some(choose(plan, |path| {
        start(root, layers, machine, path, MAX_INTERPRETERS)
    }))
}

fn choose(plan: &Plan, check: impl Fn(&str) -> std::result::Result<(), String>) -> Choice<'_> {
    let mut choice = Choice::default();
    for init in &plan.inits {
        match check(init) {
            Ok(()) => {
                choice.started = Some(init);
                break;
            }
            Err(what) => choice.refused.push((init, what)),
        }
    }
    choice
}

impl Choice<'_> {
    /// Why none of the inits can be started, if that is so.
    pub fn refusal(&self) -> Option<String> {
        let refused = self.refused.iter();
        let refused = refused.map(|(init, what)| format!("{init}: {what}"));
        match self.started {
            Some(_) => None,
            None => Some(Vec::from_iter(refused).join("; ")),
        }
    }

    /// Reports files that are in the place of an init and are passed over: the system would start by
    /// another name, most often a shell, and nobody meant that.
    pub fn passed_over(&self, report: Report) {
        let Some(started) = self.started else {
            return;
        };
        for (init, what) in &self.refused {
            if what != NOT_THERE {
                let what = format!("{what}; {started} would start");
                report(Severity::Warning, (*init).into(), what);
            }
        }
    }
}

const NOT_THERE: &str = "not there";

/// The file that a name leads to.
fn find<'a>(root: &'a Rootfs, path: &str) -> std::result::Result<(Vec<u8>, &'a Node), String> {
    let found = root.find(path.as_bytes());
    found.ok_or_else(|| match root.link(path.as_bytes()) {
        Some((target, lost)) => format!("a symlink to {}, {lost}", shown(target)),
        None => NOT_THERE.into(),
    })
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
    let (found, node) = find(root, path)?;
    let top = found.split(|byte| *byte == b'/').next();
    if let Some(name) = MOVED_MOUNTS
        .iter()
        .find(|name| top == Some(name.as_bytes()))
    {
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
