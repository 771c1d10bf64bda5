//! From aliases to modules: the database of a kernel, and the devices of this machine.

use std::fmt::Write as _;
use std::time::Instant;

use layerinit::module::alias::{Database, ModprobeConfig};
use layerinit::module::sysfs;

const DEP: &str = "kernel/drivers/block/virtio_blk.ko.xz:\n\
    kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz\n\
    kernel/drivers/virtio/virtio_ring.ko.xz:\n\
    kernel/drivers/nvme/host/nvme.ko.xz:\n\
    kernel/drivers/usb/host/uhci-hcd.ko.xz:\n\
    kernel/drivers/usb/host/ehci-hcd.ko.xz:\n\
    kernel/fs/ext4/ext4.ko.xz:\n\
    kernel/arch/x86/crypto/crc32c-intel.ko.xz:\n\
    kernel/crypto/crc32c_generic.ko.xz:\n\
    kernel/drivers/gpu/nouveau.ko.xz:\n\
    kernel/a.ko:\n\
    kernel/b.ko:\n";

const ALIAS: &str = "# Aliases extracted from modules themselves.\n\
    alias virtio:d00000002v* virtio_blk\n\
    alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\n\
    alias pci:v*d*sv*sd*bc01sc08i02* nvme\n\
    alias pci:v*d*sv*sd*bc0Csc03i00* uhci_hcd\n\
    alias pci:v000010DEd*sv*sd*bc03sc*i* nouveau\n\
    alias fs-ext4 ext4\n\
    alias fs-ext3 ext4\n\
    alias crc32c crc32c_intel\n\
    alias crc32c crc32c_generic\n\
    alias crypto-crc32c crc32c_generic\n\
    alias usb:v0403p6001d[0-5]*dc* a\n\
    alias platform:rtc_cmos b\n\
    alias nothing-there missing_module\n";

const SOFTDEP: &str = "# Soft dependencies extracted from modules themselves.\n\
    softdep ext4 pre: crc32c\n\
    softdep a pre: b\n\
    softdep b post: a\n";

fn database() -> Database {
    Database::new(DEP, ALIAS.into(), SOFTDEP, ModprobeConfig::default())
}

#[test]
fn names_aliases_and_devices_lead_to_modules_in_order() {
    let database = database();
    for (names, expected) in [
        (&[][..], &[][..]),
        (&["virtio:d00000002v00001AF4"], &["virtio_blk"]),
        (
            &[
                "virtio:d00000002v00001AF4",
                "pci:v00001AF4d00001042sv00001AF4sd00001042bc01sc80i00",
                "virtio:d00000002v00001AF4",
            ],
            &["virtio_blk", "virtio_pci"],
        ),
        (
            &["pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"],
            &["nvme"],
        ),
        (&["virtio-blk", "ehci_hcd"], &["virtio_blk", "ehci_hcd"]),
        (&["usb:v0403p6001d0300dc00"], &["b", "a"]),
        (&["usb:v0403p6001d6600dc00"], &[]),
        (&["platform:rtc-cmos"], &["b", "a"]),
        (&["fs-ext3"], &["crc32c_intel", "crc32c_generic", "ext4"]),
        (&["nothing-there", "no such thing", ""], &[]),
        (&["b"], &["b", "a"]),
    ] {
        assert_eq!(database.resolve(names), expected, "{names:?}");
    }
    assert!(database.has("crc32c_intel") && database.has("uhci-hcd") && !database.has("uhci"));
}

#[test]
fn modprobe_d_aliases_options_and_blacklists_apply() {
    let mut database = database();
    database.config.read(
        "# a comment\n\n\
         softdep uhci-hcd pre: ehci-hcd\n\
         blacklist nouveau\n\
         alias pci:v00001AF4* off\n\
         alias my-root virtio-blk\n\
         options virtio_blk queue_depth=64 \\\n  num_request_queues=1\n\
         options virtio-blk poll_queues=2\n\
         install b /bin/true\n\
         install nvme /sbin/modprobe --ignore-install nvme && touch /run/nvme\n\
         remove nvme /bin/true\n\
         weakdep a b\n\
         options\n\
         include x\n",
        "test.conf",
    );
    let config = &database.config;
    assert_eq!(
        config.parameters("virtio-blk"),
        "queue_depth=64 num_request_queues=1 poll_queues=2"
    );
    assert_eq!(config.parameters("nvme"), "");
    assert!(config.is_blacklisted("nouveau") && !config.is_disabled("nouveau"));
    assert!(config.is_disabled("b"));
    assert_eq!(
        config.problems,
        [
            "test.conf: install nvme: /init runs no commands; it loads the module like any other",
            "test.conf: unknown line: options",
            "test.conf: unknown line: include x",
        ]
    );
    for (name, expected) in [
        (
            "pci:v00008086d1sv1sd1bc0Csc03i00",
            &["ehci_hcd", "uhci_hcd"][..],
        ),
        ("pci:v000010DEd1sv1sd1bc03sc00i00", &[]),
        // The blacklist applies to aliases, not to names.
        ("nouveau", &["nouveau"]),
        ("pci:v00001AF4d00001042sv00001AF4sd00001042bc01sc80i00", &[]),
        ("my-root", &["virtio_blk"]),
        ("b", &[]),
        ("a", &["a"]),
    ] {
        assert_eq!(database.resolve(&[name]), expected, "{name}");
    }
}

