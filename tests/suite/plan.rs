//! From segments and options to the plan, as printed.

use crate::common::*;
use layerinit::initrd::walk;
use layerinit::plan::cmdline::Options;
use layerinit::plan::{Place, Source, plan};

/// The printed plan for these sources, or the error.
fn planned(sources: &[(Place, Vec<u8>)], cmdline: &str) -> String {
    let options = Options::parse(cmdline);
    let found: Vec<_> = sources
        .iter()
        .map(|(place, image)| Source {
            place: place.clone(),
            walk: walk(&&image[..], options.rdinit.as_bytes()),
        })
        .collect();
    match plan(&found, &options) {
        Ok(plan) => plan.to_string(),
        Err(error) => error.to_string(),
    }
}

fn initrd(image: Vec<u8>) -> Vec<(Place, Vec<u8>)> {
    vec![(Place::Initrd, image)]
}

fn layer_file(name: &str, image: Vec<u8>) -> (Place, Vec<u8>) {
    (Place::File(name.into()), image)
}

fn loader() -> Vec<u8> {
    cpio(&[program("init")])
}

const INIT: &str = "init: /sbin/init, /etc/init, /bin/init, /bin/sh\n";

#[test]
fn appended_layers_are_stacked_in_their_order() {
    let etc = cpio(&[dir("."), file("etc", b"x")]);
    let image = join(&[&loader(), &erofs(2, "base"), &erofs(1, ""), &etc]);
    assert_eq!(
        planned(&initrd(image), "quiet"),
        format!(
            "layer 0 (initrd+0xf4): 8192 bytes, erofs \"base\" by memback, loop, extract\n\
             layer 1 (initrd+0x20f4): 4096 bytes, erofs by memback, loop, extract\n\
             layer 2 (initrd+0x30f4): 356 bytes, cpio into a tmpfs of 4096 bytes\n\
             root: overlay, writes to a tmpfs\n\
             modules: erofs, overlay\n{INIT}"
        )
    );
}

#[test]
fn a_file_name_cannot_forge_a_line_of_the_plan() {
    let file = layer_file("a\x1b[31m\nlayer 9 (b", erofs(1, ""));
    let plan = planned(&[file], "");
    let line = r"layer 0 (a\x1b[31m\nlayer 9 (b): 4096 bytes, erofs by ";
    assert!(plan.starts_with(line), "{plan}");
}

#[test]
fn the_plan_tells_where_the_kernel_stopped_and_uses_what_follows() {
    let other = cpio(&[file("x", b"")]);
    let base = erofs(1, "");
    let warnings = |pieces: &[&[u8]]| -> Vec<String> {
        let plan = planned(&initrd(join(pieces)), "");
        let layers = plan
            .lines()
            .filter(|line| line.starts_with("layer "))
            .count();
        let warnings = plan.lines().filter(|line| line.starts_with("warning: "));
        let mut lines = Vec::from_iter(warnings.map(String::from));
        lines.push(format!("{layers} layers"));
        lines
    };
    assert_eq!(
        warnings(&[&loader(), &[0], &other, &base]),
        [
            "warning: initrd+0xf5: an archive that the kernel did not unpack: it does not start at a multiple of 4 \
             (pad the file in front of it with truncate -s %4)",
            "2 layers"
        ]
    );
    assert_eq!(
        warnings(&[&loader(), GRUB_2_06, &base]),
        [
            "warning: initrd+0xf4: the name of the member at 0x0 of this archive has no NUL at its end (GRUB before \
             2.12 writes such names for newc:): the kernel stopped unpacking there",
            "2 layers"
        ]
    );
    // After the first image, /init unpacks all archives.
    assert_eq!(
        warnings(&[&loader(), &base, &[0], &other, GRUB_2_06]),
        ["3 layers"]
    );
}

#[test]
fn microcode_loader_and_padding_are_no_layers() {
    let microcode = cpio(&[file("kernel/x86/microcode/AuthenticAMD.bin", b"x")]);
    let image = join(&[&microcode, &[0; 512], &loader(), &[0; 512], &erofs(1, "")]);
    let plan = planned(&initrd(image), "rd.overlay.readonly rd.layers.backend=loop");
    assert_eq!(
        plan,
        format!(
            "layer 0 (initrd+0x608): 4096 bytes, erofs by loop\n\
             root: the layer itself, read-only\n\
             modules: erofs, loop\n{INIT}"
        )
    );
}

