//! `layerinit build --host`: the drivers of a machine, from a fake sysfs.

use super::*;

/// A device of a fake sysfs: its path below sys/devices, its MODALIAS, the module of its driver.
type FakeDevice = (&'static str, &'static str, &'static str);

/// A machine with a disk on each bus in docs/disks.md, and other devices.
const MACHINE: [FakeDevice; 21] = [
    ("pci0000:00", "", ""),
    // A bridge whose driver is built in; a module that matches it, too, is included.
    (
        "pci0000:00/0000:00:01.0",
        "pci:v00001B36d0000000Cbc06sc04i00",
        "",
    ),
    (
        "pci0000:00/0000:00:01.0/0000:01:00.0",
        "pci:v00001AF4d00001042bc01sc00i00",
        "virtio_pci",
    ),
    (
        "pci0000:00/0000:00:01.0/0000:01:00.0/virtio0",
        "virtio:d00000002v00001AF4",
        "virtio_blk",
    ),
    (
        "pci0000:00/0000:00:01.0/0000:01:00.0/virtio0/block/vda",
        "",
        "",
    ),
    (
        "pci0000:00/0000:00:01.0/0000:01:00.0/virtio0/block/vda/vda1",
        "",
        "",
    ),
    (
        "pci0000:00/0000:00:1f.2",
        "pci:v00008086d00002922bc01sc06i01",
        "ahci",
    ),
    (
        "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0",
        "scsi:t-0x00",
        "sd_mod",
    ),
    (
        "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda",
        "",
        "",
    ),
    (
        "pci0000:00/0000:00:02.0",
        "pci:v00001B36d00000010bc01sc08i02",
        "nvme",
    ),
    ("pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1", "", ""),
    (
        "platform/mmio.0",
        "of:NvirtioT(null)Cvirtio,mmio",
        "virtio_mmio",
    ),
    (
        "platform/mmio.0/virtio3",
        "virtio:d00000008v554D4551",
        "virtio_scsi",
    ),
    (
        "platform/mmio.0/virtio3/host2/target2:0:0/2:0:0:0/block/sdb",
        "",
        "",
    ),
    (
        "platform/sdhci/mmc_host/mmc0/mmc0:0001",
        "mmc:block",
        "mmc_block",
    ),
    (
        "platform/sdhci/mmc_host/mmc0/mmc0:0001/block/mmcblk0",
        "",
        "",
    ),
    // A driver that has another name in this kernel: the MODALIAS decides.
    (
        "pci0000:00/0000:00:14.0",
        "pci:v00008086d00001E31bc0Csc03i30",
        "xhci_of_old",
    ),
    (
        "pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0",
        "usb:v0781p5567icisc06ip50in00",
        "usb_storage",
    ),
    (
        "pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0/host6/target6:0:0/6:0:0:0/block/sdc",
        "",
        "",
    ),
    (
        "pci0000:00/0000:00:1b.0",
        "pci:v00008086d0000293Ebc04sc03i00",
        "snd_hda_intel",
    ),
    ("virtual/block/loop0", "", ""),
];

fn fake_machine(root: &Path) {
    let devices = root.join("sys/devices");
    let class = root.join("sys/class/block");
    fs::create_dir_all(&class).unwrap();
    for (path, modalias, module) in MACHINE {
        let device = devices.join(path);
        fs::create_dir_all(&device).unwrap();
        if !modalias.is_empty() {
            fs::write(device.join("modalias"), format!("{modalias}\n")).unwrap();
        }
        if !module.is_empty() {
            let driver = root.join("sys/drivers").join(module);
            fs::create_dir_all(&driver).unwrap();
            fs::create_dir_all(root.join("sys/module").join(module)).unwrap();
            let _ = symlink(format!("../../module/{module}"), driver.join("module"));
            symlink(&driver, device.join("driver")).unwrap();
        }
        let name = path.rsplit('/').next().unwrap();
        if path.contains("/block/") || name == "nvme0n1" {
            symlink(&device, class.join(name)).unwrap();
        }
    }
    fs::create_dir_all(root.join("proc")).unwrap();
    let mounts =
        "rootfs / rootfs rw 0 0\n/dev/vda1 / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\n";
    fs::write(root.join("proc/mounts"), mounts).unwrap();
}

/// A directory with the modules of a kernel below `tree`, whose files hold only their names.
fn with_modules(name: &str) -> std::path::PathBuf {
    let directory = workshop(name);
    let modules = directory.join("tree/lib/modules/6.12-test");
    let all = "erofs overlay loop virtio virtio_pci virtio_blk virtio-mmio virtio_scsi sd_mod shpchp nvme ahci \
               mmc_block xhci_pci usb-storage snd-hda-intel ext4 jbd2 crc32c_generic btrfs";
    let mut dep = String::new();
    for name in all.split_ascii_whitespace() {
        fs::create_dir_all(modules.join("kernel")).unwrap();
        fs::write(modules.join(format!("kernel/{name}.ko")), name).unwrap();
        let needs = match name {
            "virtio_pci" | "virtio_blk" | "virtio-mmio" | "virtio_scsi" => "kernel/virtio.ko",
            "ext4" => "kernel/jbd2.ko",
            _ => "",
        };
        dep += &format!("kernel/{name}.ko: {needs}\n");
    }
    let aliases = "alias pci:v*d*sv*bc06sc04i* never\n\
                   alias pci:v*d*bc06sc04i* shpchp\n\
                   alias pci:v*d*bc0Csc03i30* xhci_pci\n\
                   alias pci:v*d*bc01sc06i01* btrfs\n\
                   alias fs-ext4 ext4\n\
                   alias crypto-crc32c crc32c_generic\n\
                   alias virtio:d00000002v* virtio_blk\n";
    fs::write(modules.join("modules.dep"), dep).unwrap();
    fs::write(modules.join("modules.alias"), aliases).unwrap();
    fs::write(
        modules.join("modules.softdep"),
        "softdep ext4 pre: crypto-crc32c\n",
    )
    .unwrap();
    directory
}

const WORDS: [&str; 7] = [
    "build",
    "-o",
    "image",
    "--init",
    "init",
    "--modules",
    "tree",
];

/// The modules in the image.
fn files(directory: &Path) -> BTreeSet<String> {
    let listing = good(directory, &["list", "--files", "image"]);
    let files = listing.lines().filter_map(|line| {
        let name = line
            .split_once("6.12-test/kernel/")?
            .1
            .strip_suffix(".ko")?;
        Some(name.replace('-', "_"))
    });
    files.collect::<BTreeSet<_>>()
}

fn set(words: &str) -> BTreeSet<String> {
    words.split_ascii_whitespace().map(String::from).collect()
}

#[test]
fn host_adds_the_drivers_of_the_disks_and_of_the_root_filesystem() {
    let directory = with_modules("tool-build-host");
    fake_machine(&directory.join("machine"));
    let said = good(&directory, &[&WORDS[..], &["--host=machine"]].concat());
    let names = said.lines().next().unwrap();
    let names = names
        .strip_prefix("modules for this machine's disks: ")
        .unwrap();
    let names = set(names);
    let expected = "virtio_pci virtio_blk virtio_mmio virtio_scsi sd_mod shpchp nvme ahci mmc_block xhci_pci \
                    usb_storage ext4 crc32c_generic";
    assert_eq!(names, set(expected));
    let mut there = names;
    there.extend(set("erofs overlay loop virtio jbd2"));
    assert_eq!(files(&directory), there);
}

#[test]
fn named_modules_come_with_their_soft_dependencies() {
    let directory = with_modules("tool-build-host-names");
    good(
        &directory,
        &[&WORDS[..], &["--module", "virtio_blk,ext4"]].concat(),
    );
    let by_name = "erofs overlay loop virtio virtio_blk ext4 jbd2 crc32c_generic";
    assert_eq!(files(&directory), set(by_name));
}

#[test]
fn host_reports_a_machine_without_disks() {
    let directory = with_modules("tool-build-host-bare");
    let bare = directory.join("bare");
    fs::create_dir_all(bare.join("sys/class/block")).unwrap();
    fs::create_dir_all(bare.join("sys/devices")).unwrap();
    fs::create_dir_all(bare.join("proc")).unwrap();
    fs::write(bare.join("proc/mounts"), "tmpfs / tmpfs rw 0 0\n").unwrap();
    let said = good(&directory, &[&WORDS[..], &["--host=bare"]].concat());
    assert!(
        said.starts_with("modules for this machine's disks: none (there are no disks, or"),
        "{said}"
    );
    let error = bad(&directory, &[&WORDS[..], &["--host=nowhere"]].concat());
    assert!(
        error.starts_with("layerinit: find nowhere/sys/devices: ENOENT"),
        "{error}"
    );
}
