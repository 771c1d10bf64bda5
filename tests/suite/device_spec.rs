//! The forms of `root=`, and the errors for others.

use layerinit::plan::device_spec::Spec;

fn name(name: &str) -> Spec {
    Spec::Name(name.into())
}

fn number(major: u32, minor: u32) -> Spec {
    Spec::Number { major, minor }
}

fn uuid(uuid: &str) -> Spec {
    Spec::Uuid(uuid.into())
}

fn label(label: &str) -> Spec {
    Spec::Label(label.into())
}

fn part(uuid: &str, offset: i32) -> Spec {
    Spec::PartUuid {
        uuid: uuid.into(),
        offset,
    }
}

fn part_label(label: &str) -> Spec {
    Spec::PartLabel(label.into())
}

#[test]
fn every_form_is_read_and_printed_back() {
    for (text, expected, canonical) in [
        ("/dev/sda1", name("sda1"), "/dev/sda1"),
        (" /dev/vda ", name("vda"), "/dev/vda"),
        (
            "/dev/cciss/c0d0p1",
            name("cciss/c0d0p1"),
            "/dev/cciss/c0d0p1",
        ),
        ("/dev/mapper/root", name("mapper/root"), "/dev/mapper/root"),
        ("8:1", number(8, 1), "8:1"),
        ("259:1048575", number(259, 1_048_575), "259:1048575"),
        ("8:1:0", number(8, 1), "8:1"),
        ("8:1:0:", number(8, 1), "8:1"),
        // As in the kernel: b302 is major 0xb3, minor 2; the upper bits of the minor are above the major.
        ("b302", number(179, 2), "179:2"),
        ("0801", number(8, 1), "8:1"),
        ("301", number(3, 1), "3:1"),
        ("0xFD00", number(253, 0), "253:0"),
        ("00110300", number(259, 256), "259:256"),
        ("UUID=0a-Bc", uuid("0a-Bc"), "UUID=0a-Bc"),
        ("UUID=\"0a-bc\"", uuid("0a-bc"), "UUID=0a-bc"),
        ("UUID='0a-bc'", uuid("0a-bc"), "UUID=0a-bc"),
        ("\"UUID=0a-bc\"", uuid("0a-bc"), "UUID=0a-bc"),
        ("/dev/disk/by-uuid/0a-bc", uuid("0a-bc"), "UUID=0a-bc"),
        ("LABEL=root", label("root"), "LABEL=root"),
        ("LABEL=a=b", label("a=b"), "LABEL=a=b"),
        ("LABEL=\"my root\"", label("my root"), "LABEL=my root"),
        ("LABEL=/", label("/"), "LABEL=/"),
        ("LABEL=my\\x20root", label("my root"), "LABEL=my root"),
        (
            "/dev/disk/by-label/my\\x20root\\x2f1",
            label("my root/1"),
            "LABEL=my root/1",
        ),
        ("/dev/disk/by-label/W\\xc3\\xa4", label("Wä"), "LABEL=Wä"),
        ("PARTUUID=0a-01", part("0a-01", 0), "PARTUUID=0a-01"),
        (
            "PARTUUID=0a-01/PARTNROFF=2",
            part("0a-01", 2),
            "PARTUUID=0a-01/PARTNROFF=2",
        ),
        (
            "PARTUUID=\"0a-01/PARTNROFF=-1\"",
            part("0a-01", -1),
            "PARTUUID=0a-01/PARTNROFF=-1",
        ),
        (
            "PARTUUID=\"0a-01\"/PARTNROFF=1",
            part("0a-01", 1),
            "PARTUUID=0a-01/PARTNROFF=1",
        ),
        (
            "/dev/disk/by-partuuid/0a-01",
            part("0a-01", 0),
            "PARTUUID=0a-01",
        ),
        ("PARTLABEL=x y", part_label("x y"), "PARTLABEL=x y"),
        (
            "/dev/disk/by-partlabel/x\\x20y",
            part_label("x y"),
            "PARTLABEL=x y",
        ),
    ] {
        let spec = Spec::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(spec, expected, "{text}");
        assert_eq!(spec.to_string(), canonical, "{text}");
        assert_eq!(Spec::parse(canonical).unwrap(), expected, "{canonical}");
    }
}

#[test]
fn other_backslashes_are_kept() {
    for text in [
        "a\\x", "a\\x2", "a\\xzz", "a\\x00b", "a\\y", "\\xff", "\\x+1",
    ] {
        assert_eq!(Spec::parse(&format!("LABEL={text}")).unwrap(), label(text));
    }
}

const EXPECTED: &str = "unknown form; expected /dev/NAME, UUID=, LABEL=, PARTUUID=, \
                        PARTLABEL=, MAJOR:MINOR or a hexadecimal device number";

