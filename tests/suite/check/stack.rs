//! Layers over layers: overrides, conflicts, whiteouts, opaque directories.

use super::*;

#[test]
fn parents_may_be_in_lower_layers_and_behind_links() {
    let archive = [
        file("etc/new", b""),
        file("lib/z", b""),
        file("sbin/../etc/w", b""),
    ];
    assert_eq!(
        findings("parents", &[&archive], &[]),
        ["warning: 0x00000730 sbin/../etc/w: its name has `..` in it"]
    );
    assert_eq!(
        findings(
            "no-parents",
            &[&[file("no/x", b""), file("etc/name/x", b"")]],
            &[]
        ),
        [
            "error: 0x00000644 no/x: there is no directory no in this layer or below: /init leaves the file out",
            "error: 0x000006b8 etc/name/x: there is no directory etc/name in this layer or below: /init leaves the file out",
        ]
    );
}

#[test]
fn other_kinds_of_whiteouts_are_reported() {
    assert_eq!(
        findings("oci", &[&[file("etc/.wh.name", b"")]], &[]),
        [
            "warning: 0x00000644 etc/.wh.name: a whiteout of OCI images is an ordinary file here: use a \
             character device 0:0"
        ]
    );
}

#[test]
fn conflicts_are_distinguished_from_overrides() {
    let upper = [
        dir("lib"),
        file("lib/z", b""),
        file("etc/name", b"upper"),
        file("usr/lib/x", b"x"),
        file("usr/lib/y", b"Y"),
        entry("usr/lib/y", 0o120_777, b"x"),
        node("nothing", 0),
        node("sbin/init", 0),
        program("sbin/init"),
    ];
    let full = [file("usr/lib", b"")];
    assert_eq!(
        findings("conflicts", &[&upper, &full], &["--conflicts"]),
        [
            "warning: 0x000008a4 usr/lib/y: a symlink in place of an earlier file",
            "error: 0x00000b08 usr/lib: a file in place of a directory that is not empty: /init leaves it out, \
             as the kernel would",
            "conflict: layer 1 (initrd+0x644): lib: a directory in place of a symlink of layer 0 (initrd+0x188)",
            "conflict: layer 1 (initrd+0x644): nothing: a whiteout, and no layer below has anything there",
            "override: layer 1 (initrd+0x644): etc/name: a file in place of a file of layer 0 (initrd+0x188)",
            "override: layer 1 (initrd+0x644): usr/lib/y: a file in place of a file of layer 0 (initrd+0x188)",
        ]
    );
    assert_eq!(
        findings("no-conflicts", &[&[file("etc/new", b"")]], &["--conflicts"]),
        [""; 0]
    );
}

#[test]
fn conflicts_between_images_are_found() {
    let directory = scratch("check-images");
    let (low, high) = (directory.join("low"), directory.join("high"));
    for (tree, files) in [
        (
            &low,
            &[
                ("sbin/init", "\x7fELF"),
                ("same", "same"),
                ("other", "low"),
                ("dir/a/b", "1"),
                ("dir/c", ""),
                ("file", ""),
            ][..],
        ),
        (
            &high,
            &[
                ("same", "same"),
                ("other", "up!"),
                ("dir", "no directory"),
                ("file/x", ""),
            ],
        ),
    ] {
        for (name, content) in files {
            fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
            fs::write(tree.join(name), content).unwrap();
        }
    }
    let mut image = loader();
    for (tree, arguments) in [(&low, &[][..]), (&high, &[])] {
        pad(&mut image, 4096);
        image.extend(erofs_of(&directory, tree, arguments));
    }
    let (lines, _) = check(&directory, &image, &["--conflicts"]);
    let list: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("conflict: ") || line.starts_with("override: "))
        .map(|line| {
            line.replace("layer 1 (initrd+0x2000)", "1")
                .replace("layer 0 (initrd+0x1000)", "0")
        })
        .collect();
    assert_eq!(
        list,
        [
            "conflict: 1: dir: a file in place of a directory of 0, with the 3 files in it",
            "conflict: 1: file: a directory in place of a file of 0",
            "override: 1: other: a file in place of a file of 0",
        ]
    );
    let summary = lines.last().unwrap();
    assert!(
        summary.contains("; 2 conflicts, 1 override; 2 layers; "),
        "{summary}"
    );
}

