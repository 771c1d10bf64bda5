//! Block devices of this machine: loop devices as disks, and the wait for them.
//!
//! Needs root, loop devices, and util-linux, fdisk, e2fsprogs, btrfs-progs.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::common::disk::*;
use layerinit::boot::mount::{self, DeviceFinder};
use layerinit::device::uevent::Event;
use layerinit::device::{
    self, DEFAULT_WAIT, Device, DeviceQuery, MatchedDevice, Search, WaitPolicy,
};
use layerinit::error::{Error, Result};
use layerinit::format::superblock::VolumeKind;
use layerinit::module::loader::Loader;
use layerinit::plan::MountSpec as Plan;
use layerinit::plan::cmdline::Options;
use layerinit::plan::device_spec::Spec;

fn within(seconds: u64) -> WaitPolicy {
    WaitPolicy {
        delay: Duration::ZERO,
        limit: Some(Duration::from_secs(seconds)),
    }
}

fn wanted(spec: &Spec) -> DeviceQuery<'_> {
    DeviceQuery {
        word: "root",
        spec,
        degraded: false,
    }
}

fn find(text: &str, policy: WaitPolicy) -> Result<MatchedDevice> {
    Search::new().find(wanted(&Spec::parse(text).unwrap()), policy, &mut |_| {})
}

