//! Layers inside the loader: files of /layers, which the kernel unpacks.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::layer::PreparedLayer;
use super::spec::{Body, FileContent, SpecEntry};
use crate::error::{Error, Result};
use crate::format::cpio::normalized;

/// The directory of layers in the loader, as a name in an archive.
const LAYERS: &[u8] = b"layers";

/// Adds the layers to the loader, as files of /layers whose names keep the order.
pub fn add_layers(entries: &mut Vec<SpecEntry>, layers: &[PreparedLayer]) {
    // The kernel drops files whose directory is missing.
    if !entries
        .iter()
        .any(|entry| normalized(&entry.name) == LAYERS)
    {
        let mode = libc::S_IFDIR | 0o755;
        entries.push(SpecEntry::of_root(
            LAYERS,
            mode,
            Body::Empty,
            "--layers-inside",
        ));
    }
    for (index, layer) in layers.iter().enumerate() {
        let name = file_name(index, layers.len(), &layer.name);
        let name = [LAYERS, b"/", name.as_bytes()].concat();
        let body = Body::File(FileContent::Location(layer.location.clone()), Vec::new());
        let origin = format!("layer {}", layer.path.display());
        entries.push(SpecEntry::of_root(
            name,
            libc::S_IFREG | 0o644,
            body,
            origin,
        ));
    }
}

/// The name of the file of a layer, one of `count`. The order of names is that of layers.
pub fn file_name(index: usize, count: usize, name: &OsStr) -> OsString {
    // Steps of ten leave room for the files of boot loaders.
    let number = |index: usize| index.saturating_add(1).saturating_mul(10);
    let width = number(count.saturating_sub(1)).to_string().len();
    let mut file = OsString::from(format!("{:0width$}-", number(index)));
    file.push(name);
    file
}

/// The alignment of layers as [`data_align`](super::archive::CpioOptions::data_align).
///
/// # Errors
/// It is not a power of two.
pub fn member_align(align: u64) -> Result<u32> {
    let align = u32::try_from(align)
        .ok()
        .filter(|align| align.is_power_of_two());
    align.ok_or_else(|| {
        let what = "not a power of two, which files of an archive need";
        Error::new("align layers", "in the loader", what)
    })
}
