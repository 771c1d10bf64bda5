//! EROFS images from directories: mkfs.erofs, and what it cannot set on every version.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::label;
use super::layer::{LayerInput, PreparedLayer, check_devices};
use super::program::run;
use super::temp_files::TempFiles;
use super::tree::{self, Timestamps};
use crate::bytes::{Opened, fill};
use crate::error::{Context, Error, Result};
use crate::format::checksum::digest;
use crate::format::erofs::{Checksum, SUPER_OFFSET, Superblock};
use crate::tool::tmpfile;

/// Offsets of fields in the image, in bytes (struct erofs_super_block in fs/erofs/erofs_fs.h).
const CHECKSUM: u64 = SUPER_OFFSET + 4;
const UUID: u64 = SUPER_OFFSET + 48;
const VOLUME_NAME: u64 = SUPER_OFFSET + 64;

/// How mkfs.erofs makes images.
#[derive(Clone, Debug)]
pub struct ErofsOptions {
    /// The algorithm for mkfs.erofs -z, with its level; `None`: uncompressed.
    pub compression: Option<String>,
    /// The modification times of files, also of those in cpio layers.
    pub times: Timestamps,
    /// Further options, which follow ours.
    pub args: Vec<String>,
}

impl ErofsOptions {
    /// Whether the further options include this short one.
    fn has(&self, option: &str) -> bool {
        self.args.iter().any(|arg| arg.starts_with(option))
    }

    /// mkfs.erofs that writes `image` from the directory `source`.
    fn command(&self, image: &Path, source: &Path) -> Result<Command> {
        const NIL: &str = "00000000-0000-0000-0000-000000000000";
        let mut command = Command::new("mkfs.erofs");
        if let Some(compression) = &self.compression {
            command.arg(format!("-z{compression}"));
        }
        command.env_remove("SOURCE_DATE_EPOCH");
        match self.times {
            Timestamps::Fixed(mtime) => command.arg(format!("-T{mtime}")),
            // mkfs.erofs also takes this for the build time of the image. The latest time of the files depends on
            // nothing else, and keeps the image reproducible.
            Timestamps::Preserved(latest) => {
                let newest = tree::newest(source)?.min(latest);
                command.env("SOURCE_DATE_EPOCH", newest.to_string())
            }
        };
        command
            .arg(format!("-U{NIL}"))
            .args(&self.args)
            .arg(image)
            .arg(source)
            .stdout(Stdio::null());
        Ok(command)
    }
}

/// Makes an EROFS image of the directory of `input`, whose absolute path is `source`. `number` makes the name of the
/// temporary file unique.
pub fn prepare(
    input: &LayerInput,
    source: &Path,
    number: usize,
    options: &ErofsOptions,
    temp: &TempFiles,
) -> Result<PreparedLayer> {
    let directory = input.path.as_path();
    let (mut file, path) = temp.create(&format!("layer{number}.erofs"))?;
    let location = path.clone().unwrap_or_else(|| tmpfile::proc_path(&file));
    // mkfs.erofs opens an unnamed file through its standard input, which it does not read otherwise.
    let image = path.unwrap_or("/proc/self/fd/0".into());
    let stdin = file.try_clone().during("open", image.display())?;
    let mut command = options.command(&image, source)?;
    run(command.stdin(stdin), "erofs-utils", directory, temp)?;

    let object = format!("mkfs.erofs for {}", directory.display());
    if file.metadata().during("read", &object)?.len() == 0 {
        let what = "it wrote no image (an effect of --mkfs-erofs-arg?)";
        return Err(Error::new("run", object, what));
    }
    // Not through -L, which mkfs.erofs has from version 1.6 on.
    let label = match (&input.label, options.has("-L")) {
        (Some(label), _) => Some(label.clone()),
        (None, true) => None,
        (None, false) => label::of_directory(source),
    };
    if let Some(label) = label {
        let field = label::volume_name(&label)?;
        let written = file.write_all_at(&field, VOLUME_NAME);
        written.during("write", &object)?;
    }
    if !options.has("-U") {
        set_content_uuid(&mut file).during("write", &object)?;
    }
    update_checksum(&mut file).during("write", &object)?;

    let size = file.metadata().during("read", &object)?.len();
    let opened = Opened::new(file, size);
    let Some(superblock) = Superblock::read(&opened, 0).during("read", &object)? else {
        return Err(Error::new("run", object, "it did not write an EROFS image"));
    };
    check_devices(&superblock, directory)?;
    let length = superblock.length();
    if length < size {
        opened.file.set_len(length).during("write", &object)?;
    }
    Ok(PreparedLayer {
        starts_with_image: true,
        file: opened.file,
        length,
        last_image: Some((0, length)),
        path: directory.into(),
        location,
        name: OsString::new(),
        warning: None,
    })
}

/// Derives the UUID of an image from its content: version 8 of RFC 9562, not cryptographic. Images of different content
/// need different UUIDs: otherwise overlayfs warns, and inode numbers are not persistent
/// (Documentation/filesystems/overlayfs.rst).
fn set_content_uuid(file: &mut File) -> io::Result<()> {
    file.rewind()?;
    let mut uuid = digest(file)?.to_be_bytes();
    let [.., version, _, variant, _, _, _, _, _, _, _] = &mut uuid;
    *version = *version & 0x0f | 0x80;
    *variant = *variant & 0x3f | 0x80;
    file.write_all_at(&uuid, UUID)
}

/// Updates the checksum of the superblock, if it has one.
fn update_checksum(file: &mut File) -> io::Result<()> {
    let mut head = vec![0; 1 << 17];
    file.rewind()?;
    let n = fill(file, &mut head)?;
    let superblock = Superblock::read(&head.get(..n).unwrap_or_default(), 0)?;
    if let Some(Checksum::Bad { computed, .. }) = superblock.map(|superblock| superblock.checksum) {
        file.write_all_at(&computed.to_le_bytes(), CHECKSUM)?;
    }
    file.flush()
}
