//! EROFS images from directories and tar archives: runs mkfs.erofs, and sets the fields that not every
//! version sets.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::io::dup;

use super::label;
use super::layer::{LayerInput, PreparedLayer, check_devices};
use super::program::{output, run};
use super::temp_files::TempFiles;
use super::tree::{self, Timestamps};
use crate::bytes::{Opened, fill};
use crate::error::{Context, Error, Result};
use crate::format::checksum::digest;
use crate::format::erofs::{Checksum, Image, SUPER_OFFSET, Superblock};
use crate::text::shown;
use crate::tool::image::in_place::{self, InPlace};
use crate::tool::progress::LongStep;
use crate::tool::tmpfile;

/// The program.
const PROGRAM: &str = "mkfs.erofs";

/// Offsets of fields in the image, in bytes (struct erofs_super_block in fs/erofs/erofs_fs.h).
const CHECKSUM: u64 = SUPER_OFFSET + 4;
const UUID: u64 = SUPER_OFFSET + 48;
const VOLUME_NAME: u64 = SUPER_OFFSET + 64;

/// How mkfs.erofs makes images.
#[derive(Clone, Debug)]
pub struct ErofsOptions {
    /// The algorithm for mkfs.erofs -z, with its level; `None`: uncompressed.
    pub compression: Option<String>,
    /// The modification times of files, including those in cpio layers.
    pub times: Timestamps,
    /// The modification time from the command line or the environment: the latest one for files from
    /// archives.
    pub mtime: Option<u32>,
    /// Further options, which follow ours.
    pub args: Vec<String>,
}

impl ErofsOptions {
    /// Whether the further options include this short one.
    fn has(&self, option: &str) -> bool {
        self.args.iter().any(|arg| arg.starts_with(option))
    }

    /// The command that writes `image` from `source`.
    fn command(&self, image: &Path, source: &ErofsSource, block_size: bool) -> Result<Command> {
        const NIL: &str = "00000000-0000-0000-0000-000000000000";
        let mut command = Command::new(PROGRAM);
        match &self.compression {
            Some(compression) => command.arg(format!("-z{compression}")),
            // Stores only whole blocks: a kernel with memback maps them in place.
            None => command.arg("-Enoinline_data"),
        };
        if block_size {
            // By default blocks have the size of this machine's pages, and kernels with smaller pages refuse
            // them.
            command.arg("-b4096");
        }
        command.env_remove("SOURCE_DATE_EPOCH");
        // mkfs.erofs also uses this as the build time of the image. The latest time of the files depends only
        // on them, and keeps the image reproducible.
        let mut build_time = |newest: u32| {
            command.env("SOURCE_DATE_EPOCH", newest.to_string());
        };
        match (source, self.times) {
            (
                ErofsSource::Directory {
                    newest: Some(newest),
                    ..
                }
                | ErofsSource::Tar { newest, .. },
                _,
            ) => build_time(*newest),
            (_, Timestamps::Fixed(mtime)) => drop(command.arg(format!("-T{mtime}"))),
            (ErofsSource::Directory { path, .. }, Timestamps::Preserved(latest)) => {
                build_time(tree::newest(path)?.min(latest));
            }
        }
        if let ErofsSource::Tar { .. } = source {
            command.arg("--tar=f");
        }
        command
            .arg(format!("-U{NIL}"))
            .args(&self.args)
            .arg(image)
            .stdout(Stdio::null());
        if let ErofsSource::Directory { path, .. } = source {
            command.arg(path);
        }
        Ok(command)
    }
}

/// The input of mkfs.erofs.
#[derive(Debug)]
pub enum ErofsSource<'a> {
    /// A directory.
    Directory {
        /// Its absolute path.
        path: &'a Path,
        /// The latest modification time of its files, which keep theirs; `None`: [`ErofsOptions::times`]
        /// decides.
        newest: Option<u32>,
    },
    /// A tar archive.
    Tar {
        /// The archive.
        file: &'a File,
        /// The latest modification time of its files, which keep theirs.
        newest: u32,
    },
}

/// An image in a temporary file.
#[derive(Debug)]
pub struct ErofsImage {
    /// The file, of this length.
    pub file: File,
    /// Its length in bytes.
    pub length: u64,
    /// A path that opens the file, as long as `file` is open.
    pub location: PathBuf,
}

/// What the installed mkfs.erofs can do.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// It reads tar archives.
    pub tar: bool,
    /// It sets the block size.
    pub block_size: bool,
    /// Its version and its options, as it prints them.
    pub text: String,
}

