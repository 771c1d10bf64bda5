//! `layerinit boot`: arguments and help.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::image::{ImageArgs, images};
use super::named;
use crate::error::Result;
use crate::tool::qemu::command::Port;
use crate::tool::qemu::kvm::Accelerator;
use crate::tool::qemu::{self, BootOptions};

/// Boot an image in QEMU, on this terminal
#[derive(Args)]
#[command(after_help = concat!(images!(), "\
Kernel:
  Without --kernel, it is the usr/lib/modules/VERSION/vmlinuz of the layers with the highest
  version; else the /boot/vmlinuz-VERSION for which the loader has modules; else, if it has none,
  the kernel of the running system. The machine follows the kernel's architecture: x86_64, aarch64,
  arm or riscv64.

Machine:
  The memory is what `layerinit check` predicts, plus 256 MiB for the system. The kernel gets the
  words of a unified kernel image, console= for the serial port, panic=-1, retain_initrd if the
  image needs it, and then those of --append. KVM is used if it boots this kernel: the kernel is
  started with it for up to ten seconds to see that; --accel skips this.

Network:
  With --port, the guest has a virtio network interface with QEMU's user network, which reaches
  every host that this machine reaches. The kernel command line has its address
  (ip=10.0.2.15::10.0.2.2:...), which kernels with CONFIG_IP_PNP, systemd and the init of container
  images read. The driver, virtio_net, has to be in the kernel or in the loader
  (`layerinit build --module virtio_net`); then rd.driver.pre=virtio_net loads it.

  The tool first prints the command that it runs to standard error.

Terminal:
  The console is this terminal, as with qemu -nographic: Ctrl-A X ends QEMU, Ctrl-A C is its
  monitor, Ctrl-C goes to the guest.

Exit status:
  That of the program of a container image (the line `layerinit-run: exit status N` of its init).
  For other guests: 0 when it powers off or restarts, which ends QEMU; 1 if the boot failed, the
  kernel panicked, or QEMU failed; 2 for wrong usage.

Examples:
  layerinit boot initrd.img
  layerinit boot initrd.img --kernel vmlinuz --append 'rd.break=switch'
  layerinit boot initrd.img --port 8080:80 --disk data.qcow2 --memory 2G
  layerinit boot initrd.img --print"))]
pub(super) struct BootArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Boot this kernel
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Add words to the kernel command line; may be given several times
    #[arg(long = "append", value_name = "WORDS", allow_hyphen_values = true)]
    append: Vec<String>,
    /// Set the memory in MiB, or with a suffix M or G [default: what the image needs]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// Set the number of processors [default: this machine's, at most 4; 1 with emulation]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    smp: Option<u16>,
    /// Add a disk, /dev/vda and so on: a raw or qcow2 file, or a block device; may be given several
    /// times
    #[arg(long = "disk", value_name = "FILE")]
    disks: Vec<PathBuf>,
    /// Forward a port of this machine to the guest: [ADDRESS:]HOST:GUEST[/udp]; may be given several times
    #[arg(long = "port", value_name = "HOST:GUEST", value_parser = Port::parse)]
    ports: Vec<Port>,
    /// Choose between KVM and emulation [default: kvm if it works]
    #[arg(long, value_name = "NAME", value_parser = accelerator_parser())]
    accel: Option<Accelerator>,
    /// Print the command without running it
    #[arg(long)]
    print: bool,
}

fn accelerator_parser() -> impl TypedValueParser<Value = Accelerator> {
    PossibleValuesParser::new(Accelerator::NAMES.map(|(name, _)| name))
        .try_map(|name| named(&Accelerator::NAMES, &name))
}

/// A size in MiB from a number with an optional suffix.
fn memory(text: &str) -> std::result::Result<u64, String> {
    let (digits, factor) = match text.strip_suffix(['G', 'g']) {
        Some(digits) => (digits, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let number: Option<u64> = digits.parse().ok();
    let mib = number.and_then(|number| number.checked_mul(factor));
    mib.filter(|mib| *mib > 0)
        .ok_or_else(|| "not a size in MiB, as 512 or 2G".into())
}

impl BootArgs {
    /// Boots the image, and returns the exit status.
    pub(super) fn run(self, out: &mut dyn Write) -> Result<u8> {
        let options = BootOptions {
            kernel: self.kernel,
            append: self.append.join(" "),
            memory: self.memory,
            processors: self.smp.map(usize::from),
            disks: self.disks,
            ports: self.ports,
            accelerator: self.accel,
            print: self.print,
        };
        qemu::boot(&self.image.open()?, &options, out)
    }
}

#[cfg(test)]
mod tests {
    use super::memory;

    #[test]
    fn sizes_are_in_mib() {
        assert_eq!(memory("512"), Ok(512));
        assert_eq!(memory("512M"), Ok(512));
        assert_eq!(memory("2G"), Ok(2048));
        for text in [
            "",
            "G",
            "0",
            "-1",
            "1T",
            "99999999999999999999",
            "18446744073709551615G",
        ] {
            assert!(memory(text).is_err(), "{text}");
        }
    }
}
