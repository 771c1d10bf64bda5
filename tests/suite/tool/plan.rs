//! `layerinit plan`.

use super::*;

#[test]
fn the_loader_is_the_archive_with_the_program_of_rdinit() {
    let directory = scratch("tool-rdinit");
    let first = "layer 0 (initrd+0x1000): 4096 bytes, erofs by memback, loop, extract\n";
    let script = entry("before", 0o100_755, b"#!/bin/sh\nexec /init\n");
    let link = entry("before", 0o120_777, b"init");
    for before in [script, link] {
        let loader = cpio(&[own_init("init"), dir("bin"), program("bin/sh")]);
        let image = aligned(join(&[&cpio(&[before]), &loader]), &erofs_with_init(""));
        fs::write(directory.join("image"), image).unwrap();
        let plan = good(
            &directory,
            &["plan", "image", "--cmdline", "rdinit=/before"],
        );
        assert!(plan.starts_with(first), "{plan}");
    }
}

#[test]
fn a_plan_for_a_foreign_init_is_an_error() {
    let directory = scratch("tool-foreign-init");
    let loader = cpio(&[own_init("init")]);
    let script = cpio(&[entry("init", 0o100_755, b"#!/bin/sh\nexec /sbin/init\n")]);
    let busybox = cpio(&[
        entry("init", 0o120_777, b"bin/busybox"),
        dir("bin"),
        program("bin/busybox"),
    ]);
    let gzip = |archive: &[u8]| {
        fs::write(directory.join("archive"), archive).unwrap();
        let mut command = Command::new("gzip");
        let output = command.arg("-nc").arg(directory.join("archive")).output();
        let mut packed = output.unwrap().stdout;
        pad(&mut packed, 4);
        packed
    };
    let other = cpio(&[dir("etc")]);
    let base = erofs_with_init("base");
    let why = ": no layer would be mounted (the loader must be the last archive with that file before the first EROFS image)\n";
    let is_a_script = "layerinit: start /init: it is not layerinit's, but a script (#!/bin/sh)";
    let is_busybox =
        "layerinit: start /init: it is not layerinit's, but another program (bin/busybox)";
    let at = loader.len();
    let packed = gzip(&loader);
    for (pieces, expected) in [
        (vec![&loader[..], &other, &base], None),
        (vec![&script, &loader, &base], None),
        (vec![&busybox, &packed, &base], None),
        // The loader is built into the kernel, or another program starts /init.
        (vec![&base], None),
        // The kernel does not unpack this archive, so it is a layer.
        (vec![&loader, &base, &script], None),
        (
            vec![&loader, &script, &base],
            Some(format!(
                "{is_a_script} from the archive at {at:#x}, which replaces that of the archive at 0x0{why}"
            )),
        ),
        (
            vec![&packed, &gzip(&busybox), &base],
            Some(format!(
                "{is_busybox} from the archive at {:#x}, which replaces that of the archive at 0x0{why}",
                packed.len()
            )),
        ),
        (
            vec![&script, &base],
            Some(format!("{is_a_script} from the archive at 0x0{why}")),
        ),
    ] {
        fs::write(directory.join("image"), pieces.concat()).unwrap();
        match expected {
            None => assert!(good(&directory, &["plan", "image"]).contains("layer 0 (initrd")),
            Some(expected) => assert_eq!(bad(&directory, &["plan", "image"]), expected),
        }
    }
}

#[test]
fn plan_prints_the_plan_of_init() {
    let directory = scratch("tool-plan");
    let loader = cpio(&[
        own_init("init"),
        dir("layers"),
        file("layers/10-base.erofs", &erofs_with_init("base")),
    ]);
    let image = join(&[
        &aligned(loader, &erofs_with_init("app")),
        &cpio(&[dir("."), file("x", b"1")]),
    ]);
    fs::write(directory.join("image"), image).unwrap();
    assert_eq!(
        good(&directory, &["plan", "image"]),
        "\
layer 0 (10-base.erofs): 4096 bytes, erofs \"base\" by file, loop, extract
layer 1 (initrd+0x2000): 4096 bytes, erofs \"app\" by memback, loop, extract
layer 2 (initrd+0x3000): 352 bytes, cpio into a tmpfs of 4096 bytes
root: overlay, writes to a tmpfs
modules: erofs, overlay, loop
init: /sbin/init, /etc/init, /bin/init, /bin/sh
"
    );
    let cmdline = "init=/sbin/init rd.layers.only=base rd.overlay.readonly rd.layers.backend=loop";
    assert_eq!(
        good(&directory, &["plan", "image", "--cmdline", cmdline]),
        "\
layer 0 (10-base.erofs): 4096 bytes, erofs \"base\" by loop
root: the layer itself, read-only
modules: erofs, loop
init: /sbin/init
"
    );
    // Errors of `check` are errors here.
    let cmdline = "init=/sbin/demo rd.layers.only=base rd.overlay.readonly";
    assert_eq!(
        run(&directory, &["plan", "image", "--cmdline", cmdline]),
        (
            "\
layer 0 (10-base.erofs): 4096 bytes, erofs \"base\" by file, loop, extract
root: the layer itself, read-only
modules: erofs, loop
init: /sbin/demo
error: no init in the new root: /sbin/demo: not there
"
            .into(),
            String::new(),
            1
        )
    );
    let nothing = bad(
        &directory,
        &["plan", "image", "--cmdline", "rd.layers.only=none"],
    );
    assert_eq!(
        nothing,
        "layerinit: plan rd.layers.only= and rd.layers.skip=: none of the 3 layers is left to boot from\n"
    );
}