#[test]
fn without_a_loader_in_the_initrd_everything_is_a_layer() {
    let image = join(&[&erofs(1, "a"), &erofs(1, "b")]);
    assert!(
        planned(&initrd(image), "").starts_with("layer 0 (initrd+0x0): 4096 bytes, erofs \"a\"")
    );
}

#[test]
fn the_loader_ends_with_the_last_archive_that_has_the_running_init() {
    // An /init in a layer after the first image is not the running one.
    let image = join(&[
        &loader(),
        &loader(),
        &erofs(1, ""),
        &cpio(&[dir("."), program("init")]),
    ]);
    let plan = planned(&initrd(image), "");
    assert!(plan.starts_with("layer 0 (initrd+0x1e8)"), "{plan}");
    assert!(
        plan.contains("layer 1 (initrd+0x11e8): 356 bytes, cpio"),
        "{plan}"
    );
}

#[test]
fn rdinit_determines_the_loader() {
    let image = join(&[&cpio(&[program("other/name")]), &erofs(1, "")]);
    assert!(
        planned(&initrd(image.clone()), "rdinit=/other/name").starts_with("layer 0 (initrd+0xfc)")
    );
    assert!(planned(&initrd(image), "").starts_with("layer 0 (initrd+0x0): 252 bytes, cpio"));
}

#[test]
fn layer_files_are_below_appended_layers() {
    let sources = vec![
        layer_file("10-base.erofs", erofs(1, "")),
        layer_file("20-etc.cpio", cpio(&[file("etc", b"x")])),
        (Place::Initrd, join(&[&loader(), &erofs(1, "")])),
    ];
    assert_eq!(
        planned(
            &sources,
            "rd.overlay=tmpfs:size=10%,nr_inodes=1k init=/bin/app"
        ),
        "layer 0 (10-base.erofs): 4096 bytes, erofs by file, loop, extract\n\
         layer 1 (20-etc.cpio): 244 bytes, cpio into a tmpfs of 4096 bytes\n\
         layer 2 (initrd+0xf4): 4096 bytes, erofs by memback, loop, extract\n\
         root: overlay, writes to a tmpfs with size=10%,nr_inodes=1k\n\
         modules: erofs, overlay, loop\n\
         init: /bin/app\n"
    );
}

/// If another backend was likely and then fails, the driver is loaded later.
#[test]
fn the_loop_driver_is_loaded_early_if_no_other_backend_is_likely() {
    let appended = initrd(join(&[&loader(), &erofs(1, "")]));
    let file = [layer_file("base.erofs", erofs(1, ""))];
    for (sources, cmdline, modules) in [
        // A kernel with memback keeps the initrd without retain_initrd.
        (&appended[..], "", "erofs, overlay"),
        (&appended, "retain_initrd", "erofs, overlay, loop"),
        (
            &appended,
            "retain_initrd rd.layers.backend=memback",
            "erofs, overlay",
        ),
        // The kernel cannot mount a file of a tmpfs; with root= or rootfstype=, the rootfs is a ramfs.
        (&file, "", "erofs, overlay, loop"),
        (&file, "root=/dev/vda", "erofs, overlay"),
        (&file, "rootfstype=ramfs", "erofs, overlay"),
        (
            &file,
            "root=/dev/vda rootfstype=ext4,tmpfs",
            "erofs, overlay, loop",
        ),
        (&file, "rd.layers.backend=loop", "erofs, overlay, loop"),
    ] {
        let plan = planned(sources, cmdline);
        let line = format!("modules: {modules}\n");
        assert!(plan.contains(&line), "{cmdline}: {plan}");
    }
}

#[test]
fn an_archive_of_layer_files_is_not_itself_a_layer() {
    let carrier = cpio(&[dir("layers"), file("layers/base.erofs", &erofs(1, ""))]);
    let image = join(&[&loader(), &carrier, &erofs(1, "top")]);
    let plan = planned(
        &[
            layer_file("base.erofs", erofs(1, "")),
            (Place::Initrd, image),
        ],
        "",
    );
    assert_eq!(plan.matches("layer ").count(), 2, "{plan}");
}

#[test]
fn the_kernels_copy_of_the_initrd_is_mounted_as_a_file_where_blocks_allow() {
    let image = join(&[&loader(), &erofs(1, ""), &[0; 0xf0c], &erofs(1, "")]);
    let plan = planned(&[(Place::InitrdImage, image)], "");
    assert_eq!(
        plan,
        format!(
            "layer 0 (initrd.image+0xf4): 4096 bytes, erofs by loop, extract\n\
             layer 1 (initrd.image+0x2000): 4096 bytes, erofs by file, loop, extract\n\
             root: overlay, writes to a tmpfs\n\
             modules: erofs, overlay, loop\n{INIT}"
        )
    );
}

