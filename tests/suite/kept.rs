//! `rd.overlay.for=` keeps the writes to some directories. Needs root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};

use crate::common::disk::{Image, Loop, ext4_of};
use crate::common::guest::*;
use crate::upper::{ext4, failure_of, mounted, words};

/// A disk, and a guest whose layers are directories of the scratch directory.
struct Machine {
    disk: Loop,
    image: Image,
    guest: Guest,
}

impl Machine {
    /// `make` changes the tree of the layer `base`, and may make further layers, whose names it returns.
    fn new<'a>(script: &str, make: impl FnOnce(&Path) -> Vec<&'a str>) -> Self {
        let image = ext4(&[]);
        let disk = Loop::attach(&image);
        let scratch = Scratch::new();
        system(&scratch.join("base"), script);
        fs::create_dir_all(scratch.join("base/var/lib")).unwrap();
        let more = make(&scratch.0);
        let mut files = Vec::new();
        for name in std::iter::once("base").chain(more) {
            files.push((
                format!("layers/{}-{name}.erofs", files.len()),
                mkfs(&scratch.join(name)),
            ));
        }
        let files: Vec<_> = files
            .iter()
            .map(|(name, data)| (name.as_str(), &data[..]))
            .collect();
        let guest = Guest::new(&files);
        Self { disk, image, guest }
    }

    fn boot(&mut self, more: &str) -> Outcome {
        self.guest.cmdline = words(format!("rd.overlay={} {more}", self.disk.0));
        self.guest.boot()
    }

    fn shows(&mut self, more: &str) -> String {
        self.boot(more).reached().to_string()
    }

    fn fails(&mut self, more: &str) -> Outcome {
        self.guest.cmdline = words(format!("rd.overlay={} {more}", self.disk.0));
        failure_of(&self.guest)
    }
}

/// Adds a line to a file in each directory, and prints the numbers of lines.
const COUNT: &str =
    "for dir in /etc /var/lib /; do echo x >>$dir/count; grep -c x $dir/count; done";

#[test]
fn only_the_named_directories_keep_their_writes() {
    let script = format!(
        "{COUNT}; grep -o ' /[a-z]* overlay [rw,a-z]*' /proc/mounts; grep -o '\"upper\":{{.*' /run/initramfs/layerinit.json"
    );
    let mut machine = Machine::new(&script, |_| Vec::new());
    let first = machine.boot("rd.overlay.for=/var,/etc");
    let node = machine.disk.0.clone();
    first.says("writes to /etc, /var go to /run/initramfs/kept/layerinit and are kept");
    let console = first.reached();
    let expected = format!(
        "\"kept\":{{\"directories\":[\"/etc\",\"/var\"],\"upper\":{{\"overlay\":\"{node}:/layerinit\",\"type\":\"ext4\",\
         \"node\":\"{node}\",\"mount\":\"/run/initramfs/kept\",\"directory\":\"/run/initramfs/kept/layerinit\",\
         \"state\":\"new\",\"changes\":[],\"refused\":null}}}}"
    );
    assert!(console.contains(&expected), "no {expected} in\n{console}");
    assert!(
        console.contains("\"upper\":{\"overlay\":\"tmpfs:\",\"type\":\"tmpfs\""),
        "{console}"
    );
    assert!(console.starts_with("1\n1\n1\n"), "{console}");
    for mount in [" /etc overlay rw", " /var overlay rw"] {
        assert!(console.contains(mount), "{console}");
    }
    let second = machine.shows("rd.overlay.for=/var,/etc");
    assert!(second.starts_with("2\n2\n1\n"), "{second}");
    // The files are at the same paths as with an upper for the whole root.
    mounted(&machine.image, |root| {
        assert!(root.join("layerinit/upper/etc/count").exists());
        assert!(root.join("layerinit/upper/var/lib/count").exists());
        assert!(!root.join("layerinit/upper/count").exists());
    });
    let whole = machine.shows("");
    assert!(whole.starts_with("3\n3\n1\n"), "{whole}");
    let whole = machine.shows("");
    assert!(whole.starts_with("4\n4\n2\n"), "{whole}");
    let one = machine.shows("rd.overlay.for=/etc");
    assert!(one.starts_with("5\n1\n1\n"), "{one}");
}

#[test]
fn the_rest_may_be_read_only() {
    let script = "touch /written 2>&1; touch /etc/written && ls /etc; grep -o ' / [a-z]* r[ow]' /proc/mounts";
    let mut machine = Machine::new(script, |_| Vec::new());
    for _ in 0..2 {
        let console = machine.shows("rd.overlay.for=/etc rd.overlay.readonly");
        assert_eq!(
            console,
            "touch: /written: Read-only file system\nwritten\n / erofs ro\n"
        );
    }
    // With two layers, the root is an overlay.
    let mut machine = Machine::new(script, |scratch| {
        fs::create_dir_all(scratch.join("app/etc")).unwrap();
        fs::write(scratch.join("app/etc/app"), "").unwrap();
        vec!["app"]
    });
    let console = machine.shows("rd.overlay.for=/etc rd.overlay.readonly");
    assert_eq!(
        console,
        "touch: /written: Read-only file system\napp\nwritten\n / overlay ro\n"
    );
}

