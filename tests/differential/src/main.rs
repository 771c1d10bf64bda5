//! Two trees out of one initrd: the kernel's, and ours. See qemu/differential.
//!
//! As PID 1 of a guest this lists the rootfs that the kernel has unpacked, on the second serial
//! port. On the host it makes archives, unpacks with [`layerinit::mount::unpack`], and compares.

#[path = "../../common/mod.rs"]
mod common;
mod generate;
mod listing;

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use layerinit::bytes::Reader;
use layerinit::compress::Decoder;
use layerinit::cpio::Archive;
use layerinit::mount::unpack::unpack;
use layerinit::segment::{Kind, walk};
use layerinit::sys::process::confined;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where this program lies in the guest.
const HOME: &str = "/.differential";

const USAGE: &str =
    "usage: differential loader|prefix NAME ARCHIVE|random SEED|roots|bad-sum|no-nul >ARCHIVE
       differential ours INITRD >LISTING
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
        ["roots"] => generate::roots(),
        ["bad-sum"] => generate::bad_sum(),
        ["no-nul"] => generate::no_nul(),
        _ => return Err(USAGE.into()),
    };
    Ok(io::stdout().write_all(&archive)?)
}

/// Unpacks every archive of an initrd into a tmpfs, in a mount namespace that the caller has made,
/// and lists it.
fn ours(initrd: &Path) -> Result<()> {
    let image = fs::read(initrd)?;
    let image = &image[..];
    let found = walk(&image, HOME.as_bytes());
    if let Some(trouble) = &found.trouble {
        eprintln!("differential: {trouble}");
    }
    // One after the other into one tree, as the kernel does, and not into a layer each.
    let mut plain = Vec::new();
    for segment in &found.segments {
        let bytes = &image[segment.offset as usize..][..segment.length as usize];
        match &segment.kind {
            Kind::Padding => {}
            Kind::Cpio(cpio) => {
                match cpio.codec {
                    None => plain.extend_from_slice(bytes),
                    Some(codec) => {
                        Decoder::new(codec, bytes)?.read_to_end(&mut plain)?;
                    }
                }
                common::pad(&mut plain, 4);
            }
            other => return Err(format!("{other} among the archives").into()),
        }
    }
    let root = initrd.with_extension("root");
    fs::create_dir_all(&root)?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    mount(
        "tmpfs",
        &root,
        "tmpfs",
        MountFlags::empty(),
        c"mode=0755,nr_inodes=0,size=80%",
    )?;
    let plain = &plain[..];
    let text = root.to_str().ok_or("a path that is no text")?;
    let done = confined(text, || unpack(Archive::new(Reader::new(&plain, 0))))?;
    match done {
        Ok(done) => eprintln!(
            "differential: {} members, {} of them not created",
            done.members, done.dropped
        ),
        Err(error) => eprintln!("differential: {error}"),
    }
    Ok(listing::list(&root, &mut io::stdout().lock())?)
}

/// PID 1: lists, says so on the console, and powers off.
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
        // What is on its way through the port has left it when this returns.
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