#[test]
fn nothing_to_stack_leaves_the_initramfs_as_the_system() {
    let plan = format!("root: the initramfs itself, nothing to stack\nmodules: none\n{INIT}");
    assert_eq!(planned(&[], ""), plan);
    assert_eq!(planned(&initrd(loader()), ""), plan);
}

#[test]
fn layers_are_chosen_by_number_name_stem_and_label() {
    let sources = || {
        vec![
            layer_file("10-base.erofs", erofs(1, "base")),
            layer_file("20-app.erofs", erofs(1, "app")),
            layer_file("30-etc.erofs", erofs(1, "etc")),
        ]
    };
    let numbers = |cmdline: &str| -> Vec<String> {
        let plan = planned(&sources(), cmdline);
        let layer = |line: &str| Some(line.strip_prefix("layer ")?.split(' ').next()?.to_string());
        plan.lines().filter_map(layer).collect()
    };
    assert_eq!(numbers("rd.layers.skip=1"), ["0", "2"]);
    assert_eq!(numbers("rd.layers.only=10-base.erofs,30-etc"), ["0", "2"]);
    assert_eq!(numbers("rd.layers.only=app"), ["1"]);
    assert_eq!(numbers("rd.layers.only=0,1 rd.layers.skip=base"), ["1"]);
    assert_eq!(
        planned(&sources(), "rd.layers.only=40"),
        "plan rd.layers.only= and rd.layers.skip=: none of the 3 layers is left to boot from"
    );
    assert!(
        planned(&sources(), "rd.layers.skip=40")
            .starts_with("warning: rd.layers.skip=40: there is no such layer\n")
    );
}

#[test]
fn trouble_in_the_initrd_is_an_error_message_or_fatal_with_strict() {
    let image = || initrd(join(&[&loader(), &erofs(1, ""), b"junkjunk"]));
    assert!(planned(&image(), "").starts_with(
        "warning: initrd: read at 0x10f4: neither cpio nor EROFS: \
         6a 75 6e 6b 6a 75 6e 6b \"junkjunk\": what follows is not used\nlayer 0"
    ));
    assert_eq!(
        planned(&image(), "rd.layers.strict"),
        "plan initrd: read at 0x10f4: neither cpio nor EROFS: \
         6a 75 6e 6b 6a 75 6e 6b \"junkjunk\" (rd.layers.strict)"
    );
}

#[test]
fn trouble_in_a_copy_of_the_initrd_may_come_from_a_full_rootfs() {
    for (place, told) in [(Place::InitrdImage, true), (Place::Initrd, false)] {
        let image = join(&[&loader(), &erofs(1, ""), &erofs(2, "")[..4096]]);
        let plan = planned(&[(place, image)], "");
        let (warning, _) = plan.split_once('\n').unwrap();
        assert!(warning.contains("what follows is not used"), "{plan}");
        assert_eq!(
            warning.contains("says \"incomplete write\""),
            told,
            "{plan}"
        );
    }
}

#[test]
fn more_layers_than_overlayfs_stacks_are_refused() {
    let many = |n: usize| initrd(join(&[&loader(), &erofs(1, "").repeat(n)]));
    assert_eq!(planned(&many(500), "").matches("\nlayer ").count(), 499);
    assert_eq!(
        planned(&many(501), ""),
        "plan initrd: more than the 500 layers that overlayfs can stack"
    );
}

#[test]
fn features_that_are_too_new_and_missing_devices_are_reported() {
    let mut image = erofs(1, "");
    image[1104..1108].copy_from_slice(&0x8000_0000u32.to_le_bytes());
    image[1110] = 2;
    let plan = planned(&initrd(join(&[&loader(), &image])), "");
    assert!(
        plan.starts_with(
            "warning: layer 0 (initrd+0xf4): features 0x80000000 are newer than this program knows\n\
             warning: layer 0 (initrd+0xf4): the image needs 2 more devices: only images of one piece can be mounted\n"
        ),
        "{plan}"
    );
}

