//! The trees that the kernel and layerinit unpack from an initrd. See qemu/differential.
//!
//! As PID 1 of a guest, this program lists the rootfs that the kernel has unpacked, on the second serial
//! port. On the host, it makes archives, unpacks them with [`layerinit::boot::mount`] into one tree or a
//! stack of layers, and compares.

#[path = "../../common/mod.rs"]
mod common;
mod generate;
mod listing;

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use layerinit::boot::mount::archive::unpack_layer;
use layerinit::boot::mount::overlay::{self, Stack};
use layerinit::boot::mount::unpack::{Unpacked, unpack};
use layerinit::bytes::Reader;
use layerinit::error::Context as _;
use layerinit::format::compress::{Codec, Decoder};
use layerinit::format::cpio::Archive;
use layerinit::initrd::{Kind, Segment, open_archive, walk};
use layerinit::sys::process::run_chrooted;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The path of this program in the guest.
const HOME: &str = "/.differential";

const USAGE: &str =
    "usage: differential loader|prefix NAME ARCHIVE|random SEED|stacked SEED|roots|bad-sum|no-nul >ARCHIVE
       differential ours|layers INITRD >LISTING
       differential compare KERNEL OURS";

fn main() {
    if std::process::id() == 1 {
        guest();
    }
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    if let Err(error) = run(&arguments) {
        eprintln!("differential: {error}");
        std::process::exit(1);
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    let archive = match arguments {
        ["ours", initrd] => return ours(Path::new(initrd)),
        ["layers", initrd] => return layers(Path::new(initrd)),
        ["compare", kernel, ours] => {
            let (kernel, ours) = (fs::read_to_string(kernel)?, fs::read_to_string(ours)?);
            return match listing::compare(&kernel, &ours) {
                0 => Ok(()),
                _ => Err("the trees differ".into()),
            };
        }
        ["loader"] => generate::loader(&fs::read(std::env::current_exe()?)?),
        ["prefix", name, archive] => generate::prefix(name, &fs::read(archive)?),
        ["random", seed] => generate::random(seed.parse()?),
        ["stacked", seed] => generate::stacked(seed.parse()?),
        ["roots"] => generate::roots(),
        ["bad-sum"] => generate::bad_sum(),
        ["no-nul"] => generate::no_nul(),
        _ => return Err(USAGE.into()),
    };
    Ok(io::stdout().write_all(&archive)?)
}

/// Unpacks all archives of an initrd into a tmpfs, in the caller's private mount namespace, and lists it.
fn ours(initrd: &Path) -> Result<()> {
    let image = fs::read(initrd)?;
    let image = &image[..];
    // One after the other into one tree, as the kernel does.
    let mut plain = Vec::new();
    for (segment, codec) in archives(image)? {
        let bytes = &image[segment.offset as usize..][..segment.length as usize];
        match codec {
            None => plain.extend_from_slice(bytes),
            Some(codec) => {
                Decoder::new(codec, bytes)?.read_to_end(&mut plain)?;
            }
        }
        common::pad(&mut plain, 4);
    }
    let root = directory(initrd, "root")?;
    mount(
        "tmpfs",
        &root,
        "tmpfs",
        MountFlags::empty(),
        c"mode=0755,nr_inodes=0,size=80%",
    )?;
    let plain = &plain[..];
    say(run_chrooted(&root, || {
        unpack(Archive::new(Reader::new(&plain, 0)), None)
    })?);
    Ok(listing::list(Path::new(&root), &mut io::stdout().lock())?)
}

/// Unpacks each archive of an initrd into a layer, in the caller's private mount namespace, and lists the
/// stack.
fn layers(initrd: &Path) -> Result<()> {
    let image = fs::read(initrd)?;
    let image = &image[..];
    let mut stack = Stack {
        directory: directory(initrd, "layers")?,
        names: Vec::new(),
    };
    let unpack_dir = directory(initrd, "unpack")?;
    for (number, (segment, codec)) in archives(image)?.into_iter().enumerate() {
        let target = format!("{}/{number}", stack.directory);
        fs::create_dir(&target)?;
        let done = unpack_layer("layer", &stack, &unpack_dir, &target, |changes| {
            let archive = open_archive(&image, segment.offset, segment.length, codec)
                .during("open", &segment)?;
            unpack(archive, changes)
        })?;
        stack.names.push(number.to_string());
        say(done);
    }
    let root = directory(initrd, "root")?;
    overlay::mount(&stack, None, &root)?;
    Ok(listing::list(Path::new(&root), &mut io::stdout().lock())?)
}

/// The archives up to where the kernel stops unpacking.
fn archives(image: &[u8]) -> Result<Vec<(Segment, Option<Codec>)>> {
    let found = walk(&image, HOME.as_bytes());
    if let Some(trouble) = &found.trouble {
        eprintln!("differential: {trouble}");
    }
    let mut archives = Vec::new();
    for segment in found.segments {
        match &segment.kind {
            Kind::Padding | Kind::Stop => {}
            Kind::Cpio(cpio) if cpio.by_kernel => archives.push((segment.clone(), cpio.codec)),
            Kind::Cpio(_) => eprintln!("differential: the kernel has stopped before {segment}"),
            other => return Err(format!("{other} among the archives").into()),
        }
    }
    Ok(archives)
}

/// A directory beside the initrd, for the private mounts.
fn directory(initrd: &Path, name: &str) -> Result<String> {
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    let directory = initrd.with_extension(name);
    fs::create_dir_all(&directory)?;
    if name == "layers" {
        // The directories of the layers go away with the namespace.
        mount("tmpfs", &directory, "tmpfs", MountFlags::empty(), None)?;
    }
    Ok(directory.to_str().ok_or("a path that is no text")?.into())
}

fn say(done: layerinit::error::Result<Unpacked>) {
    match done {
        Ok(done) => eprintln!(
            "differential: {} members, {} of them not created",
            done.members, done.dropped
        ),
        Err(error) => eprintln!("differential: {error}"),
    }
}

/// PID 1: lists the rootfs, reports that on the console, and powers off.
fn guest() -> ! {
    let list = || -> Result<()> {
        let port = format!("{HOME}/port");
        let (mode, device) = (
            rustix::fs::Mode::RUSR.union(rustix::fs::Mode::WUSR),
            rustix::fs::makedev(4, 65),
        );
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &port,
            rustix::fs::FileType::CharacterDevice,
            mode,
            device,
        )?;
        let mut port = io::BufWriter::new(File::options().write(true).open(port)?);
        listing::list(Path::new("/"), &mut port)?;
        writeln!(port, "end")?;
        port.flush()?;
        // Waits until the port has sent everything.
        rustix::termios::tcdrain(port.get_ref())?;
        Ok(())
    };
    match list() {
        Ok(()) => println!("differential: listed"),
        Err(error) => println!("differential: failed: {error}"),
    }
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}