#[test]
fn opaque_directories_of_images_hide_lower_files() {
    use rustix::fs::{XattrFlags, setxattr};
    let directory = scratch("check-opaque");
    // One directory with the attribute, and many, for which mkfs.erofs stores the attribute once.
    for count in [1, 9] {
        let (low, high) = (
            directory.join(format!("low{count}")),
            directory.join(format!("high{count}")),
        );
        fs::create_dir_all(low.join("sbin")).unwrap();
        fs::write(low.join("sbin/init"), "\x7fELF").unwrap();
        for name in ["sbin", "b", "c", "d", "e", "f", "g", "h", "i"]
            .iter()
            .take(count)
        {
            let path = high.join(name);
            fs::create_dir_all(&path).unwrap();
            setxattr(&path, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        }
        let mut image = loader();
        for tree in [&low, &high] {
            pad(&mut image, 4096);
            image.extend(erofs_of(&directory, tree, &[]));
        }
        let (lines, status) = check(&directory, &image, &[]);
        assert_eq!(status, 1);
        assert!(
            lines[0].starts_with("error: no init in the new root: /sbin/init: not there"),
            "{lines:?}"
        );
    }
}

#[test]
fn redirects_of_overlayfs_are_followed() {
    use rustix::fs::{XattrFlags, setxattr};
    let directory = scratch("check-redirects");
    let low = base_image(&directory, |_| ());
    let mark = |path: &Path, name: &str, value: &[u8]| {
        setxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    let words = ["--cmdline", "retain_initrd init=/new/init"];
    let told = |images: &[&[u8]]| {
        let (mut lines, status) = check(&directory, &with_images(images), &words);
        lines.retain(|line| !line.starts_with("memory: ") && !line.starts_with("image: "));
        (lines, status)
    };
    // An upper directory in which sbin was renamed, with many directories that share the attribute.
    for names in [&["new"][..], &["a", "b", "c", "new"]] {
        let high = base_image(&directory, |tree| {
            fs::remove_dir_all(tree.join("sbin")).unwrap();
            for name in names {
                fs::create_dir(tree.join(name)).unwrap();
                mark(&tree.join(name), "trusted.overlay.redirect", b"sbin");
            }
        });
        // The init is found there, and is not a program.
        let (lines, status) = told(&[&low, &high]);
        assert_eq!((lines, status), (Vec::<String>::new(), 0));
        // No lower layer has it.
        let (lines, status) = told(&[&high]);
        assert!(
            lines[0].starts_with("error: no init in the new root: /new/init: not there"),
            "{lines:?}"
        );
        assert_eq!((lines.len(), status), (1, 1));
    }
    // Lower files are hidden.
    let high = base_image(&directory, |tree| {
        fs::create_dir(tree.join("new")).unwrap();
        mark(&tree.join("new"), "trusted.overlay.redirect", b"sbin");
        mark(&tree.join("new"), "trusted.overlay.opaque", b"y");
    });
    assert_eq!(told(&[&low, &high]).1, 1);

    // A metadata-only file.
    let mode = || fs::Permissions::from_mode(0o755);
    let high = base_image(&directory, |tree| {
        fs::create_dir(tree.join("new")).unwrap();
        fs::write(tree.join("new/init"), "\0\0\0\0").unwrap();
        fs::set_permissions(tree.join("new/init"), mode()).unwrap();
        mark(&tree.join("new/init"), "trusted.overlay.metacopy", b"");
    });
    let lower = base_image(&directory, |tree| {
        fs::create_dir(tree.join("new")).unwrap();
        fs::write(tree.join("new/init"), "\x7fELF").unwrap();
    });
    let warning = "warning: layer 1 (initrd+0x2000): its file new/init has trusted.overlay.metacopy, so its bytes are \
                   in a lower layer: overlayfs refuses the file (EPERM) unless its metacopy is on";
    assert_eq!(told(&[&lower, &high]), (vec![warning.to_string()], 0));
    let error = "error: layer 1 (initrd+0x2000): its file new/init has trusted.overlay.metacopy, and no lower layer has \
                 its bytes";
    let (lines, status) = told(&[&low, &high]);
    assert_eq!((&*lines[1], status), (error, 1), "{lines:?}");
}

#[test]
fn extract_writes_all_layers_or_one() {
    let directory = scratch("check-cat");
    let tree = directory.join("tree");
    let layer = |name: &str, text: &str| {
        let _ = fs::remove_dir_all(&tree);
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc").join(name), text).unwrap();
        std::os::unix::fs::symlink(format!("/etc/{name}"), tree.join("link")).unwrap();
        erofs_of(&directory, &tree, &["-zlz4hc"])
    };
    let images = [
        layer("name", &"base\n".repeat(20_000)),
        layer("name", "app\n"),
        layer("other", ""),
    ];
    let images = images.each_ref().map(Vec::as_slice);
    fs::write(directory.join("image"), with_images(&images)).unwrap();
    let base = "base\n".repeat(20_000);
    for (words, expected) in [
        (&["/etc/name"][..], Ok("app\n")),
        (&["etc/name", "--layer=0"], Ok(&*base)),
        (&["/link", "--layer", "1"], Ok("app\n")),
        (&["/link"], Ok("")),
        (
            &["/etc/name", "--layer=2"],
            Err("find /etc/name: not there"),
        ),
        (&["/etc"], Err("read /etc: a directory, not a file")),
        (
            &["/etc/name", "--layer=3"],
            Err("find layer 3: there is none; the image has 3, and the first is layer 0"),
        ),
    ] {
        let mut command = tool(&directory);
        let output = command.args(["cat", "image"]).args(words).output();
        let (out, err, status) = said(&output.unwrap());
        match expected {
            Ok(text) => assert_eq!((&*out, &*err, status), (text, "", 0), "{words:?}"),
            Err(text) => {
                let text = format!("layerinit: {text}\n");
                assert_eq!((&*out, &*err, status), ("", &*text, 1), "{words:?}");
            }
        }
    }
}