#[test]
fn a_directory_replaces_the_device_of_the_layers() {
    let directory = scratch("tool-plan-from");
    let loader = cpio(&[
        own_init("init"),
        dir("images"),
        file("images/05-low.erofs", &erofs_with_init("low")),
    ]);
    fs::write(
        directory.join("image"),
        aligned(loader, &erofs_with_init("top")),
    )
    .unwrap();
    for name in ["sys/a", "sys/empty", "other"] {
        fs::create_dir_all(directory.join(name)).unwrap();
    }
    fs::write(directory.join("sys/a/20-app"), cpio(&[file("x", b"1")])).unwrap();
    symlink("/base.erofs", directory.join("sys/a/10-base.erofs")).unwrap();
    fs::write(directory.join("sys/base.erofs"), erofs_with_init("base")).unwrap();
    fs::write(
        directory.join("other/raw"),
        join(&[&erofs_with_init("one"), &erofs_with_init("two")]),
    )
    .unwrap();
    let from = "rd.layers.from=LABEL=sys:/a rd.layers.from=/images init=/sbin/init";
    let words = ["plan", "image", "--cmdline", from, "--from", "sys"];
    assert_eq!(
        good(&directory, &words),
        "\
layers from LABEL=sys:/a, mounted at /run/initramfs/media/0
layers from /images of the initramfs
layer 0 (LABEL=sys:/a/10-base.erofs): 4096 bytes, erofs \"base\" by file, loop, extract
layer 1 (LABEL=sys:/a/20-app): 240 bytes, cpio into a tmpfs of 4096 bytes
layer 2 (/images/05-low.erofs): 4096 bytes, erofs \"low\" by file, loop, extract
layer 3 (initrd+0x2000): 4096 bytes, erofs \"top\" by memback, loop, extract
root: overlay, writes to a tmpfs
modules: erofs, overlay, loop
init: /sbin/init
"
    );
    // Two devices.
    let from = "rd.layers.from=LABEL=sys:/base.erofs rd.layers.from=8:1 rd.overlay.readonly init=/sbin/init";
    let words = [
        "plan",
        "image",
        "--cmdline",
        from,
        "--from",
        "sys",
        "--from",
        "other/raw",
    ];
    let plan = good(&directory, &words);
    for line in [
        "layers from 8:1, a device without a filesystem\n",
        "layer 1 (8:1): 4096 bytes, erofs \"one\" by loop, extract\n",
        "layer 2 (8:1+0x1000): 4096 bytes, erofs \"two\" by loop, extract\n",
    ] {
        assert!(plan.contains(line), "{plan}");
    }
    for (from, stand_in, expected) in [
        (
            "LABEL=sys:/a",
            None,
            "use rd.layers.from=LABEL=sys:/a: the content of the device is not known here; --from DIR names a directory \
             with the same files",
        ),
        (
            "LABEL=sys:/b/x",
            Some("sys"),
            "open rd.layers.from=LABEL=sys:/b/x: ENOENT: No such file or directory; / holds: a, base.erofs, empty",
        ),
        (
            "LABEL=sys:/empty",
            Some("sys"),
            "use rd.layers.from=LABEL=sys:/empty: there is no file in it",
        ),
        (
            "/none",
            None,
            "open rd.layers.from=/none: there is no such file in the initramfs",
        ),
    ] {
        let cmdline = format!("rd.layers.from={from}");
        let mut words = vec!["plan", "image", "--cmdline", &cmdline];
        words.extend(stand_in.iter().flat_map(|path| ["--from", path]));
        assert_eq!(bad(&directory, &words), format!("layerinit: {expected}\n"));
        words[0] = "check";
        let (stdout, _, status) = run(&directory, &words);
        assert!(
            stdout.contains(&format!("error: plan: {expected}\n")),
            "{stdout}"
        );
        assert_eq!(status, 1);
    }
}
