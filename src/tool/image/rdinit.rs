//! The program that the kernel starts. If several archives have it, the last one wins.

use super::boot::Boot;
use super::node::Node;
use crate::bytes::ReadAt;
use crate::error::{Error, Result};
use crate::format::cpio::normalized;
use crate::format::elf;
use crate::initrd::{self, Kind};
use crate::text::shown;

/// Checks that the program that the kernel starts (`rdinit=`) is layerinit's `/init`. A kernel with the
/// loader built in needs none in the image. If `/init` is layerinit's, any other program that `rdinit=` names
/// (most often a script) is assumed to start it.
///
/// # Errors
/// The kernel starts another program, and no layer is mounted.
pub fn check_is_layerinit(boot: &Boot, image: &(dyn ReadAt + Sync)) -> Result<()> {
    let rdinit = boot.options.rdinit.as_bytes();
    let Some((path, node)) = boot.rootfs.find(rdinit) else {
        return Ok(());
    };
    let is_own = |node: &Node| {
        let program = boot.content(image, node);
        program.is_ok_and(|program| may_be_own(&*program))
    };
    let default = boot.rootfs.find(b"/init");
    if is_own(node) || default.is_some_and(|(other, node)| other != path && is_own(node)) {
        return Ok(());
    }
    let name = normalized(rdinit);
    let program = boot.content(image, node)?;
    let mut what = format!("it is not layerinit's, but {}", describe(&*program));
    if path != name {
        what.push_str(&format!(" ({})", shown(&path)));
    }
    if let Some(bytes) = node.body {
        what.push_str(&format!(" from the archive at {:#x}", bytes.segment));
        if let Some(first) = replaced_archive(image, rdinit, bytes.segment) {
            what.push_str(&format!(
                ", which replaces that of the archive at {first:#x}"
            ));
        }
    }
    what.push_str(
        ": no layer would be mounted (the loader must be the last archive with that file before the first EROFS \
         image)",
    );
    Err(Error::new("start", shown(rdinit), what))
}

/// Whether a program has the note of layerinit's `/init`, or may have it: the notes of big-endian programs
/// are not read.
fn may_be_own(program: &dyn ReadAt) -> bool {
    elf::is_big_endian(program) || elf::layerinit_version(program).is_some()
}

/// The last archive before the one at offset `by` that the kernel unpacks and that has `rdinit`, too. The
/// walk of [`Boot`] does not tell, because it looks for the target if `rdinit` is a symbolic link.
fn replaced_archive(image: &(dyn ReadAt + Sync), rdinit: &[u8], by: u64) -> Option<u64> {
    let walk = initrd::walk(image, rdinit);
    let mut same = walk.segments.iter().filter(|segment| match &segment.kind {
        Kind::Cpio(cpio) => cpio.by_kernel && cpio.holds_init && segment.offset < by,
        _ => false,
    });
    same.next_back().map(|segment| segment.offset)
}

/// What a program is, for a message.
fn describe(program: &dyn ReadAt) -> String {
    let mut head = [0; 64];
    let n = program.read_at(&mut head, 0).unwrap_or(0);
    let line = head.get(..n).unwrap_or_default();
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match line.starts_with(b"#!") {
        true => format!("a script ({})", shown(line)),
        false => "another program".into(),
    }
}
