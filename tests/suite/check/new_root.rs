//! The new root: its init, mount points and modes.

use super::*;

#[test]
fn the_real_init_is_found_through_links_and_whiteouts() {
    let none = |line: &String| line.starts_with("error: no init in the new root");
    for (name, entries, found) in [
        ("hidden", vec![node("sbin/init", 0)], false),
        ("hidden-all", vec![node("sbin", 0)], false),
        ("a-device", vec![node("sbin/init", 5)], false),
        ("opaque", vec![file("sbin/.wh..wh..opq", b"")], false),
        (
            "opaque-own",
            vec![program("sbin/init"), file("sbin/.wh..wh..opq", b"")],
            true,
        ),
        ("opaque-other", vec![file("etc/.wh..wh..opq", b"")], true),
        (
            "through-a-link",
            vec![
                node("sbin/init", 0),
                entry("sbin/init", 0o120_777, b"../lib/i"),
                program("lib/i"),
            ],
            true,
        ),
        (
            "under-a-mount",
            vec![
                node("sbin/init", 0),
                entry("sbin/init", 0o120_777, b"../run/i"),
                dir("run"),
                program("run/i"),
            ],
            false,
        ),
    ] {
        let lines = findings(&format!("init-{name}"), &[&entries], &[]);
        assert_eq!(!lines.iter().any(none), found, "{name}: {lines:?}");
    }
}

#[test]
fn a_skipped_init_is_reported() {
    let link = |name, target: &'static [u8]| entry(name, 0o120_777, target);
    for (name, init, expected) in [
        ("none", vec![], None),
        (
            "dir",
            vec![dir("sbin/init")],
            Some("a directory, not a file"),
        ),
        (
            "pipe",
            vec![entry("sbin/init", 0o010_755, b"")],
            Some("a pipe, not a file"),
        ),
        (
            "device",
            vec![node("sbin/init", 5)],
            Some("a character device, not a file"),
        ),
        (
            "circle",
            vec![link("sbin/init", b"init")],
            Some("a symlink to init, which is in a loop of symlinks (ELOOP)"),
        ),
        (
            "dangling",
            vec![link("sbin/init", b"../lib/systemd/systemd")],
            Some("a symlink to ../lib/systemd/systemd, which does not exist"),
        ),
        (
            "itself",
            vec![entry("sbin/init", 0o100_755, b"#!/sbin/init\n")],
            Some(
                "it needs /sbin/init: it needs /sbin/init: it needs /sbin/init: it needs /sbin/init: it needs \
                 /sbin/init: too many interpreters of interpreters",
            ),
        ),
        (
            "empty",
            vec![entry("sbin/init", 0o100_755, b"")],
            Some("it is empty"),
        ),
    ] {
        let mut entries = vec![dir("sbin"), dir("bin"), program("bin/init")];
        entries.extend(init);
        let image = join(&[&loader(), &cpio(&entries)]);
        let (lines, status) = check(&scratch(&format!("check-passed-{name}")), &image, &[]);
        let expected =
            expected.map(|why| format!("warning: /sbin/init: {why}; /bin/init would start"));
        let told = lines
            .iter()
            .filter(|line| !line.starts_with("memory: ") && !line.starts_with("image: "));
        assert_eq!(Vec::from_iter(told), Vec::from_iter(&expected), "{name}");
        assert_eq!(status, 0);
    }
}

#[test]
fn files_below_mount_points_are_reported() {
    let link = |name, target: &'static [u8]| entry(name, 0o120_777, target);
    for (name, layer, expected) in [
        ("dirs", vec![dir("proc"), dir("run")], ""),
        (
            "file",
            vec![file("run", b"")],
            "run: a file, not a directory",
        ),
        (
            "link",
            vec![link("proc", b"/etc")],
            "proc: a symlink to /etc, which has another use",
        ),
        (
            "link-to-file",
            vec![link("sys", b"etc/name")],
            "sys: a symlink to etc/name, which is a file",
        ),
        (
            "dangling",
            vec![link("dev", b"gone")],
            "dev: a symlink to gone, which does not exist",
        ),
        (
            "circle",
            vec![link("dev", b"dev")],
            "dev: a symlink to dev, which is in a loop of symlinks (ELOOP)",
        ),
        (
            "harmless",
            vec![
                dir("var"),
                dir("var/run"),
                file("var/run/x", b""),
                link("run", b"var/run"),
            ],
            "",
        ),
    ] {
        for (cmdline, done) in [
            ("retain_initrd", "/init puts a directory in its place"),
            ("retain_initrd rd.overlay.readonly", "the new root has no /"),
        ] {
            let words = ["--cmdline", cmdline];
            let lines = findings(&format!("mount-point-{name}"), &[&layer], &words);
            let expected = match (expected, done) {
                ("", _) => vec![],
                (what, "the new root has no /") => {
                    let (name, _) = what.split_once(':').unwrap();
                    vec![format!(
                        "warning: layer 1 (initrd+0x644): {what}: {done}{name}"
                    )]
                }
                (what, _) => vec![format!("warning: layer 1 (initrd+0x644): {what}: {done}")],
            };
            assert_eq!(lines, expected, "{name}");
        }
    }
}

