//! cpio archives from directories, compressed or not.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use super::archive::{self, CpioOptions};
use super::compressed;
use super::layer::{self, PreparedLayer};
use super::loader;
use super::program::run;
use super::temp_files::TempFiles;
use super::tree::{self, DirectoryTree, Timestamps};
use crate::bytes::Opened;
use crate::error::{Context, Error, Result};
use crate::format::compress::Codec;
use crate::text::shown;
use crate::tool::progress::LongStep;
use crate::tool::tmpfile;

/// A temporary file, and its path if it has one.
type TempFile = (File, Option<PathBuf>);

/// Makes an archive of a directory. `number` makes the names of temporary files unique.
///
/// # Errors
/// The directory cannot be read, or the compressor is missing or fails.
pub fn prepare(
    directory: &Path,
    number: usize,
    codec: Option<Codec>,
    times: Timestamps,
    temp: &TempFiles,
) -> Result<PreparedLayer> {
    // fakeroot needs a preloaded library, which a static program does not load.
    if std::env::var_os("FAKEROOTKEY").is_some() {
        let what = "fakeroot has no effect on this statically linked program: owners and devices would \
                    be lost (--as erofs keeps them)";
        return Err(Error::new("read", directory.display(), what));
    }
    let tree = tree::read(directory, times)?;
    let object = format!("the archive of {}", directory.display());
    let (file, path) = temp.create(&format!("layer{number}.cpio"))?;
    let mut out = BufWriter::new(&file);
    let progress = LongStep::part(format_args!("write {object}"), loader::size(&tree.entries));
    let mut counted = progress.count(&mut out);
    archive::write(&tree.entries, CpioOptions::default(), &mut counted, &object)?;
    progress.finish();
    out.flush().during("write", &object)?;
    drop(out);
    let mut written = (file, path);
    if let Some(codec) = codec {
        let output = temp.create(&format!("layer{number}.cpio.{codec}"))?;
        written = compress(written, output, codec, directory, temp)?;
    }
    let (file, path) = written;
    let length = file.metadata().during("read", &object)?.len();
    let location = path.unwrap_or_else(|| tmpfile::proc_path(&file));
    let mut layer = layer::from_file(Opened::new(file, length), directory)?;
    layer.location = location;
    layer.warning = warning(&tree, directory);
    Ok(layer)
}

/// Compresses `plain` into `output`, and removes `plain` to free its space.
fn compress(
    plain: TempFile,
    output: TempFile,
    codec: Codec,
    directory: &Path,
    temp: &TempFiles,
) -> Result<TempFile> {
    let (mut input, input_path) = plain;
    let object = || format!("the archive of {}", directory.display());
    input.rewind().during("read", object())?;
    match compressed::program(codec) {
        None => {
            let mut out = BufWriter::new(&output.0);
            let length = input.metadata().during("read", object())?.len();
            let progress = LongStep::part(format_args!("compress {}", object()), length);
            compressed::write(codec, &mut progress.count(&input), &mut out)
                .and_then(|()| out.flush())
                .during("compress", directory.display())?;
        }
        Some((mut command, package)) => {
            let stdout = output.0.try_clone().during("write", object())?;
            run(
                command.stdin(input).stdout(stdout),
                package,
                directory,
                temp,
            )?;
        }
    }
    if let Some(path) = input_path {
        fs::remove_file(&path).during("remove", path.display())?;
    }
    Ok(output)
}

/// The warning about extended attributes that the archive does not hold.
fn warning(tree: &DirectoryTree, directory: &Path) -> Option<String> {
    let (first, names) = tree.attributes.as_ref()?;
    let others = match tree.with_attributes {
        1 => String::new(),
        n => format!(", nor those of {} more files", n.saturating_sub(1)),
    };
    Some(format!(
        "warning: {}: the extended attributes of {} ({names}) are not stored{others}: a cpio archive cannot hold any \
         (--as erofs can)",
        shown(directory.as_os_str().as_encoded_bytes()),
        shown(first)
    ))
}
