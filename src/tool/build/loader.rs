//! The loader: its spec, as entries.

use std::cell::Cell;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::spec::{self, Body, Content, Entry};
use crate::error::{Context, Error, Result};

/// The standard loader's spec.
pub const STANDARD: &str = include_str!("../../../initramfs-spec/loader");

/// The variable that the standard loader's spec names its `/init` by.
const VARIABLE: &str = "LAYERINIT_INIT";

/// The most that a spec or a module index may have, in bytes: a bound, not a size to expect.
const TEXT_MAX: u64 = 256 << 20;

/// The entries of spec files, one file after the other; of the standard loader's where there are
/// none. `init` is what `${LAYERINIT_INIT}` stands for.
pub fn entries(specs: &[PathBuf], init: Option<&Path>) -> Result<Vec<Entry>> {
    // Only a spec that asks for it needs an init to be there.
    let missing = Cell::new(false);
    let environment = |name: &[u8]| {
        if name != VARIABLE.as_bytes() {
            return env::var_os(OsStr::from_bytes(name)).map(OsStringExt::into_vec);
        }
        let chosen = init
            .map(|path| path.as_os_str().to_owned())
            .or_else(|| env::var_os(VARIABLE));
        let path = chosen.or_else(|| beside_the_tool().map(PathBuf::into_os_string));
        missing.set(missing.get() || path.is_none());
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
    if missing.get() {
        let what = "not beside this program; build it with `cargo build --release --bin init`, or say --init PATH";
        return Err(Error::new("find", "init", what));
    }
    parsed
}

/// The `init` that was installed or built together with this program.
fn beside_the_tool() -> Option<PathBuf> {
    let init = env::current_exe().ok()?.with_file_name("init");
    init.is_file().then_some(init)
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
        true => Err(Error::new(
            "read",
            context(),
            "this cannot be a text: it does not end",
        )),
        false => Ok(text),
    }
}

pub(super) fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|_| Error::new("read", path.display(), "not UTF-8"))
}

/// Bytes that the files of `entries` hold, for a progress bar: what cannot be read counts nothing.
pub fn size(entries: &[Entry]) -> u64 {
    let sizes = entries.iter().map(|entry| match &entry.body {
        Body::File(Content::Location(path), _) => {
            fs::metadata(path).map_or(0, |metadata| metadata.len())
        }
        Body::File(Content::Bytes(bytes), _) => bytes.len() as u64,
        _ => 0,
    });
    sizes.fold(0, u64::saturating_add)
}
