//! Layers of an image being built: recognised by what they hold, or made out of a directory.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use indicatif::ProgressBar;

use super::archive::{self, Settings};
use super::output::Scratch;
use super::tree::{self, Times};
use super::{compressed, label};
use crate::bytes::{Opened, ReadAt, fill};
use crate::error::{Context, Error, Result};
use crate::format::compress::Codec;
use crate::format::erofs::{Checksum, SUPER_OFFSET, Superblock};
use crate::initrd::{self, Kind};
use crate::text::shown;
use crate::tool::nameless;

/// How a directory becomes an EROFS image.
#[derive(Clone, Debug)]
pub struct Erofs {
    /// The algorithm for mkfs.erofs -z, with its level; `None`: uncompressed.
    pub compression: Option<String>,
    /// The modification time of every file.
    pub times: Times,
    /// Further options, which win over ours.
    pub args: Vec<String>,
}

/// What a directory becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An EROFS image.
    Erofs,
    /// A cpio archive, compressed or not.
    Cpio(Option<Codec>),
}

impl Form {
    /// The names of all forms, as on the command line.
    pub const NAMES: [(&str, Self); 6] = [
        ("erofs", Self::Erofs),
        ("cpio", Self::Cpio(None)),
        ("cpio.gz", Self::Cpio(Some(Codec::Gzip))),
        ("cpio.lz4", Self::Cpio(Some(Codec::Lz4))),
        ("cpio.xz", Self::Cpio(Some(Codec::Xz))),
        ("cpio.zst", Self::Cpio(Some(Codec::Zstd))),
    ];

    /// What the name of such a file ends with.
    fn ending(self) -> &'static str {
        let mut names = Self::NAMES.iter();
        let found = names.find(|(_, form)| *form == self);
        found.map_or("", |(name, _)| *name)
    }
}

/// A layer to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// A directory, or a file that holds layers.
    pub path: PathBuf,
    /// What the directory becomes; an EROFS image where nothing is said.
    pub form: Option<Form>,
    /// The volume label of that image; one made of the directory's name where nothing is said.
    pub label: Option<String>,
}

/// A layer, ready to be appended.
#[derive(Debug)]
pub struct Layer {
    /// Its bytes, from the file's start to its end.
    pub file: File,
    /// Their number.
    pub length: u64,
    /// Where its last EROFS image starts, and how long that is, in bytes.
    pub last_image: Option<(u64, u64)>,
    /// Where it comes from.
    pub path: PathBuf,
    /// Where its bytes can be read by name, while the file is open.
    pub location: PathBuf,
    /// What the file is called that it becomes in /layers, but for a number before that.
    pub name: OsString,
    /// What of it got lost.
    pub warning: Option<String>,
}

/// Looks at what a layer is. A directory becomes an image or an archive in `scratch`; a file is taken
/// as it is if it holds EROFS images or cpio archives and nothing else.
pub fn prepare(wanted: &Wanted, number: usize, erofs: &Erofs, scratch: &Scratch) -> Result<Layer> {
    let path = &wanted.path;
    let metadata = fs::metadata(path).during("open", path.display())?;
    if metadata.is_dir() {
        // Absolute, so that no name is taken for an option.
        let source = fs::canonicalize(path).during("open", path.display())?;
        if scratch.is_inside(&source) {
            let what =
                "the image is written into this directory, and would become a part of itself";
            return Err(Error::new("read", path.display(), what));
        }
        let form = wanted.form.unwrap_or(Form::Erofs);
        let mut layer = match form {
            Form::Erofs => make(wanted, &source, number, erofs, scratch)?,
            Form::Cpio(_) if wanted.label.is_some() => {
                let what = "a cpio archive has no volume label: --label is for what becomes an EROFS image";
                return Err(Error::new("read", path.display(), what));
            }
            Form::Cpio(codec) => archive(path, number, codec, erofs.times, scratch)?,
        };
        layer.name = source.file_name().unwrap_or(OsStr::new("root")).into();
        layer.name.push(".");
        layer.name.push(form.ending());
        return Ok(layer);
    }
    if wanted.label.is_some() {
        let what =
            "not a directory: --label is for what becomes an EROFS image, a file stays as it is";
        return Err(Error::new("read", path.display(), what));
    }
    if wanted.form.is_some() {
        let what = "not a directory: --as says what a directory becomes, a file stays as it is";
        return Err(Error::new("read", path.display(), what));
    }
    taken_as_it_is(Opened::open(path)?, path)
}