fn found(text: &str) -> MatchedDevice {
    find(text, within(0)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_filesystem_is_found_by_every_name_it_has() {
    let uuid = fresh_uuid();
    let label = &uuid[..8];
    let image = Image::ext4(&uuid, label);
    let device = Loop::attach(&image);
    let numbers = run("util-linux", "lsblk", &["-dno", "MAJ:MIN", &device.0]);
    let (major, minor) = numbers.split_once(':').unwrap();
    let hex = format!(
        "{:02x}{:02x}",
        major.parse::<u32>().unwrap(),
        minor.parse::<u32>().unwrap()
    );
    for root in [
        device.0.clone(),
        numbers.clone(),
        hex,
        format!("UUID={uuid}"),
        format!("UUID={}", uuid.to_uppercase()),
        format!("/dev/disk/by-uuid/{uuid}"),
        format!("LABEL={label}"),
        format!("LABEL=\"{label}\""),
    ] {
        let found = found(&root);
        assert_eq!(found.path, Path::new(&device.0), "{root}");
        assert_eq!(found.device.size, 4 << 20);
        assert_eq!(found.device.partition, None);
        let volume = found.volume().unwrap();
        assert_eq!(volume.kind, VolumeKind::Ext4);
        assert_eq!(volume.uuid.as_deref(), Some(&*uuid));
        assert_eq!(volume.label.as_deref(), Some(label));
        found.check_mountable().unwrap();
        assert_eq!(Device::by_name(device.name()).unwrap(), found.device);
    }
}

/// A disk with a GPT (two partitions, the second an ext4) or an MBR.
fn partitioned(script: &str, filesystem: &Image, at: u64) -> Image {
    use std::os::unix::fs::FileExt;
    let disk = Image::new(16 << 20);
    let table = Image::new(0);
    fs::write(&table.0, script).unwrap();
    let command = format!("sfdisk --quiet {} < {}", disk.path(), table.path());
    run("fdisk", "sh", &["-c", &command]);
    let content = fs::read(&filesystem.0).unwrap();
    let file = fs::File::options().write(true).open(&disk.0).unwrap();
    file.write_all_at(&content, at).unwrap();
    disk
}

#[test]
fn a_partition_of_a_gpt_is_found_by_its_table_too() {
    let (uuid, one, two) = (fresh_uuid(), fresh_uuid(), fresh_uuid());
    let name = format!("räum {}", &two[..8]);
    let script = format!(
        "label: gpt\nstart=2048, size=2048, uuid={one}\nstart=8192, size=8192, uuid={two}, name=\"{name}\"\n"
    );
    let image = partitioned(&script, &Image::ext4(&uuid, ""), 4 << 20);
    let disk = Loop::attach(&image).partitions();
    for root in [
        format!("PARTUUID={two}"),
        format!("PARTUUID={}", two.to_uppercase()),
        format!("PARTUUID={one}/PARTNROFF=1"),
        format!("PARTLABEL={name}"),
        format!("UUID={uuid}"),
        format!("/dev/{}p2", disk.name()),
    ] {
        let found = found(&root);
        assert_eq!(found.device.name, format!("{}p2", disk.name()), "{root}");
        let slice = found.device.partition.as_ref().unwrap();
        assert_eq!((slice.number, slice.start), (2, 4 << 20));
        assert_eq!(slice.disk, disk.name());
        assert_eq!(found.volume().unwrap().kind, VolumeKind::Ext4);
    }
    let found = found(&format!("PARTUUID={two}/PARTNROFF=-1"));
    assert_eq!(found.device.name, format!("{}p1", disk.name()));
    assert_eq!(found.volumes, []);
    let error = find(&format!("PARTUUID={two}/PARTNROFF=1"), within(0)).unwrap_err();
    assert!(error.to_string().contains("no such device"), "{error}");
}

#[test]
fn a_logical_partition_of_an_mbr_is_found() {
    let uuid = fresh_uuid();
    let signature = &uuid[..8];
    let script = format!(
        "label: dos\nlabel-id: 0x{signature}\nstart=2048, size=2048, type=83\n\
         start=4096, type=5\nstart=8192, size=8192, type=83\n"
    );
    let image = partitioned(&script, &Image::ext4(&uuid, ""), 4 << 20);
    let disk = Loop::attach(&image).partitions();
    for root in [format!("PARTUUID={signature}-05"), format!("UUID={uuid}")] {
        assert_eq!(found(&root).device.name, format!("{}p5", disk.name()));
    }
}

#[test]
fn a_device_that_appears_later_ends_the_wait() {
    let uuid = fresh_uuid();
    let image = Image::ext4(&uuid, "");
    let delay = Duration::from_millis(700);
    let started = Instant::now();
    let (found, took) = thread::scope(|scope| {
        let attach = scope.spawn(|| {
            thread::sleep(delay);
            Loop::attach(&image)
        });
        let found = find(&format!("UUID={uuid}"), within(30));
        let took = started.elapsed();
        let device = attach.join().unwrap();
        let found = found.unwrap();
        assert_eq!(found.path, Path::new(&device.0));
        (found, took)
    });
    assert_eq!(found.volume().unwrap().uuid.as_deref(), Some(&*uuid));
    // Found before the report after five seconds, which searches again: an event ended the wait.
    assert!(took >= delay && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_device_that_disappears_is_waited_for_again() {
    let uuid = fresh_uuid();
    let image = Image::ext4(&uuid, "");
    let mut device = Some(Loop::attach(&image));
    let plan = Plan {
        verity: None,
        spec: Spec::parse(&format!("UUID={uuid}")).unwrap(),
        types: Vec::new(),
        flags: Vec::new(),
        writable: false,
    };
    let wanted = wanted(&plan.spec);
    let mut loader = Loader::new("no release", &Options::default());
    let mut checked = Vec::new();
    let mut finder = DeviceFinder::new(&Options {
        timeout: Some(30),
        ..Options::default()
    });
    let mounted = finder.mount(wanted, &plan, &mut loader, |found| {
        checked.push(found.device.disk_sequence);
        if checked.len() > 1 {
            return Ok(());
        }
        drop(device.take());
        device = Some(Loop::attach(&image));
        Err(Error::new(
            "mount",
            found.path.display(),
            "the disk is no more",
        ))
    });
    assert_eq!(mounted.unwrap().0.node, device.as_ref().unwrap().0);
    assert_eq!(checked.len(), 2);

    let error = finder.mount(wanted, &plan, &mut loader, |found| {
        Err(Error::new(
            "mount",
            found.path.display(),
            "of another reason",
        ))
    });
    assert!(
        error
            .unwrap_err()
            .to_string()
            .ends_with("of another reason")
    );
}

#[test]
fn a_timeout_lists_the_devices_that_exist() {
    let uuid = fresh_uuid();
    let image = Image::ext4(&uuid, "here");
    let device = Loop::attach(&image);
    let started = Instant::now();
    let error = find("UUID=not-there", within(1)).unwrap_err().to_string();
    let took = started.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(4),
        "{took:?}"
    );
    assert!(
        error.starts_with("find root=UUID=not-there: no such device after 1 s; devices: "),
        "{error}"
    );
    let entry = format!("{} 4.0 MiB, ext4 LABEL=\"here\" UUID={uuid}", device.name());
    assert!(error.contains(&entry), "{error}");
}

#[test]
fn a_device_that_needs_assembly_is_not_reported_as_missing() {
    let end = "; /init does not set up LVM, LUKS or RAID";
    for (root, told) in [
        ("/dev/mapper/none", true),
        ("/dev/none/root", true),
        ("/dev/md126p9", true),
        ("/dev/dm-9999", true),
        ("/dev/sdzz9", false),
        ("LABEL=md/none", false),
    ] {
        let error = find(root, within(0)).unwrap_err().to_string();
        assert_eq!(error.ends_with(end), told, "{error}");
    }
}

/// Collects what the library logs, for one test.
struct Log(Mutex<Vec<String>>);

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

#[test]
fn a_long_wait_reports_the_missing_device() {
    static LOG: Log = Log(Mutex::new(Vec::new()));
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let uuid = fresh_uuid();
    let error = find(&format!("UUID={uuid}"), within(6)).unwrap_err();
    assert!(
        error.to_string().contains("no such device after 6 s"),
        "{error}"
    );
    let start = format!("waiting for root=UUID={uuid}: no such device after ");
    let log = LOG.0.lock().unwrap();
    let lines: Vec<_> = log.iter().filter(|line| line.starts_with(&start)).collect();
    let [line] = lines.as_slice() else {
        panic!("{log:?}");
    };
    assert!(line[start.len()..].starts_with("5 s; devices: "), "{line}");
}

#[test]
fn the_modalias_of_an_announced_device_is_reported() {
    // The kernel announces a device again.
    let device = fs::read_dir("/sys/bus/platform/devices")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|device| device.join("modalias").exists())
        .expect("a platform device with a modalias");
    let modalias = fs::read_to_string(device.join("modalias")).unwrap();
    let mut search = Search::new();
    fs::write(device.join("uevent"), "add").unwrap();
    let mut heard = Vec::new();
    search
        .find(
            wanted(&Spec::parse("UUID=not-there").unwrap()),
            within(1),
            &mut |new| {
                heard.extend(new.to_vec());
            },
        )
        .unwrap_err();
    assert!(
        heard.iter().any(|new| new == modalias.trim_end()),
        "{heard:?}"
    );
}

#[test]
fn rootdelay_is_observed_before_the_first_search() {
    let uuid = fresh_uuid();
    let image = Image::ext4(&uuid, "");
    let _device = Loop::attach(&image);
    let policy = WaitPolicy {
        delay: Duration::from_secs(1),
        limit: Some(Duration::ZERO),
    };
    let started = Instant::now();
    find(&format!("UUID={uuid}"), policy).unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[test]
fn two_devices_with_one_uuid_are_refused_and_both_named() {
    let uuid = fresh_uuid();
    let label = &uuid[..12];
    let image = Image::ext4(&uuid, label);
    let copy = Image::new(0);
    fs::copy(&image.0, &copy.0).unwrap();
    let (one, two) = (Loop::attach(&image), Loop::attach(&copy));
    for root in [format!("UUID={uuid}"), format!("LABEL={label}")] {
        let error = find(&root, within(30)).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("find root={root}: 2 devices match (")),
            "{error}"
        );
        assert!(error.contains(&one.0) && error.contains(&two.0), "{error}");
    }
    assert_eq!(found(&two.0).path, Path::new(&two.0));
}

#[test]
fn a_disk_with_the_superblock_of_its_partition_is_not_a_second_match() {
    let uuid = fresh_uuid();
    let image = Image::ext4(&uuid, "");
    let device = Loop::attach(&image);
    let sectors = ((4 << 20) / 512).to_string();
    run("util-linux", "addpart", &[&device.0, "1", "0", &sectors]);
    let found = found(&format!("UUID={uuid}"));
    assert_eq!(found.device.name, format!("{}p1", device.name()));
}

#[test]
fn a_btrfs_of_two_devices_is_found_when_both_exist() {
    let uuid = fresh_uuid();
    let (one, two) = (Image::new(128 << 20), Image::new(128 << 20));
    // mkfs.btrfs accepts files, but several devices must usually be block devices.
    let (first, second) = (Loop::attach(&one), Loop::attach(&two));
    let arguments = [
        "-q", "-U", &uuid, "-d", "raid1", "-m", "raid1", &first.0, &second.0,
    ];
    run("btrfs-progs", "mkfs.btrfs", &arguments);
    let root = format!("UUID={uuid}");
    let both = found(&root);
    let mut paths = both.companions.clone();
    paths.push(both.path.clone());
    paths.sort();
    let mut expected = vec![PathBuf::from(&first.0), PathBuf::from(&second.0)];
    expected.sort();
    assert_eq!(paths, expected);
    let by_path = found(&second.0);
    assert_eq!(by_path.path, Path::new(&second.0));
    assert_eq!(by_path.companions, [PathBuf::from(&first.0)]);
    drop(second);
    let error = find(&root, within(0)).unwrap_err().to_string();
    assert!(
        error.contains("1 of the 2 devices of its filesystem"),
        "{error}"
    );
}

#[test]
fn containers_and_swap_are_refused_by_name() {
    let uuid = fresh_uuid();
    let image = Image::new(4 << 20);
    run("util-linux", "mkswap", &["-q", "-U", &uuid, image.path()]);
    let device = Loop::attach(&image);
    let error = found(&format!("UUID={uuid}"))
        .check_mountable()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("mount {}: it is swap space", device.0)
    );
}

