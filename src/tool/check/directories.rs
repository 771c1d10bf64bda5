//! Directories of the new root that the boot and the real init depend on.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::context::Check;
use crate::boot::filesystem::{MOVED_MOUNTS, is_mount_target};
use crate::plan::{Content, Layer, Plan, Root, Upper};
use crate::text::shown;
use crate::tool::finding::Findings;
use crate::tool::image::files::kind;
use crate::tool::image::node::Node;
use crate::tool::image::rootfs::{ResolveError, Rootfs};

/// Reports files and links in place of /dev, /proc, /sys and /run, and says what `/init` does about them.
pub fn mount_points(check: &Check, findings: &mut Findings) {
    let Some(plan) = check.plan() else {
        return;
    };
    let writable = match &plan.root {
        Root::Overlay(upper) => *upper != Upper::None,
        Root::Extracted { writable, .. } => *writable,
        Root::Initramfs | Root::Device | Root::Assembled | Root::Layer => false,
    };
    for name in MOVED_MOUNTS {
        if let Some(node) = check.root.lookup(name.as_bytes())
            && let Some(what) = blocked(check.root, name, node)
        {
            let what = match writable {
                true => format!("{what}: /init puts a directory in its place"),
                false => format!("{what}: the new root has no /{name}"),
            };
            findings.warning(place(plan, node, name.as_bytes()), what);
        }
    }
}

/// Why nothing can be mounted on `/name`; `None` if it can, or that is unknown.
fn blocked(root: &Rootfs, name: &str, node: &Node) -> Option<String> {
    match node.mode & libc::S_IFMT {
        libc::S_IFDIR => return None,
        libc::S_IFLNK => {}
        _ => return Some(format!("a {}, not a directory", kind(node.mode))),
    }
    let link = format!("a symlink to {}", shown(&node.target));
    let target = match root.resolve(name.as_bytes()) {
        Ok(target) => target,
        Err(ResolveError::Missing) if root.partial => return None,
        Err(error) => return Some(format!("{link}, {error}")),
    };
    let file = root.lookup(&target)?;
    let target = Path::new("/").join(OsStr::from_bytes(&target));
    match file.mode & libc::S_IFMT {
        libc::S_IFDIR if is_mount_target(name, &target) => None,
        libc::S_IFDIR => Some(format!("{link}, which has another use")),
        _ => Some(format!("{link}, which is a {}", kind(file.mode))),
    }
}

/// Reports directories of `rd.overlay.for=` that are links or other files, or cannot be created.
pub fn kept(check: &Check, findings: &mut Findings) {
    let Some(plan) = check.plan() else {
        return;
    };
    let read_only = !matches!(plan.root, Root::Overlay(Upper::Tmpfs(_)));
    for path in plan.kept.iter().flat_map(|kept| &kept.paths) {
        let ends = path.match_indices('/').skip(1).map(|(end, _)| end);
        for end in ends.chain([path.len()]) {
            let inside = path.get(1..end).unwrap_or_default().as_bytes();
            let why = match check.root.lookup(inside) {
                Some(node) if node.mode & libc::S_IFMT == libc::S_IFDIR => continue,
                Some(node) => format!("a {}, not a directory", kind(node.mode)),
                None if read_only && !check.root.partial => {
                    "no layer has it, and the root is read-only (rd.overlay.readonly)".into()
                }
                None => break,
            };
            let what = format!("{}: {why}: /init cannot keep its writes", shown(inside));
            findings.error(format_args!("rd.overlay.for={path}"), what);
            break;
        }
    }
}

/// Reports directories of archives that everybody may write to: GRUB's `newc:` makes all of them so, and they
/// become /etc of the new root. Directories with the sticky bit, such as /tmp, are fine.
pub fn world_writable(check: &Check, findings: &mut Findings) {
    /// The number of directories that are listed. The rest is counted.
    const LINES: usize = 3;
    let Some(plan) = check.plan() else {
        return;
    };
    let from_archive = |node: &Node| {
        let layer = plan.layers.get(node.layer);
        layer.is_some_and(|layer| matches!(layer.content, Content::Cpio { .. }))
    };
    let mut found = check.root.entries().filter(|(_, node)| {
        let open = node.mode & libc::S_IFMT == libc::S_IFDIR && node.mode & 0o1002 == 0o002;
        open && from_archive(node)
    });
    for (path, node) in found.by_ref().take(LINES) {
        let mode = node.mode & 0o7777;
        let what =
            format!("mode {mode:04o}: everybody may create and delete files in this directory");
        findings.warning(place(plan, node, path), what);
    }
    let more = found.count();
    if more > 0 {
        let what = format!("{more} more world-writable directories");
        findings.warning("new root", what);
    }
}

/// A file of a layer, for a message.
fn place(plan: &Plan, node: &Node, path: &[u8]) -> String {
    let layer = plan.layers.get(node.layer).map(Layer::to_string);
    let layer = layer.unwrap_or_else(|| "new root".into());
    match path {
        b"" => format!("{layer}: /"),
        path => format!("{layer}: {}", shown(path)),
    }
}