/// A file that holds layers.
fn taken_as_it_is(opened: Opened, path: &Path) -> Result<Layer> {
    let walk = initrd::walk(&opened, b"");
    if let Some(trouble) = walk.trouble {
        let what = format!(
            "not a layer, which is a directory, an EROFS image or a cpio archive ({trouble})"
        );
        return Err(Error::new("read", path.display(), what));
    }
    let mut layers = 0usize;
    let mut last_image = None;
    for segment in &walk.segments {
        match &segment.kind {
            Kind::Padding => {}
            Kind::Erofs(superblock) => {
                in_one_piece(superblock, path)?;
                layers = layers.saturating_add(1);
                last_image = Some((segment.offset, segment.length));
            }
            Kind::Cpio(_) => layers = layers.saturating_add(1),
            Kind::Bootconfig { .. } => {
                let what =
                    "it ends with a bootconfig, which only works at the end of the whole image";
                return Err(Error::new("read", path.display(), what));
            }
        }
    }
    if layers == 0 {
        let what = match opened.size() {
            0 => "an empty file is no layer",
            _ => "nothing but zeros is no layer",
        };
        return Err(Error::new("read", path.display(), what));
    }
    Ok(Layer {
        length: opened.size(),
        file: opened.file,
        last_image,
        path: path.into(),
        location: path.into(),
        name: path.file_name().unwrap_or(OsStr::new("layer")).into(),
        warning: None,
    })
}

/// Refuses an image that no backend can mount, because it has data on other devices.
fn in_one_piece(superblock: &Superblock, path: &Path) -> Result<()> {
    match superblock.in_pieces() {
        None => Ok(()),
        Some(what) => Err(Error::new("read", path.display(), what)),
    }
}

/// Makes an archive of a directory.
fn archive(
    directory: &Path,
    number: usize,
    codec: Option<Codec>,
    times: Times,
    scratch: &Scratch,
) -> Result<Layer> {
    // Whose library is of no effect on a static program: it would see the files as they are.
    if std::env::var_os("FAKEROOTKEY").is_some() {
        let what = "fakeroot does not reach this program, which is linked statically: owners and devices \
                    would be lost (as an EROFS image, --as erofs, they are not)";
        return Err(Error::new("read", directory.display(), what));
    }
    let tree = tree::read(directory, times)?;
    let object = format!("the archive of {}", directory.display());
    let (plain, name) = scratch.file(&format!("layer{number}.cpio"))?;
    let mut out = BufWriter::new(&plain);
    archive::write(&tree.entries, Settings::default(), &mut out, &object)?;
    out.flush().during("write", &object)?;
    drop(out);
    let (mut written, mut written_name) = (plain, name);
    if let Some(codec) = codec {
        let (output, name) = scratch.file(&format!("layer{number}.cpio.{codec}"))?;
        written.rewind().during("read", &object)?;
        match compressed::program(codec) {
            None => {
                let mut out = BufWriter::new(&output);
                compressed::write(codec, &mut written, &mut out)
                    .and_then(|()| out.flush())
                    .during("compress", directory.display())?;
            }
            Some((mut command, package)) => {
                let output = output.try_clone().during("write", &object)?;
                command.stdin(written).stdout(output);
                run(&mut command, package, directory, scratch)?;
            }
        }
        // The plain one takes as much room as all the rest.
        if let Some(name) = written_name {
            fs::remove_file(&name).during("remove", name.display())?;
        }
        (written, written_name) = (output, name);
    }
    let length = written.metadata().during("read", &object)?.len();
    let location = written_name.unwrap_or_else(|| nameless::through_proc(&written));
    let mut layer = taken_as_it_is(Opened::new(written, length), directory)?;
    layer.location = location;
    layer.warning = tree.attributes.map(|(first, names)| {
        let others = match tree.with_attributes {
            1 => String::new(),
            n => format!(", nor those of {} more files", n.saturating_sub(1)),
        };
        format!(
            "warning: {}: the extended attributes of {} ({names}) are not stored{others}: a cpio archive \
             cannot hold any (--as erofs can)",
            shown(directory.as_os_str().as_encoded_bytes()),
            shown(&first)
        )
    });
    Ok(layer)
}

/// Makes an EROFS image of a directory, whose absolute name is `source`.
fn make(
    wanted: &Wanted,
    source: &Path,
    number: usize,
    erofs: &Erofs,
    scratch: &Scratch,
) -> Result<Layer> {
    const NIL: &str = "00000000-0000-0000-0000-000000000000";
    let directory = wanted.path.as_path();
    let (mut file, name) = scratch.file(&format!("layer{number}.erofs"))?;
    // A file without a name is reached by the program's standard input, which it does not read.
    let location = name
        .clone()
        .unwrap_or_else(|| nameless::through_proc(&file));
    let image = name.unwrap_or("/proc/self/fd/0".into());
    let input = file.try_clone().during("open", image.display())?;
    let mut command = Command::new("mkfs.erofs");
    if let Some(compression) = &erofs.compression {
        command.arg(format!("-z{compression}"));
    }
    command.env_remove("SOURCE_DATE_EPOCH");
    match erofs.times {
        Times::All(mtime) => command.arg(format!("-T{mtime}")),
        // This mkfs.erofs takes for the time when the image was made, and for the latest of any file. One that
        // depends on nothing else keeps the image the same.
        Times::Own(end) => {
            let newest = tree::newest(source)?.min(end);
            command.env("SOURCE_DATE_EPOCH", newest.to_string())
        }
    };
    command
        .arg(format!("-U{NIL}"))
        .args(&erofs.args)
        .arg(&image)
        .arg(source)
        .stdin(input)
        .stdout(Stdio::null());
    run(&mut command, "erofs-utils", directory, scratch)?;
    let object = format!("mkfs.erofs for {}", directory.display());
    if file.metadata().during("read", &object)?.len() == 0 {
        let what = "it wrote no image (does one of --mkfs-erofs-arg ask for none?)";
        return Err(Error::new("run", object, what));
    }
    let chosen = |option: &str| erofs.args.iter().any(|arg| arg.starts_with(option));
    // Not by -L: mkfs.erofs has it from version 1.6 on.
    let label = match (&wanted.label, chosen("-L")) {
        (Some(label), _) => Some(label.clone()),
        (None, true) => None,
        (None, false) => label::of_directory(source),
    };
    if let Some(label) = label {
        let field = label::volume_name(&label)?;
        let written = file.write_all_at(&field, VOLUME_NAME);
        written.during("write", &object)?;
    }
    if !chosen("-U") {
        name_by_content(&mut file).during("write", &object)?;
    }
    sign(&mut file).during("write", &object)?;
    let size = file.metadata().during("read", &object)?.len();
    let opened = Opened::new(file, size);
    let Some(superblock) = Superblock::read(&opened, 0).during("read", &object)? else {
        return Err(Error::new(
            "run",
            "mkfs.erofs",
            "what it wrote is no EROFS image",
        ));
    };
    in_one_piece(&superblock, directory)?;
    let length = superblock.length();
    if length < size {
        opened.file.set_len(length).during("write", &object)?;
    }
    Ok(Layer {
        file: opened.file,
        length,
        last_image: Some((0, length)),
        path: directory.into(),
        location,
        name: OsString::new(),
        warning: None,
    })
}