#[test]
fn a_disk_with_read_errors_is_not_reported_as_empty() {
    let image = Image::new(4 << 20);
    let device = Loop::attach(&image);
    // Reading a loop device whose file has been truncated fails with EIO, as on a failing disk.
    fs::File::options()
        .write(true)
        .open(&image.0)
        .unwrap()
        .set_len(0)
        .unwrap();
    // The page cache may hold what another test has read.
    while fs::File::open(&device.0)
        .and_then(|mut disk| disk.read_exact(&mut [0; 4096]))
        .is_ok()
    {
        run("util-linux", "blockdev", &["--flushbufs", &device.0]);
    }
    let spec = Spec::parse(&device.0).unwrap();
    let plan = Plan {
        verity: None,
        spec: spec.clone(),
        types: Vec::new(),
        flags: Vec::new(),
        writable: false,
    };
    let mut loader = Loader::new("no release", &Options::default());
    let mount = |plan: &Plan, loader: &mut Loader| {
        let error = mount::device::mount(wanted(&spec), plan, &found(&device.0), loader);
        error.unwrap_err().to_string()
    };
    assert_eq!(
        mount(&plan, &mut loader),
        format!("identify {0}: read {0}: EIO: I/O error", device.0)
    );
    // With rootfstype=, the kernel's error is reported.
    let named = Plan {
        types: vec!["ext4".into()],
        ..plan
    };
    let error = mount(&named, &mut loader);
    assert!(
        error.starts_with(&format!("mount root={0} ({0}): mount ext4: ", device.0)),
        "{error}"
    );
}

