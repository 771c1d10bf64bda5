//! QEMU's command line for a guest. Pure.

use std::path::{Path, PathBuf};

use super::kvm::Accelerator;

use crate::text::Words;
use crate::tool::platform::Platform;

/// A disk of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The file or block device.
    pub path: PathBuf,
    /// QEMU's name of the format.
    pub format: &'static str,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
}

/// A port of this machine that is forwarded to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// `tcp` or `udp`.
    protocol: &'static str,
    /// The address of this machine.
    address: String,
    host: u16,
    guest: u16,
}

impl Port {
    /// Parses `[ADDRESS:]HOST:GUEST[/udp]`. Without an address, only this machine reaches the port.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "not [ADDRESS:]HOST:GUEST[/udp], as in 8080:80";
        let (ports, protocol) = match text.strip_suffix("/udp") {
            Some(ports) => (ports, "udp"),
            None => (text.strip_suffix("/tcp").unwrap_or(text), "tcp"),
        };
        let (rest, guest) = ports.rsplit_once(':').ok_or(FORM)?;
        let (address, host) = rest.rsplit_once(':').unwrap_or(("127.0.0.1", rest));
        let number = |text: &str| match text.parse::<u16>() {
            Ok(0) | Err(_) => Err(format!("{text:?} is no port (1 to 65535)")),
            Ok(port) => Ok(port),
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '[' | ']' | ':');
        if !address.chars().all(valid) {
            return Err(FORM.into());
        }
        Ok(Self {
            protocol,
            address: address.into(),
            host: number(host)?,
            guest: number(guest)?,
        })
    }

    /// QEMU's rule: `hostfwd=` of -netdev user (qemu(1)).
    fn rule(&self) -> String {
        let Self {
            protocol,
            address,
            host,
            guest,
        } = self;
        format!("hostfwd={protocol}:{address}:{host}-:{guest}")
    }
}

/// A guest, with everything decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The architecture.
    pub emulated: &'static Platform,
    /// The kernel.
    pub kernel: PathBuf,
    /// The image as one file.
    pub initrd: PathBuf,
    /// The command line of the image (of a unified kernel image).
    pub image_words: String,
    /// More words for the command line.
    pub append: String,
    /// Whether layers follow the loader in the initrd.
    pub retain_initrd: bool,
    /// The memory in MiB.
    pub memory: u64,
    /// The number of processors.
    pub processors: usize,
    /// The disks, in order: the first is /dev/vda.
    pub disks: Vec<Disk>,
    /// The ports; without any, the guest has no network.
    pub ports: Vec<Port>,
    /// Whether the loader has [`NETWORK_MODULE`].
    pub network_module: bool,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
}

/// The driver of the guest's network interface.
pub const NETWORK_MODULE: &str = "virtio_net";

/// The addresses of QEMU's user network, which are always these: guest, gateway, netmask, name server. A kernel without
/// CONFIG_IP_PNP knows no DHCP.
const ADDRESSES: &str = "ip=10.0.2.15::10.0.2.2:255.255.255.0:::off:10.0.2.3";

/// The memory of a guest that needs this many bytes, in MiB: a multiple of 64.
pub fn memory_mib(bytes: u64) -> u64 {
    const STEP: u64 = 64;
    bytes.div_ceil(STEP << 20).saturating_mul(STEP)
}

/// QEMU's program and arguments.
pub fn command_line(guest: &Guest) -> Vec<String> {
    let Guest { emulated, .. } = guest;
    let mut words: Vec<String> = Vec::new();
    let mut option = |name: &str, value: String| words.extend([name.to_string(), value]);
    option(emulated.program, "-nodefaults".into());
    option("-no-user-config", "-no-reboot".into());
    option("-machine", emulated.machine.into());
    option("-accel", guest.accelerator.name().into());
    let cpu = match guest.accelerator {
        Accelerator::Kvm => "host",
        Accelerator::Tcg => emulated.cpu,
    };
    option("-cpu", cpu.into());
    option("-m", guest.memory.to_string());
    option("-smp", guest.processors.to_string());
    option("-display", "none".into());
    // The console and QEMU's monitor, with Ctrl-A X, as with -nographic.
    option("-serial", "mon:stdio".into());
    option("-device", "virtio-rng-pci".into());
    for (number, disk) in guest.disks.iter().enumerate() {
        let read_only = if disk.read_only { ",readonly=on" } else { "" };
        let (path, format) = (comma_doubled(&disk.path), disk.format);
        let drive = format!("if=none,id=disk{number},format={format}{read_only},file={path}");
        option("-drive", drive);
        option("-device", format!("virtio-blk-pci,drive=disk{number}"));
    }
    if !guest.ports.is_empty() {
        let rules = guest.ports.iter().map(|port| format!(",{}", port.rule()));
        option(
            "-netdev",
            format!("user,id=net0{}", rules.collect::<String>()),
        );
        option("-device", "virtio-net-pci,netdev=net0".into());
    }
    option("-kernel", guest.kernel.display().to_string());
    option("-initrd", guest.initrd.display().to_string());
    option("-append", kernel_words(guest));
    words
}

