//! The entries of the loader, from spec files or the standard spec.

use std::cell::RefCell;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::init_program::{installed, installed_init};
use super::spec::{self, Body, FileContent, SpecEntry};
use crate::error::{Context, Error, Result};
use crate::tool::platform::Platform;

/// The spec of the standard loader.
pub const STANDARD: &str = include_str!("../../../initramfs-spec/loader");

/// The variable for the path of `/init` in the standard spec.
const VARIABLE: &str = "LAYERINIT_INIT";

/// The maximum length of a spec or a module index, in bytes.
const TEXT_MAX: u64 = 256 << 20;

/// The entries of spec files, in order; without any, of the standard spec. `${LAYERINIT_INIT}` is `init`,
/// else the environment variable, else the installed one for the architecture `target`.
///
/// # Errors
/// A spec cannot be read or has a wrong line, or there is no init for `${LAYERINIT_INIT}`.
pub fn entries(
    specs: &[PathBuf],
    init: Option<&Path>,
    target: Option<&Platform>,
) -> Result<Vec<SpecEntry>> {
    // Its absence is an error only if a spec uses the variable.
    let missing = RefCell::new(None);
    let environment = |name: &[u8]| {
        if name != VARIABLE.as_bytes() {
            return env::var_os(OsStr::from_bytes(name)).map(OsStringExt::into_vec);
        }
        let chosen = init
            .map(|path| path.as_os_str().to_owned())
            .or_else(|| env::var_os(VARIABLE));
        let path = match chosen {
            Some(path) => Ok(path),
            None => installed_init(target).map(PathBuf::into_os_string),
        };
        let path = path.map_err(|error| missing.replace(Some(error))).ok();
        path.map(OsStringExt::into_vec)
    };
    let parsed = match specs {
        [] => spec::parse(STANDARD.as_bytes(), "standard loader", &environment),
        specs => specs.iter().try_fold(Vec::new(), |mut entries, path| {
            let name = path.display().to_string();
            entries.extend(spec::parse(&read(path)?, &name, &environment)?);
            Ok(entries)
        }),
    };
    if let Some(error) = missing.into_inner() {
        return Err(error);
    }
    parsed
}

/// The path of `layerinit-run`: from the environment variable LAYERINIT_RUN, else next to the `/init` of
/// --init or LAYERINIT_INIT, which may be for another architecture, else the installed one.
///
/// # Errors
/// There is none.
pub fn run_program(init: Option<&Path>) -> Result<PathBuf> {
    const NAME: &str = "layerinit-run";
    if let Some(path) = env::var_os("LAYERINIT_RUN") {
        return Ok(path.into());
    }
    let init = init
        .map(Path::to_path_buf)
        .or_else(|| env::var_os(VARIABLE).map(PathBuf::from));
    let beside = init.map(|init| init.with_file_name(NAME));
    let found = beside
        .filter(|path| path.is_file())
        .or_else(|| installed(NAME));
    found.ok_or_else(|| {
        let what = "neither beside init, in the directory of this program nor in ../lib/layerinit";
        let hint =
            "build it with `cargo build --release --bin layerinit-run`, or set LAYERINIT_RUN";
        Error::new("find", NAME, what).hint(hint)
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let context = || path.display();
    let file = File::open(path).during("open", context())?;
    let mut text = Vec::new();
    let n = file
        .take(TEXT_MAX)
        .read_to_end(&mut text)
        .during("read", context())?;
    match n as u64 == TEXT_MAX {
        true => Err(Error::new("read", context(), "too large for a text file")),
        false => Ok(text),
    }
}

/// Reads a text file of at most [`TEXT_MAX`] bytes.
pub(super) fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|_| Error::new("read", path.display(), "not UTF-8"))
}

/// The total size of the files in `entries` in bytes, for a progress bar. Unreadable files count as 0.
pub fn size(entries: &[SpecEntry]) -> u64 {
    let sizes = entries.iter().map(|entry| match &entry.body {
        Body::File(FileContent::Location(path), _) => {
            fs::metadata(path).map_or(0, |metadata| metadata.len())
        }
        Body::File(FileContent::Bytes(bytes), _) => bytes.len() as u64,
        _ => 0,
    });
    sizes.fold(0, u64::saturating_add)
}
