//! Directories of the new root that are not what the boot or the real init needs them to be.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::boot::filesystem::{MOVED_MOUNTS, is_mount_target};
use crate::plan::{Content, Layer, Plan, Root, Upper};
use crate::text::shown;
use crate::tool::image::files::kind;
use crate::tool::image::rootfs::{Lost, Node, Rootfs};
use crate::tool::image::unpack::{Report, Severity};

/// Reports what is not a directory where /dev, /proc, /sys and /run are mounted, and what `/init` does
/// about it. `root` is what the layers make.
pub fn mount_points(plan: &Plan, root: &Rootfs, report: Report) {
    let writable = matches!(&plan.root, Root::Overlay(upper) if *upper != Upper::None);
    for name in MOVED_MOUNTS {
        if let Some(node) = root.here(name.as_bytes())
            && let Some(what) = blocked(root, name, node)
        {
            let what = match writable {
                true => format!("{what}: /init puts a directory in its place"),
                false => format!("{what}: the new root has no /{name}"),
            };
            report(Severity::Warning, place(plan, node, name.as_bytes()), what);
        }
    }
}

/// Why nothing is mounted on `/name`; `None` where that is not so, or not known.
fn blocked(root: &Rootfs, name: &str, node: &Node) -> Option<String> {
    match node.mode & libc::S_IFMT {
        libc::S_IFDIR => return None,
        libc::S_IFLNK => {}
        _ => return Some(format!("a {}, not a directory", kind(node.mode))),
    }
    let link = format!("a symlink to {}", shown(&node.target));
    let target = match root.follow(name.as_bytes()) {
        Ok(target) => target,
        Err(Lost::Missing) if root.partial => return None,
        Err(lost) => return Some(format!("{link}, {lost}")),
    };
    let there = root.here(&target)?;
    let target = Path::new("/").join(OsStr::from_bytes(&target));
    match there.mode & libc::S_IFMT {
        libc::S_IFDIR if is_mount_target(name, &target) => None,
        libc::S_IFDIR => Some(format!("{link}, which has another use")),
        _ => Some(format!("{link}, which is a {}", kind(there.mode))),
    }
}

/// Reports directories that everybody may write to, as GRUB's `newc:` writes all of an archive's: they
/// become the root's /etc. Directories with the sticky bit, as /tmp, are meant to be so.
pub fn writable(plan: &Plan, root: &Rootfs, report: Report) {
    /// A few show what is the matter.
    const LINES: usize = 3;
    let from_archive = |node: &Node| {
        let layer = plan.layers.get(node.layer);
        layer.is_some_and(|layer| matches!(layer.content, Content::Cpio { .. }))
    };
    let mut found = root.all().filter(|(_, node)| {
        let open = node.mode & libc::S_IFMT == libc::S_IFDIR && node.mode & 0o1002 == 0o002;
        open && from_archive(node)
    });
    for (path, node) in found.by_ref().take(LINES) {
        let mode = node.mode & 0o7777;
        let what =
            format!("mode {mode:04o}: everybody may create and delete files in this directory");
        report(Severity::Warning, place(plan, node, path), what);
    }
    let more = found.count();
    if more > 0 {
        let what = format!("{more} more directories to which everybody may write");
        report(Severity::Warning, "new root".into(), what);
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