#[test]
fn a_root_device_is_the_root_or_the_lowest_layer() {
    let modules = format!("modules: none\n{INIT}");
    assert_eq!(
        planned(&initrd(loader()), "root=/dev/vda1"),
        format!("root device /dev/vda1: ro, type auto\nroot: the root device itself\n{modules}")
    );
    assert_eq!(
        planned(
            &[],
            "root=UUID=1-2 rw rootfstype=ext4,btrfs rootflags=noatime,subvol=x"
        ),
        format!(
            "root device UUID=1-2: rw,noatime,subvol=x, type ext4, btrfs\nroot: the root device itself\n{modules}"
        )
    );
    for types in ["auto", "auto,ext4", "ext4,auto"] {
        let plan = planned(&[], &format!("root=/dev/vda1 rootfstype={types}"));
        assert!(
            plan.starts_with("root device /dev/vda1: ro, type auto\n"),
            "{plan}"
        );
    }
    // Read-only; or below an overlay, which does not write to it.
    assert!(
        planned(&[], "root=/dev/vda1 rw rd.overlay.readonly")
            .starts_with("root device /dev/vda1: ro")
    );
    for overlay in [
        "rd.overlay=tmpfs:size=1g",
        "systemd.volatile=overlay",
        "rd.overlay",
    ] {
        let plan = planned(&[], &format!("root=/dev/vda1 rw {overlay}"));
        assert!(plan.starts_with("root device /dev/vda1: ro, "), "{plan}");
        assert!(plan.contains("root: overlay, writes to a tmpfs"), "{plan}");
        assert!(plan.contains("modules: overlay\n"), "{plan}");
    }
    let image = join(&[&loader(), &erofs(1, "")]);
    assert_eq!(
        planned(&initrd(image), "root=LABEL=data"),
        format!(
            "root device LABEL=data: ro, type auto\n\
             layer 1 (initrd+0xf4): 4096 bytes, erofs by memback, loop, extract\n\
             root: overlay, writes to a tmpfs\nmodules: erofs, overlay\n{INIT}"
        )
    );
}

#[test]
fn a_volatile_system_without_an_overlay_is_reported() {
    let warning = "warning: systemd.volatile=yes: /init supports only overlay; the root device is used as it is, \
                   and writes to / go to it\n";
    for word in [
        "systemd.volatile=yes",
        "systemd.volatile=1",
        "systemd.volatile",
    ] {
        let plan = planned(&[], &format!("root=/dev/vda1 {word}"));
        assert!(plan.starts_with(warning), "{plan}");
    }
    let layers = initrd(join(&[&loader(), &erofs(1, "")]));
    for (sources, cmdline) in [
        (&[][..], "root=/dev/vda1 systemd.volatile=no"),
        // The systemd of the new root does that.
        (&[], "root=/dev/vda1 systemd.volatile=state"),
        (&[], "root=/dev/vda1 systemd.volatile=overlay"),
        // Below an overlay, the device is not written to.
        (&[], "root=/dev/vda1 systemd.volatile=yes rd.overlay"),
        (&layers, "root=/dev/vda1 systemd.volatile=yes"),
        (&layers, "systemd.volatile=yes"),
    ] {
        let plan = planned(sources, cmdline);
        assert!(!plan.contains("volatile"), "{cmdline}: {plan}");
    }
}

#[test]
fn a_root_that_names_no_device_is_ignored_if_there_are_layers() {
    let image = || join(&[&loader(), &erofs(1, "")]);
    let ramdisk = planned(&initrd(image()), "root=/dev/ram0");
    assert!(
        ramdisk.starts_with("warning: root=/dev/ram0: the initrd is not copied into a ramdisk; its layers are used\nlayer 0"),
        "{ramdisk}"
    );
    let odd = planned(&initrd(image()), "root=live:http");
    assert!(
        odd.starts_with("warning: read root=live:http: ") && odd.contains("; not used\nlayer 0"),
        "{odd}"
    );
    assert!(planned(&[], "root=live:http").starts_with("read root=live:http: "));
}

#[test]
fn a_persistent_upper_is_planned_with_its_fallback() {
    let image = || join(&[&loader(), &erofs(1, "")]);
    let layer = "layer 0 (initrd+0xf4): 4096 bytes, erofs by memback, loop, extract\n";
    let end = format!("modules: erofs, overlay\n{INIT}");
    assert_eq!(
        planned(&initrd(image()), "rd.overlay=LABEL=data"),
        format!(
            "{layer}root: overlay, writes to /layerinit of device LABEL=data: rw, type auto\n\
             without that device: no boot\n{end}"
        )
    );
    assert_eq!(
        planned(
            &initrd(image()),
            "rd.overlay=8:1:/var/over/ rd.overlay.fallback=tmpfs:size=1g"
        ),
        format!(
            "{layer}root: overlay, writes to /var/over of device 8:1: rw, type auto\n\
             without that device: writes to a tmpfs with size=1g\n{end}"
        )
    );
    // This boot shall not write.
    assert_eq!(
        planned(
            &initrd(image()),
            "rd.overlay=LABEL=data rd.overlay.readonly"
        ),
        format!("{layer}root: the layer itself, read-only\nmodules: erofs\n{INIT}")
    );
    // Above the root device, which stays unchanged.
    let plan = planned(&[], "root=/dev/vda1 rw rd.overlay=LABEL=data");
    assert!(
        plan.starts_with(
            "root device /dev/vda1: ro, type auto\nroot: overlay, writes to /layerinit of "
        ),
        "{plan}"
    );
}