fn refused(cases: &[(&str, &str)]) {
    for (text, why) in cases {
        let error = match Spec::parse(text) {
            Ok(spec) => panic!("{text} was read as {spec:?}"),
            Err(error) => error.to_string(),
        };
        let shown = if *text == "\"\"" { "" } else { text };
        assert_eq!(error, format!("read root={shown}: {why}"));
    }
}

#[test]
fn invalid_forms_are_refused_with_a_reason() {
    refused(&[
        ("", "the value is empty"),
        ("\"\"", "the value is empty"),
        ("UUID=", "the value after the equals sign is empty"),
        ("LABEL=\"\"", "the value after the equals sign is empty"),
        ("uuid=1", "did you mean UUID=?"),
        ("PartLabel=1", "did you mean PARTLABEL=?"),
        ("ZFS=tank/root", "a root on ZFS is not supported"),
        ("zfs:AUTO", "a root on ZFS is not supported"),
        ("zfs:tank/root", "a root on ZFS is not supported"),
        (
            "gpt-auto",
            "partitions are not discovered by type; name the partition, for example with PARTUUID=",
        ),
        (
            "tmpfs",
            "an empty root is not supported; without root= a tmpfs takes the writes above the layers",
        ),
        ("live:CDLABEL", EXPECTED),
        ("sda1", &format!("{EXPECTED}. Did you mean /dev/sda1?")),
        ("8:", EXPECTED),
        (":", EXPECTED),
        ("8:1:", EXPECTED),
        ("8:+1", EXPECTED),
        ("8:1 2", EXPECTED),
        (
            "4096:1",
            "the largest major number is 4095, the largest minor number 1048575",
        ),
        (
            "8:1048576",
            "the largest major number is 4095, the largest minor number 1048575",
        ),
        (
            "123456789",
            "a hexadecimal device number has at most 8 digits",
        ),
    ]);
}

#[test]
fn paths_that_name_no_device_are_refused_with_a_reason() {
    refused(&[
        ("/dev/", "not a path below /dev"),
        ("/dev/../etc/passwd", "not a path below /dev"),
        ("/dev/a//b", "not a path below /dev"),
        ("/dev/root", "/dev/root is not the name of a device"),
        ("/dev/nfs", "a network root is not supported"),
        ("nfs:server:/path", "a network root is not supported"),
        ("ubi0:rootfs", "raw flash (mtd, ubi) is not supported"),
        ("/sda1", "only paths below /dev are supported"),
        (
            "/dev/disk/by-path/pci-0",
            "only udev creates this name, and /init runs no udev; below /dev/disk, by-uuid, by-label, \
             by-partuuid and by-partlabel are supported",
        ),
        ("/dev/disk/by-uuid/", "no device name follows /dev/disk/"),
        ("/dev/disk/", "no device name follows /dev/disk/"),
    ]);
}

#[test]
fn invalid_partition_offsets_are_refused() {
    const WHY: &str = "expected PARTUUID=<identifier>[/PARTNROFF=<number>]";
    refused(&[
        ("PARTUUID=/PARTNROFF=1", WHY),
        ("PARTUUID=a/PARTNROFF=", WHY),
        ("PARTUUID=a/PARTNROFF=1x", WHY),
        ("PARTUUID=a/PARTNROFF=+1", WHY),
        ("PARTUUID=a/partnroff=1", WHY),
        ("PARTUUID=a/PARTNROFF=99999999999", WHY),
    ]);
}

#[test]
fn the_ram_disk_of_an_initrd_is_recognised() {
    for text in ["/dev/ram", "/dev/ram0", "/dev/ram15", "1:0", "0100"] {
        assert!(Spec::parse(text).unwrap().is_ramdisk(), "{text}");
    }
    for text in ["/dev/ramx", "/dev/sda", "8:0", "LABEL=ram0", "/dev/ram/0"] {
        assert!(!Spec::parse(text).unwrap().is_ramdisk(), "{text}");
    }
}

/// Hostile text of every kind gives a value or an error.
#[test]
fn any_text_gives_a_value_or_an_error() {
    let seeds = [
        "/dev/disk/by-label/\\x20é",
        "PARTUUID=é/PARTNROFF=-",
        "\"",
        "'\"'",
        "LABEL='",
        "=",
        "/",
        ":",
    ];
    for seed in seeds {
        for (at, _) in seed.char_indices() {
            for extra in ["", "\"", "\\x", "é", "/", "=", ":", "\0"] {
                let text = format!("{}{extra}{}", &seed[..at], &seed[at..]);
                let _ = Spec::parse(&text);
                let _ = Spec::parse(&seed[..at]);
            }
        }
    }
}