/// The kernel command line: the image's own words, what the guest needs unless `append` has it, and `append`.
/// The last one of equal words counts.
fn kernel_words(guest: &Guest) -> String {
    let given = |wanted: &str| Words::new(&guest.append).any(|(name, _)| name == wanted);
    let mut words = vec![guest.image_words.trim().to_string()];
    if !given("console") {
        words.push(format!("console={}", guest.emulated.console));
    }
    // With -no-reboot, a panic ends QEMU.
    if !given("panic") {
        words.push("panic=-1".into());
    }
    let word = guest.emulated.emulation_word;
    if guest.accelerator == Accelerator::Tcg && !word.is_empty() {
        words.push(word.into());
    }
    if guest.retain_initrd && !given("retain_initrd") {
        words.push("retain_initrd".into());
    }
    if !guest.ports.is_empty() && !given("ip") {
        words.push(ADDRESSES.into());
    }
    if !guest.ports.is_empty() && guest.network_module {
        // The init of a container image does not load it.
        words.push(format!("rd.driver.pre={NETWORK_MODULE}"));
    }
    words.push(guest.append.trim().to_string());
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// A path in a value of options, which commas separate: a doubled comma is one of the value (qemu(1)).
fn comma_doubled(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::platform::ALL;
    use crate::tool::shell;

    fn guest() -> Guest {
        Guest {
            emulated: &ALL[0],
            kernel: "vmlinuz".into(),
            initrd: "initrd.img".into(),
            image_words: String::new(),
            append: String::new(),
            retain_initrd: true,
            memory: 512,
            processors: 2,
            disks: Vec::new(),
            ports: Vec::new(),
            network_module: false,
            accelerator: Accelerator::Tcg,
        }
    }

    fn line(guest: &Guest) -> String {
        shell::join(&command_line(guest))
    }

    #[test]
    fn the_command_line_is_exact() {
        assert_eq!(
            line(&guest()),
            "qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -machine q35 -accel tcg -cpu max,la57=off \
             -m 512 -smp 2 -display none -serial mon:stdio -device virtio-rng-pci -kernel vmlinuz \
             -initrd initrd.img -append 'console=ttyS0 panic=-1 no_timer_check retain_initrd'"
        );
        let all = Guest {
            emulated: &ALL[1],
            kernel: "it's a kernel".into(),
            image_words: " quiet console=tty0 ".into(),
            append: "rd.debug panic=5".into(),
            retain_initrd: false,
            memory: 1024,
            processors: 1,
            disks: vec![
                Disk {
                    path: "a,b.img".into(),
                    format: "raw",
                    read_only: false,
                },
                Disk {
                    path: "/dev/sr0".into(),
                    format: "raw",
                    read_only: true,
                },
            ],
            ports: ["8080:80", "0.0.0.0:5353:53/udp"]
                .map(|text| Port::parse(text).unwrap())
                .into(),
            network_module: true,
            accelerator: Accelerator::Kvm,
            ..guest()
        };
        assert_eq!(
            line(&all),
            "qemu-system-aarch64 -nodefaults -no-user-config -no-reboot -machine virt -accel kvm -cpu host \
             -m 1024 -smp 1 -display none -serial mon:stdio -device virtio-rng-pci \
             -drive if=none,id=disk0,format=raw,file=a,,b.img -device virtio-blk-pci,drive=disk0 \
             -drive if=none,id=disk1,format=raw,readonly=on,file=/dev/sr0 -device virtio-blk-pci,drive=disk1 \
             -netdev user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:0.0.0.0:5353-:53 \
             -device virtio-net-pci,netdev=net0 -kernel 'it'\\''s a kernel' -initrd initrd.img \
             -append 'quiet console=tty0 console=ttyAMA0 ip=10.0.2.15::10.0.2.2:255.255.255.0:::off:10.0.2.3 \
             rd.driver.pre=virtio_net rd.debug panic=5'"
        );
    }

    #[test]
    fn words_that_are_given_are_not_added() {
        let given = Guest {
            append: "console=hvc0 panic=1 retain_initrd ip=off".into(),
            ports: vec![Port::parse("1:1").unwrap()],
            accelerator: Accelerator::Kvm,
            ..guest()
        };
        assert_eq!(
            kernel_words(&given),
            "console=hvc0 panic=1 retain_initrd ip=off"
        );
    }

    #[test]
    fn ports_are_checked() {
        for (text, rule) in [
            ("8080:80", "hostfwd=tcp:127.0.0.1:8080-:80"),
            ("1:65535/tcp", "hostfwd=tcp:127.0.0.1:1-:65535"),
            ("0.0.0.0:22:22", "hostfwd=tcp:0.0.0.0:22-:22"),
            ("53:53/udp", "hostfwd=udp:127.0.0.1:53-:53"),
            ("[::1]:80:80", "hostfwd=tcp:[::1]:80-:80"),
        ] {
            assert_eq!(Port::parse(text).map(|port| port.rule()), Ok(rule.into()));
        }
        for (text, why) in [
            ("80", "not [ADDRESS:]HOST:GUEST[/udp], as in 8080:80"),
            ("", "not [ADDRESS:]HOST:GUEST[/udp], as in 8080:80"),
            ("0:80", "\"0\" is no port (1 to 65535)"),
            ("80:65536", "\"65536\" is no port (1 to 65535)"),
            ("a,b:1:1", "not [ADDRESS:]HOST:GUEST[/udp], as in 8080:80"),
            ("80:80/sctp", "\"80/sctp\" is no port (1 to 65535)"),
        ] {
            assert_eq!(Port::parse(text), Err(why.into()), "{text}");
        }
    }

    #[test]
    fn memory_is_rounded_up() {
        assert_eq!(
            [0, 1, 64 << 20, (64 << 20) + 1].map(memory_mib),
            [0, 64, 64, 128]
        );
        assert_eq!(memory_mib(u64::MAX), 17_592_186_044_416);
    }
}
