//! The modules of a kernel in the layers, for the loader.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::layer::PreparedLayer;
use super::new_root;
use crate::bytes::Reader;
use crate::error::{Context, Error, Result};
use crate::text::shown;
use crate::tool::image::layer_kernels;
use crate::tool::image::merged::Layers;
use crate::tool::image::rootfs::Rootfs;

/// The object of errors.
const OBJECT: &str = "the layers";

/// Writes the modules of a kernel in the layers, and the files of depmod, into `directory`, below
/// lib/modules. With several kernels, that is `kernel`, else the one of the highest version that has its
/// vmlinuz there. Returns the release of the kernel.
///
/// # Errors
/// There is no such kernel, or no modules.dep; a layer cannot be read.
pub fn extract(layers: &[PreparedLayer], kernel: Option<&str>, directory: &Path) -> Result<String> {
    new_root::read(layers, |root, contents| {
        let (release, place) = choose(root, kernel)?;
        let target = directory.join("lib/modules").join(&release);
        for name in root.below(&place) {
            write_file(root, contents, &place, name, &target)?;
        }
        Ok(release)
    })?
}

/// The release of the kernel, and its directory in the new root.
fn choose(root: &Rootfs, kernel: Option<&str>) -> Result<(String, Vec<u8>)> {
    let directories = |file: &str| -> Vec<(String, Vec<u8>)> {
        let files = layer_kernels::files(root, file);
        let directories = files.iter().filter_map(|path| {
            let (directory, _) = path.split_at_checked(path.len().checked_sub(file.len())?)?;
            let directory = directory.strip_suffix(b"/")?;
            let name = directory.rsplit(|byte| *byte == b'/').next()?;
            Some((String::from_utf8(name.to_vec()).ok()?, directory.to_vec()))
        });
        directories.collect()
    };
    let mut found = directories("modules.dep");
    let names: Vec<_> = found.iter().map(|(release, _)| release.clone()).collect();
    let fail = |what: String| Error::new("find modules in", OBJECT, what);
    if found.is_empty() {
        return Err(fail("no usr/lib/modules/VERSION/modules.dep".into()));
    }
    if let Some(kernel) = kernel {
        found.retain(|(release, _)| release == kernel);
        let names = names.join(", ");
        return found.pop().ok_or_else(|| {
            fail(format!(
                "no usr/lib/modules/{kernel}/modules.dep, but of {names}"
            ))
        });
    }
    let kernels = directories("vmlinuz");
    match (kernels.last(), found.len()) {
        (Some(newest), _) if found.contains(newest) => Ok(newest.clone()),
        (Some((release, _)), _) => Err(fail(format!("no usr/lib/modules/{release}/modules.dep"))),
        (None, 1) => found.pop().ok_or_else(|| fail("none".into())),
        (None, _) => {
            let hint = format!("use --kernel with one of: {}", names.join(", "));
            Err(fail("several kernels".into()).hint(hint))
        }
    }
}

/// Writes one file, if it is a module or a file of depmod.
fn write_file(
    root: &Rootfs,
    contents: &Layers,
    place: &[u8],
    name: &[u8],
    target: &Path,
) -> Result<()> {
    let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let is_module = last.windows(3).any(|part| part == b".ko");
    if !is_module && !last.starts_with(b"modules.") {
        return Ok(());
    }
    let path = [place, b"/", name].concat();
    // Follows a link to a module elsewhere (weak-updates).
    let Some((_, node)) = root.find(&path) else {
        return Ok(());
    };
    if !node.has_type(libc::S_IFREG) {
        return Ok(());
    }
    let to = target.join(std::ffi::OsStr::from_bytes(name));
    let parent = to.parent().unwrap_or(target);
    fs::create_dir_all(parent).during("create", parent.display())?;
    let content = contents.content(node).during("read", shown(&path))?;
    let mut file = File::create(&to).during("create", to.display())?;
    io::copy(&mut Reader::new(&*content, 0), &mut file).during("extract", shown(&path))?;
    Ok(())
}