/// Asks mkfs.erofs what it can do. If it is missing or fails, it can do nothing, and [`make`] returns the
/// error.
pub fn features(temp: &TempFiles) -> Result<Features> {
    static KNOWN: OnceLock<Features> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let mut text = String::new();
    for option in ["-V", "--help"] {
        let mut command = Command::new(PROGRAM);
        text += &output(command.arg(option), temp)?;
    }
    let features = Features {
        tar: text.contains("--tar"),
        block_size: text.contains("\n -b#"),
        text,
    };
    Ok(KNOWN.get_or_init(|| features).clone())
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
    let label = input.label.clone().or_else(|| label::of_directory(source));
    // --mkfs-erofs-arg=-L may set a label.
    let label = label.filter(|_| input.label.is_some() || !options.has("-L"));
    let path = source;
    let source = ErofsSource::Directory { path, newest: None };
    let image = make(source, label.as_deref(), directory, number, options, temp)?;
    let opened = Opened::new(image.file, image.length);
    let superblock = Superblock::read(&opened, 0).during("read", directory.display())?;
    let note = superblock
        .filter(|_| options.compression.is_none())
        .map(|superblock| uncompressed(&opened, &superblock, directory))
        .transpose()?;
    Ok(PreparedLayer {
        length: image.length,
        file: opened.file,
        last_image: Some((0, image.length)),
        starts_with_image: true,
        path: directory.into(),
        location: image.location,
        name: OsString::new(),
        warning: None,
        note,
    })
}

/// Makes an EROFS image. `object` is the layer in messages; `number` makes the name of the temporary file unique.
///
/// # Errors
/// mkfs.erofs is missing or fails, or writes no image.
pub fn make(
    source: ErofsSource,
    label: Option<&str>,
    object: &Path,
    number: usize,
    options: &ErofsOptions,
    temp: &TempFiles,
) -> Result<ErofsImage> {
    let (mut file, path) = temp.create(&format!("layer{number}.erofs"))?;
    let location = path.clone().unwrap_or_else(|| tmpfile::proc_path(&file));
    let block_size = features(temp)?.block_size;
    // mkfs.erofs opens an unnamed image through /proc: as its standard input, which it does not read for a directory,
    // or as a descriptor without close-on-exec. It reads an archive from standard input.
    let inherited = dup(&file).during("open", object.display())?;
    let (image, stdin) = match &source {
        ErofsSource::Directory { .. } => ("/proc/self/fd/0".into(), file.try_clone()),
        ErofsSource::Tar { file, .. } => (
            tmpfile::proc_path(&inherited),
            file.try_clone()
                .and_then(|mut file| file.rewind().map(|()| file)),
        ),
    };
    let stdin = stdin.during("open", object.display())?;
    let image = path.unwrap_or(image);
    let mut command = options.command(&image, &source, block_size)?;
    run(command.stdin(stdin), "erofs-utils", object, temp)?;

    let name = object;
    let object = format!("mkfs.erofs for {}", name.display());
    if file.metadata().during("read", &object)?.len() == 0 {
        let what = "it wrote no image (an effect of --mkfs-erofs-arg?)";
        return Err(Error::new("run", object, what));
    }
    // Set here, because mkfs.erofs has -L only from version 1.6 on.
    if let Some(label) = label {
        let field = label::volume_name(label)?;
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
    check_devices(&superblock, name)?;
    let length = superblock.length();
    if length < size {
        opened.file.set_len(length).during("write", &object)?;
    }
    Ok(ErofsImage {
        file: opened.file,
        length,
        location,
    })
}

/// The cost and the gain of an image that is not compressed.
fn uncompressed(image: &Opened, superblock: &Superblock, directory: &Path) -> Result<String> {
    let sum = InPlace::of(&Image::new(image, superblock)?, 0, in_place::PAGE)?;
    Ok(format!(
        "{}: not compressed: {} bytes, {} of them after the ends of files; memback maps {sum}",
        shown(directory.as_os_str().as_encoded_bytes()),
        superblock.length(),
        sum.padding,
    ))
}

/// Derives the UUID of an image from its content: version 8 of RFC 9562, not cryptographic. Images of different content
/// need different UUIDs: otherwise overlayfs warns, and inode numbers are not persistent
/// (Documentation/filesystems/overlayfs.rst).
fn set_content_uuid(file: &mut File) -> io::Result<()> {
    file.rewind()?;
    let progress = LongStep::part("derive the UUID", file.metadata()?.len());
    let mut uuid = digest(&mut progress.count(&*file))?.to_be_bytes();
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
