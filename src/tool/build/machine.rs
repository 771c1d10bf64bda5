//! The architecture of a loader.

use std::io::Read;
use std::path::Path;

use super::spec::{Body, FileContent, SpecEntry};
use crate::bytes::{Opened, ReadAt, Reader};
use crate::format::cpio::normalized;
use crate::module::dep::{MODULE_MAX, decompressed};
use crate::text::shown;
use crate::tool::image::loader_modules::has_module_name;
use crate::tool::image::machine::{self, Machine};

/// The largest page size, in bytes, of kernels that can run the `/init` among these entries.
pub fn page_max(entries: &[SpecEntry]) -> u64 {
    let init = find_init(entries);
    match init.map(|entry| &entry.body) {
        Some(Body::File(FileContent::Location(path), _)) => match Opened::open(path) {
            Ok(program) => machine::page_max(Some(&program)),
            Err(_) => machine::page_max(None),
        },
        Some(Body::File(FileContent::Bytes(bytes), _)) => {
            machine::page_max(Some(&bytes.as_slice()))
        }
        _ => machine::page_max(None),
    }
}

fn find_init(loader: &[SpecEntry]) -> Option<&SpecEntry> {
    let mut entries = loader.iter();
    entries.find(|entry| normalized(&entry.name) == b"init")
}

/// The file that becomes `/init`.
pub fn init_location(loader: &[SpecEntry]) -> Option<&Path> {
    match &find_init(loader)?.body {
        Body::File(FileContent::Location(path), _) => Some(path),
        _ => None,
    }
}

/// A warning if the modules of a loader are for a different architecture from its `/init`. All modules come
/// from one kernel build, so the first one is representative.
pub fn architecture_warning(loader: &[SpecEntry]) -> Option<String> {
    let content = |is_wanted: &dyn Fn(&[u8]) -> bool| {
        let mut files = loader.iter().filter_map(|entry| match &entry.body {
            Body::File(content, _) if is_wanted(&normalized(&entry.name)) => Some((entry, content)),
            _ => None,
        });
        files.next()
    };
    let (_, init) = content(&|name| name == b"init")?;
    let (entry, module) = content(&has_module_name)?;
    let kernel = Machine::running(&*open(init)?)?;
    let mut bytes = Vec::new();
    let module = open(module)?;
    let mut module = Reader::new(&*module, 0).take(MODULE_MAX);
    module.read_to_end(&mut bytes).ok()?;
    let what = kernel.refuses_module(&decompressed(bytes).ok()?)?;
    Some(format!("warning: {}: {what}", shown(&entry.name)))
}

fn open(content: &FileContent) -> Option<Box<dyn ReadAt + '_>> {
    match content {
        FileContent::Location(path) => Some(Box::new(Opened::open(path).ok()?)),
        FileContent::Bytes(bytes) => Some(Box::new(bytes.as_slice())),
    }
}