#[test]
fn world_writable_directories_are_reported() {
    let open = |name, mode: u32| entry(name, 0o040_000 | mode, b"");
    let warning = |what: &str| format!("warning: layer 1 (initrd+0x644): {what}");
    const WHAT: &str = "everybody may create and delete files in this directory";
    assert_eq!(
        findings(
            "writable",
            &[&[
                open(".", 0o777),
                open("etc", 0o777),
                open("lost", 0o772),
                open("tmp", 0o1777),
                open("usr", 0o775)
            ]],
            &[]
        ),
        [
            warning(&format!("/: mode 0777: {WHAT}")),
            warning(&format!("etc: mode 0777: {WHAT}")),
            warning(&format!("lost: mode 0772: {WHAT}")),
        ]
    );
    let many = ["a", "b", "c", "d", "e"].map(|name| open(name, 0o777));
    let lines = findings("writable-many", &[&many], &[]);
    assert_eq!(
        lines[2..],
        [
            warning(&format!("c: mode 0777: {WHAT}")),
            "warning: new root: 2 more world-writable directories".into(),
        ]
    );
    // A higher layer may correct the mode.
    assert_eq!(
        findings(
            "writable-covered",
            &[&[open("etc", 0o777)], &[open("etc", 0o755)]],
            &[]
        ),
        [""; 0]
    );
}

#[test]
fn directories_that_cannot_keep_writes_are_reported() {
    let words = "rd.overlay=LABEL=data rd.overlay.for=";
    for (name, list, expected) in [
        ("good", "/etc,/usr/lib,/new/data", ""),
        (
            "link",
            "/lib",
            "error: rd.overlay.for=/lib: lib: a symlink, not a directory: /init cannot keep its writes",
        ),
        (
            "below-link",
            "/lib/x",
            "error: rd.overlay.for=/lib/x: lib: a symlink, not a directory: /init cannot keep its writes",
        ),
        (
            "file",
            "/etc/name",
            "error: rd.overlay.for=/etc/name: etc/name: a file, not a directory: /init cannot keep its writes",
        ),
        (
            "read-only",
            "/etc,/new rd.overlay.readonly",
            "error: rd.overlay.for=/new: new: no layer has it, and the root is read-only (rd.overlay.readonly): /init \
             cannot keep its writes",
        ),
    ] {
        let cmdline = format!("retain_initrd {words}{list}");
        let lines = findings(&format!("kept-{name}"), &[], &["--cmdline", &cmdline]);
        assert_eq!(lines.join("\n"), expected, "{name}");
    }
}

#[test]
fn an_image_without_uuid_below_a_persistent_upper_is_reported() {
    let image = join(&[&loader(), &base(), &erofs_with_init("x")]);
    let uuid = |cmdline: &str| {
        let (lines, _) = check(&scratch("check-uuid"), &image, &["--cmdline", cmdline]);
        lines
            .iter()
            .filter(|line| line.contains("has no UUID"))
            .count()
    };
    assert_eq!(uuid("retain_initrd"), 0);
    assert_eq!(uuid("retain_initrd rd.overlay=LABEL=data"), 1);
    assert_eq!(
        uuid("retain_initrd rd.overlay=LABEL=data rd.overlay.for=/etc"),
        1
    );
    assert_eq!(
        uuid("retain_initrd rd.overlay=LABEL=data rd.overlay.readonly"),
        0
    );
}