#[test]
fn a_missing_node_is_created_and_a_wrong_one_not_used() {
    let image = Image::new(1 << 20);
    let device = Loop::attach(&image);
    let mut sysfs = Device::by_name(device.name()).unwrap();
    let directory = format!("layerinit-test-{}", std::process::id());
    sysfs.node = format!("{directory}/a/node");
    let path = sysfs.node().unwrap();
    assert_eq!(path, Path::new("/dev").join(&sysfs.node));
    let number = run(
        "coreutils",
        "stat",
        &["-c", "%t:%T %F", path.to_str().unwrap()],
    );
    let expected = format!("{:x}:{:x} block special file", sysfs.major, sysfs.minor);
    assert_eq!(number, expected);
    assert_eq!(sysfs.node().unwrap(), path);
    let gone = Device {
        name: "gone".into(),
        node: format!("{directory}/gone"),
        ..sysfs.clone()
    };
    let error = gone.node().unwrap_err().to_string();
    assert_eq!(
        error,
        format!("use /dev/{directory}/gone: the device is gone")
    );
    sysfs.minor += 1;
    let error = sysfs.node().unwrap_err().to_string();
    assert!(error.contains("another file is in the place of"), "{error}");
    fs::remove_dir_all(Path::new("/dev").join(directory)).unwrap();
}