#[test]
fn writes_that_cannot_be_kept_fail_the_boot_without_a_fallback() {
    let image = || join(&[&loader(), &erofs(1, "")]);
    let hint = "boot without it: rd.overlay.fallback=tmpfs (what is written is lost then), or rd.overlay.readonly";
    assert_eq!(
        planned(&initrd(image()), "rd.overlay=label=data"),
        format!(
            "use rd.overlay=label=data: read rd.overlay=label=data: did you mean LABEL=?; {hint}"
        )
    );
    let plan = planned(
        &initrd(image()),
        "rd.overlay=label=data rd.overlay.fallback=tmpfs",
    );
    assert!(
        plan.starts_with(
            "warning: rd.overlay=label=data CANNOT BE USED: read rd.overlay=label=data: did you mean LABEL=?. \
             Writes go to a tmpfs (rd.overlay.fallback=): WHAT IS WRITTEN FROM NOW ON IS LOST when the machine stops\n"
        ),
        "{plan}"
    );
    assert!(
        plan.contains("root: overlay, writes to a tmpfs\n"),
        "{plan}"
    );
    // An initrd that consists of the loader only, for example because retain_initrd was forgotten.
    assert_eq!(
        planned(&initrd(loader()), "rd.overlay=LABEL=data"),
        format!(
            "use rd.overlay=LABEL=data:/layerinit: make an overlay: there are neither layers nor root=; {hint}"
        )
    );
}

#[test]
fn directories_that_keep_their_writes_are_planned_beside_the_root() {
    let image = || initrd(join(&[&loader(), &erofs(1, "")]));
    let layer = "layer 0 (initrd+0xf4): 4096 bytes, erofs by memback, loop, extract\n";
    let kept =
        "/etc, /usr/local: overlay, writes to /layerinit of device LABEL=data: rw, type auto\n";
    let end = format!("modules: erofs, overlay\n{INIT}");
    let device = "rd.overlay=LABEL=data rd.overlay.for=/usr//local/,/etc,/etc/ssh";
    assert_eq!(
        planned(&image(), device),
        format!(
            "{layer}root: overlay, writes to a tmpfs\n{kept}without that device: no boot\n{end}"
        )
    );
    assert_eq!(
        planned(
            &image(),
            &format!("{device} rd.overlay.readonly rd.overlay.stale=reset")
        ),
        format!(
            "{layer}root: the layer itself, read-only\n{kept}written over other layers: reset\n\
             without that device: no boot\n{end}"
        )
    );
    // If the device fails, one tmpfs serves the root and the directories. Layers are not extracted into one
    // tmpfs.
    let words = format!(
        "{device} rd.overlay.fallback=tmpfs:size=1g rd.layers.backend=extract rd.overlay.reset"
    );
    assert_eq!(
        planned(&image(), &words),
        format!(
            "layer 0 (initrd+0xf4): 4096 bytes, erofs by extract\nroot: overlay, writes to a tmpfs with size=1g\n{kept}\
             reset once for rd.overlay.reset=1\nwithout that device: writes to a tmpfs with size=1g\n\
             modules: overlay\n{INIT}"
        )
    );
    let plan = planned(
        &[],
        &format!("root=/dev/vda1 rw {device} rd.overlay.readonly"),
    );
    assert!(
        plan.starts_with(
            "root device /dev/vda1: ro, type auto\nroot: the root device itself, read-only\n/etc, /usr/local: "
        ),
        "{plan}"
    );
}

