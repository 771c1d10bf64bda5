//! The bytes of a file in the root that the layers make, or in one layer.

use std::io::Write;

use super::image::boot::{Boot, StandIns};
use super::image::files::kind;
use super::image::input::Initrd;
use super::image::merged::{self, layer_parts};
use crate::bytes::ReadAt;
use crate::error::{Context, Error, Result};
use crate::text::shown;

/// Writes the bytes of the file at `path`. Symbolic links are followed, within that root. With `layer`,
/// a number as in the plan, that layer alone is looked at.
pub fn cat(image: &Initrd, path: &str, layer: Option<usize>, out: &mut dyn Write) -> Result<()> {
    let boot = Boot::new(image, "", &StandIns::default());
    let mut plan = boot.plan()?;
    if let Some(number) = layer {
        let last = plan.layers.len();
        if number >= last {
            let what = format!("there is none; the image has {last}, and the first is layer 0");
            return Err(Error::new("find", format_args!("layer {number}"), what));
        }
        plan.layers.drain(number.saturating_add(1)..);
        plan.layers.drain(..number);
    }
    let sources = boot.open(image)?;
    let parts = layer_parts(&plan, &sources);
    let (root, layers, findings) = merged::merge(&plan, &sources, &parts, false);
    let broken = findings.first_error();
    let context = || shown(path.as_bytes());
    let Some((_, node)) = root.find(path.as_bytes()) else {
        let what = broken.map_or("not there".into(), |what| format!("not there, but {what}"));
        return Err(Error::new("find", context(), what));
    };
    if node.mode & libc::S_IFMT != libc::S_IFREG {
        let what = format!("a {}, not a file", kind(node.mode));
        return Err(Error::new("read", context(), what));
    }
    if node.size() == 0 {
        return Ok(());
    }
    let Some(content) = layers.content(node) else {
        let what = "it is in a compressed archive, which this command does not read; take it out with cpio";
        return Err(Error::new("read", context(), what));
    };
    copy(&*content, out, path)
}

fn copy(content: &dyn ReadAt, out: &mut dyn Write, path: &str) -> Result<()> {
    const PIECE: usize = 1 << 20;
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    loop {
        let n = content
            .read_at(&mut buffer, at)
            .during("read", shown(path.as_bytes()))?;
        if n == 0 {
            return Ok(());
        }
        out.write_all(buffer.get(..n).unwrap_or_default())
            .during("write", "standard output")?;
        at = at.saturating_add(n as u64);
    }
}