#[test]
fn enumeration_agrees_with_proc_partitions() {
    // Loop devices come and go while other tests run.
    let stable = |name: &str| !name.starts_with("loop");
    let mut devices: Vec<_> = device::enumerate()
        .unwrap()
        .into_iter()
        .filter(|device| stable(&device.name) && device.size > 0)
        .map(|device| (device.major, device.minor, device.size / 1024, device.name))
        .collect();
    devices.sort();
    let text = fs::read_to_string("/proc/partitions").unwrap();
    let mut expected: Vec<_> = text
        .lines()
        .skip(2)
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            (
                number(0) as u32,
                number(1) as u32,
                number(2),
                words[3].to_string(),
            )
        })
        .filter(|(.., name)| stable(name))
        .collect();
    expected.sort();
    assert_eq!(devices, expected);
}

#[test]
fn the_wait_policy_follows_the_command_line() {
    let seconds = |n| Some(Duration::from_secs(n));
    for (cmdline, delay, limit) in [
        ("", 0, Some(DEFAULT_WAIT)),
        ("rootwait", 0, None),
        ("rootwait=3", 0, seconds(3)),
        ("rootwait=0", 0, seconds(0)),
        ("rootwait=soon", 0, None),
        ("rd.timeout=0", 0, None),
        ("rootwait=3 rd.timeout=0", 0, seconds(3)),
        ("rd.timeout=7", 0, seconds(7)),
        ("rootwait rd.timeout=7", 0, seconds(7)),
        ("rootwait=3 rd.timeout=7 rootdelay=2", 2, seconds(3)),
    ] {
        let expected = WaitPolicy {
            delay: Duration::from_secs(delay),
            limit,
        };
        assert_eq!(
            WaitPolicy::of(&Options::parse(cmdline)),
            expected,
            "{cmdline}"
        );
    }
}

#[test]
fn events_are_read_and_other_messages_are_not() {
    let message = b"add@/devices/x/block/vda\0ACTION=add\0DEVPATH=/devices/x/block/vda\0\
        SUBSYSTEM=block\0MAJOR=254\0DEVNAME=vda\0SEQNUM=1\0";
    let event = Event {
        action: "add".into(),
        devpath: "/devices/x/block/vda".into(),
        subsystem: "block".into(),
        devname: Some("vda".into()),
        modalias: None,
    };
    assert_eq!(Event::parse(message), Some(event));
    let message = b"add@/devices/pci0\0SUBSYSTEM=pci\0MODALIAS=pci:v00001AF4d=1\0NOVALUE\0";
    let event = Event::parse(message).unwrap();
    assert_eq!(event.modalias.as_deref(), Some("pci:v00001AF4d=1"));
    assert_eq!(Event::parse(b"libudev\0\xfe\xed\xca\xfe"), None);
    assert_eq!(Event::parse(b""), None);
    for end in 0..message.len() {
        let _ = Event::parse(&message[..end]);
    }
}