#[test]
fn directories_that_cannot_keep_their_writes_fail_the_boot() {
    let image = || initrd(join(&[&loader(), &erofs(1, "")]));
    let hint = "boot without it: rd.overlay.fallback=tmpfs (what is written is lost then)";
    let absolute = "not an absolute path (/etc; no . or .. in it)";
    for (list, object, why) in [
        ("etc", "etc", absolute),
        ("/etc,var", "var", absolute),
        ("/etc/../root", "/etc/../root", absolute),
        ("/etc/.", "/etc/.", absolute),
        (
            "/",
            "/",
            "this is the whole root, which rd.overlay= keeps without rd.overlay.for=",
        ),
        (
            "/run",
            "/run",
            "/run is a filesystem of its own in the new root",
        ),
        (
            "/dev/shm",
            "/dev/shm",
            "/dev is a filesystem of its own in the new root",
        ),
        (
            "/a:b",
            "/a:b",
            "overlayfs takes no colon and no backslash in a path",
        ),
    ] {
        let words = format!("rd.overlay=LABEL=data rd.overlay.for={list}");
        let expected =
            format!("use rd.overlay=LABEL=data: use rd.overlay.for={object}: {why}; {hint}");
        assert_eq!(planned(&image(), &words), expected);
        let fallback = planned(
            &image(),
            &format!("{words} rd.overlay.fallback=tmpfs:size=1g"),
        );
        assert!(
            fallback
                .starts_with("warning: rd.overlay=LABEL=data CANNOT BE USED: use rd.overlay.for=")
                && fallback.contains("\nroot: overlay, writes to a tmpfs with size=1g\nmodules"),
            "{fallback}"
        );
    }
    let long = format!("/{}", "a".repeat(199));
    let plan = planned(
        &image(),
        &format!("rd.overlay=LABEL=data rd.overlay.for={long}"),
    );
    assert!(plan.contains("together are too long"), "{plan}");
    for words in [
        "rd.overlay.for=/etc",
        "rd.overlay.for=/etc rd.overlay=tmpfs",
    ] {
        let plan = planned(&image(), words);
        let why = "use rd.overlay=tmpfs: use rd.overlay.for=/etc: rd.overlay= names no device that could keep these \
                   directories";
        assert_eq!(plan, format!("{why}; {hint}"));
    }
}

#[test]
fn words_for_an_upper_on_a_device_have_no_effect_without_one() {
    let image = || initrd(join(&[&loader(), &erofs(1, "")]));
    for (words, why) in [
        (
            "rd.overlay.reset",
            "rd.overlay.reset has no effect: rd.overlay= names no device",
        ),
        (
            "rd.overlay=tmpfs rd.overlay.stale=reset",
            "rd.overlay.stale= has no effect: rd.overlay= names no device",
        ),
        (
            "rd.overlay=LABEL=data rd.overlay.readonly rd.overlay.reset",
            "rd.overlay.reset has no effect: rd.overlay.readonly: nothing is written",
        ),
    ] {
        let plan = planned(&image(), words);
        assert!(plan.starts_with(&format!("warning: {why}\n")), "{plan}");
    }
    let device = "rd.overlay=LABEL=data rd.overlay.for=/etc rd.overlay.readonly rd.overlay.reset";
    let plan = planned(&image(), device);
    assert!(!plan.contains("warning"), "{plan}");
}

#[test]
fn layer_numbers_that_a_boot_loader_shifts_get_a_warning() {
    // As systemd-stub appends credentials.
    let credentials = cpio(&[
        dir(".extra"),
        dir(".extra/credentials"),
        file(".extra/credentials/x.cred", b"x"),
    ]);
    let image = |added: &[u8]| initrd(join(&[&loader(), &erofs(1, "app"), added]));
    let at = loader().len() + 4096;
    for (cmdline, words) in [
        ("rd.layers.only=0", &["only=0"][..]),
        (
            "rd.layers.skip=x,1 rd.layers.only=app,0",
            &["only=0", "skip=1"],
        ),
        ("rd.layers.only=app", &[]),
        ("", &[]),
    ] {
        let warnings = words.iter().map(|word| {
            format!(
                "warning: rd.layers.{word}: layer 1 (initrd+{at:#x}) is an archive that systemd-stub has added, and \
                 the numbers of layers change with these: name layers by volume label"
            )
        });
        let plan = planned(&image(&credentials), cmdline);
        let told = plan.lines().filter(|line| line.contains("systemd-stub"));
        assert_eq!(Vec::from_iter(told), Vec::from_iter(warnings), "{cmdline}");
        for other in [
            &cpio(&[dir("etc"), file("etc/x", b"")])[..],
            &cpio(&[dir(".extra")]),
        ] {
            assert!(!planned(&image(other), cmdline).contains("systemd-stub"));
        }
    }
}
