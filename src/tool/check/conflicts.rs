//! What layers do to the files of those below.
//!
//! A conflict is what somebody may not have meant: a directory in place of something else or the other
//! way round, by which whole trees disappear, and a whiteout of nothing. That a file is there twice,
//! with different contents, is what layers are for, and an override.

use std::io;

use crate::bytes::{ReadAt, Reader};
use crate::text::shown;
use crate::tool::image::files::kind;
use crate::tool::image::merged::Layers;
use crate::tool::image::rootfs::{Change, Changes, Node};

/// More of either than anybody reads.
const MAX: usize = 1000;

/// A line for each conflict, then one for each override. `names` are those of the layers.
pub fn lines(changes: &Changes, layers: &Layers, names: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut conflicts, mut overrides) = (Vec::new(), Vec::new());
    let unknown = String::from("?");
    let name = |layer: usize| names.get(layer).unwrap_or(&unknown);
    for (path, change) in &changes.list {
        let path = shown(path);
        match change {
            Change::Nothing(layer) => {
                let layer = name(*layer);
                conflicts.push(format!(
                    "conflict: {layer}: {path}: a whiteout, and no layer below has anything there"
                ));
            }
            Change::Other(old, new, below) => {
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
                } else if let Some(how) = differ(layers, old, new) {
                    overrides.push(format!("override: {place} a {was} of {lower}{how}"));
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
    if changes.more > 0 {
        overrides.push(format!(
            "... and {} more that were not looked at",
            changes.more
        ));
    }
    (conflicts, overrides)
}

/// Whether two files differ, and how much of that is known.
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
            match (layers.content(old), layers.content(new)) {
                _ if new.size() == 0 => None,
                (Some(old), Some(new)) => match equal(&*old, &*new) {
                    Ok(true) => None,
                    Ok(false) => Some(""),
                    Err(_) => Some(" (one of them cannot be read)"),
                },
                _ => Some(" (of the same size; compressed, not compared)"),
            }
        }
        // What numbers a device has, a pipe or socket: nothing to lose.
        _ => None,
    }
}

fn equal(a: &dyn ReadAt, b: &dyn ReadAt) -> io::Result<bool> {
    use io::BufRead;
    let (mut a, mut b) = (Reader::new(a, 0), Reader::new(b, 0));
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let n = left.len().min(right.len());
        if n == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        if left.get(..n) != right.get(..n) {
            return Ok(false);
        }
        a.consume(n);
        b.consume(n);
    }
}