#[test]
fn soft_dependencies_of_dependencies_are_loaded() {
    // As in Linux 6.12: EROFS needs libcrc32c, which has a soft dependency on one of two modules by alias.
    let dep = "kernel/fs/erofs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz\nkernel/lib/libcrc32c.ko.xz:\n\
               kernel/crypto/crc32c_generic.ko.xz:\nkernel/arch/x86/crypto/crc32c-intel.ko.xz:\n";
    let alias = "alias crc32c crc32c_intel\nalias crypto-crc32c crc32c_generic\nalias crc32c crc32c_generic\n";
    let softdep = "softdep libcrc32c pre: crc32c\n";
    let mut database = Database::new(dep, alias.into(), softdep, ModprobeConfig::default());
    let expected = ["crc32c_intel", "crc32c_generic", "erofs"];
    database.drop_satisfied_softdeps("name         : crc32\ndriver       : crc32c\n");
    assert_eq!(database.resolve(&["erofs"]), expected);
    // Built in, as in Debian's cloud kernel.
    database.drop_satisfied_softdeps(
        "name         : sha1\n\nname         : crc32c\ndriver       : crc32c-generic\n",
    );
    assert_eq!(database.resolve(&["erofs"]), ["erofs"]);
}

#[test]
fn the_kernel_command_line_sets_parameters_and_blacklists() {
    let mut config = ModprobeConfig::default();
    config.read_cmdline(
        "root=/dev/sda1 modprobe.blacklist=nouveau,snd-pcsp module_blacklist=floppy usb-storage.quirks=1:2:u \
         x.y=\"a b\" \"w.v=c d\" z.flag rd.driver.pre=q -- late.option=1",
    );
    assert!(config.is_blacklisted("nouveau") && config.is_blacklisted("snd_pcsp"));
    assert!(config.is_disabled("floppy"));
    assert_eq!(config.parameters("usb_storage"), "quirks=1:2:u");
    assert_eq!(config.parameters("x"), "y=\"a b\"");
    assert_eq!(config.parameters("w"), "v=\"c d\"");
    assert_eq!(config.parameters("z"), "flag");
    assert_eq!(config.parameters("late"), "");
    assert_eq!(config.problems, [""; 0]);
}

/// Modules that depend on each other in long chains and in circles.
#[test]
fn hostile_databases_terminate() {
    let mut dep = String::new();
    let mut softdep = String::new();
    for n in 0..100 {
        let _ = writeln!(dep, "kernel/m{n}.ko:");
        let _ = writeln!(
            softdep,
            "softdep m{n} pre: m{} m{} post: m{}",
            (n + 1) % 100,
            (n * 7) % 100,
            n
        );
    }
    let database = Database::new(&dep, String::new(), &softdep, ModprobeConfig::default());
    let order = database.resolve(&["m0"]);
    assert!(!order.is_empty() && order.len() <= 100);
    for text in [
        "alias",
        "alias ",
        "alias x",
        "alias  ",
        "alias [ b",
        "alias \\ b",
        "alias * ",
    ] {
        let _ = Database::new(text, text.into(), text, ModprobeConfig::default())
            .resolve(&["x", "", "["]);
    }
}

#[test]
fn a_large_machine_finds_its_drivers_in_a_distribution() {
    let mut aliases = String::new();
    for n in 0..30_000u32 {
        let _ = match n % 3 {
            0 => writeln!(
                aliases,
                "alias pci:v{:08X}d{n:08X}sv*sd*bc*sc*i* m{n}",
                n % 97
            ),
            1 => writeln!(
                aliases,
                "alias usb:v{:04X}p{n:04X}d*dc*dsc*dp*ic*isc*ip*in* m{n}",
                n % 97
            ),
            _ => writeln!(aliases, "alias of:N*T*Cvendor,chip-{n}C* m{n}"),
        };
    }
    let mut dep = String::new();
    for n in 0..30_000 {
        let _ = writeln!(dep, "kernel/m{n}.ko:");
    }
    let devices: Vec<_> = (0..100u32)
        .map(|n| match n % 4 {
            0 => format!("of:NdeviceT(null)Cvendor,chip-{}Cvendor,family", n * 3 + 2),
            1 => format!(
                "usb:v{:04X}p{:04X}d0100dc00dsc00dp00ic08isc06ip50in00",
                (n * 3 + 1) % 97,
                n * 3 + 1
            ),
            _ => format!(
                "pci:v{:08X}d{:08X}sv00000000sd00000000bc01sc06i01",
                n * 3 % 97,
                n * 3
            ),
        })
        .collect();
    let database = Database::new(&dep, aliases, "", ModprobeConfig::default());
    let started = Instant::now();
    let wanted = database.resolve(&devices);
    let took = started.elapsed();
    assert_eq!(wanted.len(), 100);
    println!("100 devices against 30,000 aliases, without optimization: {took:?}");
}

#[test]
fn this_machine_has_devices() {
    for modalias in sysfs::modaliases() {
        assert!(
            modalias.contains(':') && !modalias.contains('\n'),
            "{modalias}"
        );
    }
}

#[test]
fn a_directory_without_files_is_an_empty_database() {
    let directory = std::env::temp_dir();
    let database = sysfs::database(
        &directory,
        "",
        sysfs::config("modprobe.blacklist=x").unwrap(),
    )
    .unwrap();
    assert!(!database.has("loop") && database.config.is_blacklisted("x"));
    assert_eq!(database.resolve(&["loop"]), [""; 0]);
}