#[test]
fn the_root_device_may_be_below() {
    let scratch = Scratch::new();
    let base = scratch.join("base");
    system(
        &base,
        "touch /written 2>&1; echo x >>/etc/count; grep -c x /etc/count",
    );
    let root = ext4_of(&base);
    let before = fs::read(&root.0).unwrap();
    let data = ext4(&[]);
    let [root_disk, data_disk] = [&root, &data].map(Loop::attach);
    let mut guest = Guest::new(&[]);
    let mut boot = |more: &str| {
        let (root, data) = (&root_disk.0, &data_disk.0);
        guest.cmdline = words(format!(
            "root={root} rw rd.overlay={data} rd.overlay.for=/etc {more}"
        ));
        guest.boot().reached().to_string()
    };
    assert_eq!(boot(""), "1\n");
    assert_eq!(boot(""), "2\n");
    let read_only = "touch: /written: Read-only file system\n3\n";
    assert_eq!(boot("rd.overlay.readonly"), read_only);
    assert!(
        fs::read(&root.0).unwrap() == before,
        "the root device was written to"
    );
}

#[test]
fn directories_of_all_layers_are_merged_as_in_the_root() {
    let script = "cd /; ls -d etc/* var/* data/* srv/* 2>/dev/null; stat -c '%n %a %u' etc data";
    let mut machine = Machine::new(script, |scratch| {
        let write = |path: &str| {
            let path = scratch.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        [
            "base/etc/a",
            "base/etc/b",
            "base/data/a",
            "base/srv/www/a",
            "base/var/a",
        ]
        .into_iter()
        .for_each(write);
        // A deleted file, a deleted directory, and an opaque directory that is the parent of a kept one.
        ["two/etc/c", "two/srv/www/b"].into_iter().for_each(write);
        let whiteout = |path: &str| {
            let path = scratch.join(path);
            mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        };
        ["two/etc/a", "two/data"].into_iter().for_each(whiteout);
        let opaque = scratch.join("two/srv");
        setxattr(
            &opaque,
            c"trusted.overlay.opaque",
            b"y",
            XattrFlags::empty(),
        )
        .unwrap();
        ["three/data/d", "three/srv/www/c"]
            .into_iter()
            .for_each(write);
        let etc = scratch.join("three/etc");
        fs::create_dir(&etc).unwrap();
        fs::set_permissions(&etc, fs::Permissions::from_mode(0o750)).unwrap();
        chown(&etc, Some(7), Some(7)).unwrap();
        vec!["two", "three"]
    });
    let expected = "data/d\netc/b\netc/c\nsrv/www\nvar/a\nvar/lib\netc 750 7\ndata 755 0\n";
    let plain = machine.shows("rd.overlay=tmpfs");
    assert_eq!(plain, expected);
    let kept = machine.shows("rd.overlay.for=/etc,/data,/var,/srv/www");
    assert_eq!(kept, expected);
}

#[test]
fn an_opaque_directory_hides_lower_ones_in_and_above_a_kept_directory() {
    let script = "ls /opt/a/b /srv/www";
    let mut machine = Machine::new(script, |scratch| {
        for path in [
            "base/srv/www/a",
            "base/opt/a/b/1",
            "two/srv/www/b",
            "two/opt/a/other",
        ] {
            let path = scratch.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        for path in ["two/srv", "two/opt/a"] {
            let path = scratch.join(path);
            setxattr(path, c"trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        }
        fs::create_dir_all(scratch.join("three/opt/a/b")).unwrap();
        fs::write(scratch.join("three/opt/a/b/3"), "").unwrap();
        vec!["two", "three"]
    });
    let expected = machine.shows("rd.overlay=tmpfs");
    assert_eq!(expected, "/opt/a/b:\n3\n\n/srv/www:\nb\n");
    assert_eq!(machine.shows("rd.overlay.for=/srv/www,/opt/a/b"), expected);
}

#[test]
fn a_directory_that_no_layer_has_is_created() {
    let script = "ls /new/data /new 2>&1; echo x >>/new/data/count; stat -c '%a %u' /new/data";
    let mut machine = Machine::new(script, |_| Vec::new());
    assert_eq!(
        machine.shows("rd.overlay.for=/new/data"),
        "/new:\ndata\n\n/new/data:\n755 0\n"
    );
    assert_eq!(
        machine.shows("rd.overlay.for=/new/data"),
        "/new:\ndata\n\n/new/data:\ncount\n755 0\n"
    );
    machine
        .fails("rd.overlay.for=/new/data rd.overlay.readonly")
        .says("keep /new/data: create /new: no layer has it, and the root is read-only (rd.overlay.readonly)")
        .says("; boot without it: rd.overlay.fallback=tmpfs (what is written is lost then)");
}

#[test]
fn nested_directories_are_one() {
    let mut machine = Machine::new("grep -c ' overlay ' /proc/mounts", |_| Vec::new());
    assert_eq!(
        machine.shows("rd.overlay.for=/var/lib,/var/,/etc,/var"),
        "3\n"
    );
}

#[test]
fn links_and_files_are_refused_with_their_name() {
    let mut machine = Machine::new("grep ' /[a-z]* overlay' /proc/mounts", |scratch| {
        let base = scratch.join("base");
        fs::create_dir_all(base.join("usr/etc")).unwrap();
        symlink("usr/etc", base.join("conf")).unwrap();
        symlink("/", base.join("loop")).unwrap();
        fs::write(base.join("file"), "").unwrap();
        Vec::new()
    });
    for (path, why) in [
        ("/etc,/conf", "use /conf: it is a symbolic link"),
        ("/loop/etc", "use /loop: it is a symbolic link"),
        ("/file", "use /file: it is not a directory"),
        ("/file/etc", "use /file: it is not a directory"),
    ] {
        machine.fails(&format!("rd.overlay.for={path}")).says(why);
    }
    let fallback = machine.boot("rd.overlay.for=/etc,/conf rd.overlay.fallback=tmpfs");
    fallback.says("CANNOT BE USED: keep /conf: use /conf: it is a symbolic link");
}

#[test]
fn without_the_device_the_fallback_takes_these_writes() {
    let script = format!(
        "{COUNT}; grep -o ' /[a-z]* overlay' /proc/mounts; grep -o 'size=[0-9]*k' /proc/mounts; true"
    );
    let mut machine = Machine::new(&script, |_| Vec::new());
    let words = "rd.overlay=LABEL=not-there rootwait=0 rd.overlay.for=/etc";
    machine.fails(words).says(
        "boot failed: use rd.overlay=LABEL=not-there:/layerinit: find rd.overlay=LABEL=not-there: no such device",
    );
    let outcome = machine.boot(&format!("{words} rd.overlay.fallback=tmpfs:size=3m"));
    outcome.says("rd.overlay=LABEL=not-there:/layerinit CANNOT BE USED: find ");
    let console = outcome.reached();
    assert!(
        console.starts_with("1\n1\n1\n / overlay\n /etc overlay\n"),
        "{console}"
    );
    assert!(console.contains("size=3072k\nsize=3072k\n"), "{console}");
    // These directories are writable in a read-only root, too.
    let outcome = machine.boot(&format!(
        "{words} rd.overlay.fallback=tmpfs rd.overlay.readonly"
    ));
    assert!(
        outcome.reached().contains(" /etc overlay\n"),
        "{}",
        outcome.console
    );
}

#[test]
fn kept_directories_have_a_record_and_can_be_reset() {
    let mut machine = Machine::new(COUNT, |_| Vec::new());
    let words = "rd.overlay.for=/etc rd.overlay.stale=fail";
    assert_eq!(machine.shows(words), "1\n1\n1\n");
    assert_eq!(machine.shows(words), "2\n1\n1\n");
    let layers = machine.guest.scratch.join("rootfs/layers");
    let other = Machine::new("true", |scratch| {
        fs::write(scratch.join("base/more"), "").unwrap();
        Vec::new()
    });
    fs::copy(
        other.guest.scratch.join("rootfs/layers/0-base.erofs"),
        layers.join("1-more.erofs"),
    )
    .unwrap();
    machine.fails(words).says("1-more.erofs (erofs UUID=");
    fs::remove_file(layers.join("1-more.erofs")).unwrap();
    assert_eq!(
        machine.shows(&format!("{words} rd.overlay.reset")),
        "1\n1\n1\n"
    );
    mounted(&machine.image, |root| {
        let old = fs::read_to_string(root.join("layerinit/old/upper/etc/count")).unwrap();
        assert_eq!(old, "x\nx\n");
    });
}

#[test]
fn an_interrupted_boot_leaves_no_directory_without_its_attributes() {
    let mut machine = Machine::new("stat -c '%a' /etc", |scratch| {
        let etc = scratch.join("base/etc");
        fs::set_permissions(etc, fs::Permissions::from_mode(0o751)).unwrap();
        Vec::new()
    });
    mounted(&machine.image, |root| {
        fs::create_dir_all(root.join("layerinit/upper")).unwrap();
        fs::create_dir_all(root.join("layerinit/upper.new")).unwrap();
    });
    assert_eq!(machine.shows("rd.overlay.for=/etc"), "751\n");
    mounted(&machine.image, |root| {
        assert!(!root.join("layerinit/upper.new").exists());
    });
}
