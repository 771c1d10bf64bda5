//! The bytes of a file in the root that results from the layers, or in one layer.

use std::io::{self, IsTerminal, Write};

use super::image::files::kind;
use super::image::input::Initrd;
use super::image::view;
use super::progress::LongStep;
use crate::bytes::ReadAt;
use crate::error::{Context, Error, Result};
use crate::format::erofs::Limits;
use crate::text::shown;

/// Writes the bytes of the file at `path`. Symbolic links are followed within that root. With `layer`, a
/// number as in the plan, only that layer counts.
///
/// # Errors
/// There is no such file, its layer cannot be read, or `out` cannot be written.
pub fn cat(image: &Initrd, path: &str, layer: Option<usize>, out: &mut dyn Write) -> Result<()> {
    let context = || shown(path.as_bytes());
    view::with(image, layer, |view| {
        let Some((_, node)) = view.root.find(path.as_bytes()) else {
            let what = match (
                view.findings.first_error(),
                view.root.dangling_link(path.as_bytes()),
            ) {
                (Some(what), _) => format!("not there, but {what}"),
                (None, Some((target, error))) => {
                    format!("a symlink to {}, {error}", shown(target))
                }
                (None, None) => "not there".into(),
            };
            return Err(Error::new("find", context(), what));
        };
        if !node.has_type(libc::S_IFREG) {
            let what = format!("a {}, not a file", kind(node.mode));
            return Err(Error::new("read", context(), what));
        }
        let content = view.layers.content(node).during("read", context())?;
        let bytes = node.with_bytes();
        if let (Some(image), Some(inode)) = (view.layers.image(bytes.layer), &bytes.inode) {
            Limits::of(image)
                .file(image, inode)
                .during("read", context())?;
            if inode.size > Limits::content_max(image) {
                let what = format!("it has {} bytes, nearly all of them holes", inode.size);
                let error = Error::new("read", context(), what);
                return Err(error.hint("`layerinit extract` keeps holes"));
            }
        }
        if io::stdout().is_terminal() {
            // A bar would be among the bytes.
            return copy(&*content, out, path);
        }
        let progress = LongStep::layer(format_args!("read {}", context()), content.size());
        copy(&progress.watch(&*content, 0), out, path)?;
        progress.finish();
        Ok(())
    })
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
