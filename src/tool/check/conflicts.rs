//! Changes of layers to those below them.
//!
//! A conflict may be a mistake: a directory in place of another file or the other way round, which hides
//! whole trees, or a whiteout of nothing. A file whose content differs from that in a layer below is an
//! override, which is what layers are for.

use super::context::Check;
use crate::plan::{Layer, Plan};
use crate::text::shown;
use crate::tool::finding::Findings;
use crate::tool::image::changes::{Change, Changes};
use crate::tool::image::files::kind;
use crate::tool::image::merged::{Layers, equal};
use crate::tool::image::node::Node;
use crate::tool::progress::LongStep;

/// The number of lines of each kind that are printed. The rest is counted.
const MAX: usize = 1000;

/// Lists conflicts and overrides with `--conflicts`.
pub fn conflicts(check: &Check, findings: &mut Findings) {
    let (Some(plan), Some(changes)) = (check.plan(), &check.root.changes) else {
        return;
    };
    let (conflicts, overrides) = lines(changes, check.layers, plan);
    findings.summarize(format!(
        "{}, {}",
        super::count(conflicts.len(), "conflict"),
        super::count(overrides.len(), "override")
    ));
    for line in conflicts.into_iter().chain(overrides) {
        findings.note(line);
    }
}

/// A line for each conflict, and one for each override.
fn lines(changes: &Changes, layers: &Layers, plan: &Plan) -> (Vec<String>, Vec<String>) {
    let (mut conflicts, mut overrides) = (Vec::new(), Vec::new());
    let name = |layer: usize| {
        let layer = plan.layers.get(layer);
        layer.map_or_else(|| "?".into(), Layer::to_string)
    };
    for (path, change) in &changes.list {
        let path = shown(path);
        match change {
            Change::UselessWhiteout(layer) => {
                let layer = name(*layer);
                conflicts.push(format!(
                    "conflict: {layer}: {path}: a whiteout, and no layer below has anything there"
                ));
            }
            Change::Replaced { old, new, below } => {
                let (upper, lower) = (name(new.layer), name(old.layer));
                let directory = [old, new]
                    .iter()
                    .any(|node| node.mode & libc::S_IFMT == libc::S_IFDIR);
                let (is, was) = (kind(new.mode), kind(old.mode));
                let place = format!("{upper}: {path}: a {is} in place of");
                if directory {
                    let lost = match below {
                        0 => String::new(),
                        1 => ", with the 1 file in it".into(),
                        n => format!(", with the {n} files in it"),
                    };
                    conflicts.push(format!("conflict: {place} a {was} of {lower}{lost}"));
                } else if let Some(clause) = differ(layers, old, new) {
                    overrides.push(format!("override: {place} a {was} of {lower}{clause}"));
                }
            }
        }
    }
    for list in [&mut conflicts, &mut overrides] {
        let more = list.len().saturating_sub(MAX);
        if more > 0 {
            list.truncate(MAX);
            list.push(format!("... and {more} more"));
        }
    }
    if changes.dropped > 0 {
        overrides.push(format!(
            "... and {} more that were not compared",
            changes.dropped
        ));
    }
    (conflicts, overrides)
}

/// Whether two files differ, with a clause for the message if that is not certain.
fn differ(layers: &Layers, old: &Node, new: &Node) -> Option<&'static str> {
    if old.mode & libc::S_IFMT != new.mode & libc::S_IFMT {
        return Some("");
    }
    match old.mode & libc::S_IFMT {
        libc::S_IFLNK => (old.target != new.target).then_some(""),
        libc::S_IFREG => {
            if old.size() != new.size() {
                return Some("");
            }
            let progress = LongStep::part("compare files", new.size());
            match (layers.content(old), layers.content(new)) {
                _ if new.size() == 0 => None,
                (Ok(old), Ok(new)) => match equal(&progress.watch(&*old, 0), &*new) {
                    Ok(true) => None,
                    Ok(false) => Some(""),
                    Err(_) => Some(" (one of them cannot be read)"),
                },
                _ => Some(" (one of them cannot be read)"),
            }
        }
        // The numbers of a device do not matter, and pipes and sockets have no content.
        _ => None,
    }
}
