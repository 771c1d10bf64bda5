//! The real init: whether it is in the new root, and whether the kernel can start it.

use super::context::Check;
use crate::boot::filesystem::MOVED_MOUNTS;
use crate::boot::verify_init::MAX_INTERPRETERS;
use crate::plan::{Plan, Root};
use crate::text::shown;
use crate::tool::finding::Findings;
use crate::tool::image::files::kind;
use crate::tool::image::node::Node;
use crate::tool::image::rootfs::Rootfs;

/// The reason for an init that does not exist.
const NOT_THERE: &str = "not there";

/// The inits of the plan that `/init` tries, in order.
#[derive(Debug, Default)]
struct InitSelection<'a> {
    /// The first that can be started.
    selected: Option<&'a str>,
    /// Those before it, each with the reason.
    rejected: Vec<(&'a str, String)>,
}

/// Reports files at the path of an init that `/init` skips: the system would start another one, most often a
/// shell, which is not intended.
pub fn skipped(check: &Check, findings: &mut Findings) {
    let selection = check.plan().and_then(|plan| select(check, plan));
    if let Some(InitSelection { selected, rejected }) = selection
        && let Some(selected) = selected
    {
        for (init, why) in rejected.iter().filter(|(_, why)| why != NOT_THERE) {
            findings.warning(init, format!("{why}; {selected} would start"));
        }
    }
}

/// Reports a new root without an init that can be started.
pub fn missing(check: &Check, findings: &mut Findings) {
    let Some(plan) = check.plan() else {
        return;
    };
    let selection = select(check, plan).filter(|selection| selection.selected.is_none());
    let Some(InitSelection { rejected, .. }) = selection else {
        return;
    };
    let rejected = rejected.iter().map(|(init, why)| format!("{init}: {why}"));
    let why = Vec::from_iter(rejected).join("; ");
    if !plan.layers.is_empty() {
        findings.error("no init in the new root", why);
    } else if check.options.cmdline.is_some() {
        let what = format!("there are no layers, and the initramfs has no other init: {why}");
        findings.error("command line", what);
    } else {
        // The command line may have root=.
        let what = "there are no layers, and no init but the loader: it boots only with root=";
        findings.warning("image", what);
    }
}

/// Selects the init that `/init` starts. `None` if the new root is not fully known.
fn select<'a>(check: &Check, plan: &'a Plan) -> Option<InitSelection<'a>> {
    let initramfs = plan.root == Root::Initramfs;
    if !initramfs && (check.root.partial || plan.layers.is_empty()) {
        return None;
    }
    let can_start = |init: &str| match initramfs {
        true => find(&check.boot.rootfs, init).and_then(|(_, node)| is_program(node.mode)),
        false => can_start(check, init, MAX_INTERPRETERS),
    };
    let mut selection = InitSelection::default();
    for init in &plan.inits {
        match can_start(init) {
            Ok(()) => {
                selection.selected = Some(init);
                break;
            }
            Err(why) => selection.rejected.push((init, why)),
        }
    }
    Some(selection)
}

/// The file at a path, with symbolic links followed.
fn find<'a>(root: &'a Rootfs, path: &str) -> std::result::Result<(Vec<u8>, &'a Node), String> {
    let found = root.find(path.as_bytes());
    found.ok_or_else(|| match root.dangling_link(path.as_bytes()) {
        Some((target, error)) => format!("a symlink to {}, {error}", shown(target)),
        None => NOT_THERE.into(),
    })
}

/// Whether a file with this mode can be a program.
pub fn is_program(mode: u32) -> std::result::Result<(), String> {
    match mode {
        _ if mode & libc::S_IFMT != libc::S_IFREG => Err(format!("a {}, not a file", kind(mode))),
        _ if mode & 0o111 == 0 => Err(format!("not executable (mode {:04o})", mode & 0o7777)),
        _ => Ok(()),
    }
}

/// Whether the kernel can start a program of the new root with its interpreters, at most `depth` of them.
fn can_start(check: &Check, path: &str, depth: usize) -> std::result::Result<(), String> {
    let (found, node) = find(check.root, path)?;
    let top = found.split(|byte| *byte == b'/').next();
    if let Some(name) = MOVED_MOUNTS
        .iter()
        .find(|name| top == Some(name.as_bytes()))
    {
        return Err(format!(
            "it is in /{name}, and the filesystem that is mounted there hides it"
        ));
    }
    is_program(node.mode)?;
    if node.size() == 0 {
        return Err("it is empty".into());
    }
    let content = check.layers.content(node);
    let content = content.map_err(|error| error.to_string())?;
    match check.machine.interpreter(&*content)? {
        None => Ok(()),
        Some(_) if depth == 0 => Err("too many interpreters of interpreters".into()),
        Some(needed) => can_start(check, &needed, depth.saturating_sub(1))
            .map_err(|what| format!("it needs {}: {what}", shown(needed.as_bytes()))),
    }
}