/// Runs a program that `package` has. Its messages are shown only if it fails.
fn run(command: &mut Command, package: &str, directory: &Path, scratch: &Scratch) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let object = || format!("{program} for {}", directory.display());
    command.env("LC_ALL", "C").stderr(Stdio::piped());
    let child = scratch.start(command).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let what = format!("it is not installed (Debian: apt install {package})");
            Error::new("run", object(), what)
        }
        _ => Error::new("run", object(), error.to_string()),
    })?;
    // A sign of life, on a terminal only.
    let spinner = ProgressBar::new_spinner().with_message(object());
    spinner.enable_steady_tick(Duration::from_millis(120));
    let output = child.wait_with_output().during("run", object());
    spinner.finish_and_clear();
    scratch.ended();
    let output = output?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut what = output.status.to_string();
    for line in said.lines().filter(|line| !line.trim().is_empty()).take(20) {
        let _ = write!(what, "\n    {}", line.trim_end());
    }
    Err(Error::new("run", object(), what))
}

/// Where the superblock has these (struct erofs_super_block in fs/erofs/erofs_fs.h).
const CHECKSUM: u64 = SUPER_OFFSET + 4;
const UUID: u64 = SUPER_OFFSET + 48;
const VOLUME_NAME: u64 = SUPER_OFFSET + 64;

/// Gives an image a UUID made of its content: the same content has the same, and layers of one
/// image differ, without which overlayfs warns and does without stable inode numbers
/// (Documentation/filesystems/overlayfs.rst). Version 8 of RFC 9562; no cryptography.
fn name_by_content(file: &mut File) -> io::Result<()> {
    file.rewind()?;
    let mut uuid = digest(file)?.to_be_bytes();
    let [.., version, _, variant, _, _, _, _, _, _, _] = &mut uuid;
    *version = *version & 0x0f | 0x80;
    *variant = *variant & 0x3f | 0x80;
    file.write_all_at(&uuid, UUID)
}

/// Stores the checksum of the superblock anew, where it has one.
fn sign(file: &mut File) -> io::Result<()> {
    let mut head = vec![0; 1 << 17];
    file.rewind()?;
    let n = fill(file, &mut head)?;
    let superblock = Superblock::read(&head.get(..n).unwrap_or_default(), 0)?;
    if let Some(Checksum::Bad { computed, .. }) = superblock.map(|superblock| superblock.checksum) {
        file.write_all_at(&computed.to_le_bytes(), CHECKSUM)?;
    }
    file.flush()
}

/// 128 bits that any change of the content changes.
fn digest(file: &mut File) -> io::Result<u128> {
    let mut buffer = vec![0; 1 << 16];
    let (mut a, mut b) = (0x9E37_79B9_7F4A_7C15_u64, 0xC2B2_AE3D_27D4_EB4F_u64);
    loop {
        let n = fill(file, &mut buffer)?;
        for word in buffer.get(..n).unwrap_or_default().chunks(8) {
            let mut bytes = [0; 8];
            bytes
                .iter_mut()
                .zip(word)
                .for_each(|(to, from)| *to = *from);
            let word = u64::from_le_bytes(bytes);
            a = (a ^ word)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(29);
            b = (b.rotate_left(23) ^ word).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
        }
        if n < buffer.len() {
            // The multiplications carry upwards only: mix the high bits back down.
            let (a, b) = (
                a ^ a >> 32 ^ b.rotate_left(17),
                b ^ b >> 29 ^ a.rotate_left(41),
            );
            return Ok(u128::from(a) << 64 | u128::from(b));
        }
    }
}
