//! `/init` as PID 1 of a new PID namespace, on the kernel of this machine: a tmpfs or ramfs as rootfs, real
//! EROFS images, real loop devices and overlays. Needs root.
//!
//! Console and kernel log are files; the real init is a busybox script in a layer.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::common::disk::{Loop, ext4_of};
use crate::common::guest::*;
use crate::common::*;

#[test]
fn layer_files_on_a_tmpfs_boot_through_loop_devices() {
    let scratch = Scratch::new();
    let script = "cat /etc/which; stat -c %F /run/initramfs/layers/0/sbin /run/initramfs/layers/1/etc; \
                  cat /run/initramfs/layers/0/etc/which; touch /written && echo writable";
    let [base, app] = two_layers(&scratch, script);
    let outcome = Guest::new(&[
        ("layers/10-base.erofs", &base),
        ("layers/20-app.erofs", &app),
    ])
    .boot();
    assert_eq!(
        outcome.reached(),
        "app\ndirectory\ndirectory\nbase\nwritable\n"
    );
    outcome
        .says("layer 0 (10-base.erofs): mounted by loop")
        .says("layer 1 (20-app.erofs): mounted by loop");
}

#[test]
fn layer_files_on_a_ramfs_need_no_block_device() {
    let scratch = Scratch::new();
    let [base, app] = two_layers(&scratch, "cat /etc/which; grep -c loop /proc/mounts");
    let mut guest = Guest::new(&[("layers/a", &base), ("layers/b", &app)]);
    guest.rootfs = "ramfs";
    let outcome = guest.boot();
    // The script ends with the status of grep, which finds none.
    assert_eq!(outcome.console, "app\n0\n", "{}", outcome.log);
    outcome
        .says("layer 0 (a): mounted by file")
        .says("layer 1 (b): mounted by file");

    guest.cmdline = "rd.layers.backend=loop";
    let outcome = guest.boot();
    assert_eq!(outcome.reached(), "app\n2\n");
}

#[test]
fn unused_parts_of_the_kernels_copy_of_the_initrd_are_freed() {
    let scratch = Scratch::new();
    let script = "cat /etc/which /etc/top; grep -o 'initrd.image[^ ]*' /run/initramfs/layerinit.json | sort -u";
    let [base, app] = two_layers(&scratch, script);
    let top = cpio(&[dir("etc"), file("etc/top", b"top\n")]);
    let mut image = cpio(&[program("init"), file("ballast", &vec![7; 3 << 20])]);
    pad(&mut image, 4096);
    image.extend([&base[..], &app, &top].concat());
    for (rootfs, backend) in [("tmpfs", "loop"), ("ramfs", "file")] {
        let mut guest = Guest::new(&[("initrd.image", &image)]);
        guest.rootfs = rootfs;
        let outcome = guest.boot();
        assert!(
            outcome.reached().starts_with("app\ntop\n"),
            "{}",
            outcome.console
        );
        outcome
            .says(&format!("mounted by {backend}"))
            .says("unpacked, 2 members, 0 not created");
        if rootfs == "tmpfs" {
            // Holes for the loader, the padding, and the page of the archive: the loop device of the last
            // image has made the file longer than that page. The images stay.
            let size = image.len().next_multiple_of(4096);
            outcome.says(&format!("/initrd.image: 3153920 of {size} bytes freed"));
        }
    }
}

#[test]
fn extracted_layers_need_neither_erofs_nor_overlayfs() {
    let scratch = Scratch::new();
    let script = "cat /etc/which /etc/top; stat -c %Y /etc; stat -f -c %T /; stat -c %F /run/initramfs/layers/0 2>/dev/null; \
                  touch /written && echo writable; \
                  grep -o '\"backend\":\"[a-z]*\"\\|\"root\":\"[a-z]*\"' /run/initramfs/layerinit.json";
    let [base, app] = two_layers(&scratch, script);
    // The kernel sets the times of directories after it has unpacked all archives: those of the lowest layer
    // win.
    let mut etc = dir("etc");
    etc.header.mtime = 77;
    let top = cpio(&[etc, file("etc/top", b"top\n")]);
    let files: [(&str, &[u8]); 3] = [("layers/a", &base), ("layers/b", &app), ("layers/c", &top)];
    let mut guest = Guest::new(&files);
    guest.cmdline = "rd.layers.backend=extract";
    let outcome = guest.boot();
    assert_eq!(
        outcome.reached(),
        "app\ntop\n0\ntmpfs\nwritable\n\"backend\":\"extract\"\n\"backend\":\"extract\"\n\
         \"backend\":\"unpack\"\n\"root\":\"tmpfs\"\n"
    );
    outcome.says("layer 1 (b): extracted, ");

    // An overlay of extracted layers, because another backend comes first.
    guest.cmdline = "rd.layers.backend=extract,loop";
    let outcome = guest.boot();
    let console = outcome.reached();
    assert!(
        console.starts_with("app\ntop\n0\nUNKNOWN\ndirectory\nwritable\n\"backend\":\"extract\"\n"),
        "{console}"
    );

    guest.cmdline = "rd.layers.backend=extract rd.overlay.readonly";
    let outcome = guest.boot();
    assert!(
        !outcome.reached().contains("writable"),
        "{}",
        outcome.console
    );
}

#[test]
fn extracted_layers_are_freed_one_after_the_other() {
    let scratch = Scratch::new();
    let [base, app] = two_layers(&scratch, "cat /etc/which");
    let mut image = cpio(&[program("init")]);
    let page = |length: usize| length.next_multiple_of(4096);
    pad(&mut image, 4096);
    image.extend([&base[..], &app].concat());
    let (whole, base_end) = (page(image.len()), image.len() - app.len());
    let mut guest = Guest::new(&[("initrd.image", &image), ("layers/z", &app)]);
    for (rootfs, first, second, rest) in [
        // A tmpfs can free any part of a file.
        (
            "tmpfs",
            page(base.len()),
            page(app.len()),
            base_end - page(base.len()),
        ),
        // A ramfs can only free the end: first the last layer, then everything.
        ("ramfs", 0, whole, 0),
    ] {
        guest.rootfs = rootfs;
        guest.cmdline = "rd.layers.backend=extract rd.debug";
        let outcome = guest.boot();
        assert!(
            outcome.reached().starts_with("app\n"),
            "{}",
            outcome.console
        );
        outcome.says(&format!(
            "layer 0 (z): {} bytes of /layers/z freed",
            page(app.len())
        ));
        if first > 0 {
            outcome.says(&format!("): {first} bytes of /initrd.image freed"));
        }
        outcome
            .says(&format!("): {second} bytes of /initrd.image freed"))
            .says(&format!("/initrd.image: {rest} of {rest} bytes freed"));
    }
}

#[test]
fn layers_that_do_not_fit_are_refused_before_they_are_written() {
    let scratch = Scratch::new();
    let layers = two_layers(&scratch, "true");
    let mut guest = Guest::new(&[("layers/a", &layers[0]), ("layers/b", &layers[1])]);
    let tmpfs = "and the tmpfs of the root (rd.overlay=tmpfs:...)";
    let outcome = failure(
        &mut guest,
        "rd.layers.backend=extract rd.overlay=tmpfs:size=64k rd.emergency=poweroff",
    );
    outcome.says("boot failed: extract all layers: they take ");
    outcome.says(&format!(" bytes, {tmpfs} has room for 65536"));
    assert!(!outcome.log.contains(": extracted"), "{}", outcome.log);
    let outcome = failure(
        &mut guest,
        "rd.layers.backend=extract rd.overlay=tmpfs:nr_inodes=5 rd.emergency=poweroff",
    );
    outcome.says(&format!(" files, {tmpfs} takes 4"));
}

#[test]
fn an_image_at_an_odd_offset_boots_through_a_loop_device() {
    let scratch = Scratch::new();
    let [base, app] = two_layers(&scratch, "cat /etc/which");
    let image = [&cpio(&[program("init")])[..], &[0; 4], &base, &[0; 8], &app].concat();
    let mut guest = Guest::new(&[("initrd.image", &image)]);
    guest.rootfs = "ramfs";
    let outcome = guest.boot();
    assert_eq!(outcome.reached(), "app\n");
    outcome.says("layer 0 (initrd.image+0xf8): mounted by loop");
}

#[test]
fn arguments_environment_and_streams_are_passed_on() {
    let scratch = Scratch::new();
    let script = "echo \"$$ $0 [$1] [$2] $# $canary $HOME $TERM\"; \
                  for n in 0 1 2; do readlink /proc/self/fd/$n; done; \
                  readlink /proc/1/cwd; readlink /proc/1/root; umask";
    let [base, _] = two_layers(&scratch, script);
    let mut guest = Guest::new(&[("layers/base", &base)]);
    guest.arguments = "one 'two words'";
    assert_eq!(
        guest.boot().reached(),
        "1 /sbin/init [one] [two words] 2 alive and well / linux\n\
         /dev/console\n/dev/console\n/dev/console\n/\n/\n0022\n"
    );
}

#[test]
fn the_newline_of_the_command_line_is_not_part_of_its_last_word() {
    let scratch = Scratch::new();
    let [base, _] = two_layers(&scratch, "echo $0");
    let mut guest = Guest::new(&[("layers/base", &base)]);
    // Like the kernel, the parser accepts a quote without an end.
    guest.cmdline = "init=\"/sbin/init\n";
    assert_eq!(guest.boot().reached(), "/sbin/init\n");
}

#[test]
fn only_systemd_gets_the_start_time_of_the_initramfs() {
    let scratch = Scratch::new();
    let base = scratch.join("base");
    system(&base, "");
    fs::create_dir_all(base.join("usr/lib/systemd")).unwrap();
    fs::rename(base.join("sbin/init"), base.join("usr/lib/systemd/systemd")).unwrap();
    symlink("../usr/lib/systemd/systemd", base.join("sbin/init")).unwrap();
    fs::write(
        base.join("usr/lib/systemd/systemd"),
        "#!/bin/sh\necho \"$@\"; if [ \"$3\" = --deserialize ]; then cat <&$4; fi\n",
    )
    .unwrap();
    let mut guest = Guest::new(&[("layers/base", &mkfs(&base))]);
    guest.arguments = "single 'a b'";
    let outcome = guest.boot();
    let lines: Vec<_> = outcome.reached().lines().collect();
    let [words, state, ""] = lines[..] else {
        panic!("{lines:?}");
    };
    let rest = words
        .strip_prefix("--switched-root --system --deserialize ")
        .and_then(|rest| rest.split_once(' '));
    assert_eq!(rest.unwrap().1, "single a b");
    let clocks: Vec<u64> = state
        .strip_prefix("initrd-timestamp=")
        .expect(state)
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap().as_micros() as u64;
    assert!(clocks.len() == 2 && clocks[0] <= now && clocks[1] < clocks[0]);

    guest.cmdline = "rd.timestamps=0";
    assert_eq!(guest.boot().reached(), "single a b\n");
}

/// systemd-stub puts files into /.extra, which systemd reads only in its own initramfs.
#[test]
fn systemd_gets_the_credentials_of_systemd_stub() {
    let scratch = Scratch::new();
    let base = scratch.join("base");
    system(&base, "");
    let systemd = base.join("usr/lib/systemd/systemd");
    fs::create_dir_all(systemd.parent().unwrap()).unwrap();
    fs::rename(base.join("sbin/init"), &systemd).unwrap();
    symlink("../usr/lib/systemd/systemd", base.join("sbin/init")).unwrap();
    let script = "#!/bin/sh\necho \"[$ENCRYPTED_CREDENTIALS_DIRECTORY]\"\n[ -d /run/credentials/@encrypted ] || exit 0\ncd /run/credentials/@encrypted\n\
                  stat -c %a . *\ngrep . *\ncat /run/systemd/stub/profile\nls /run/systemd/stub /run\n";
    fs::write(&systemd, script).unwrap();
    let mut guest = Guest::new(&[("layers/10-base", &mkfs(&base))]);
    assert_eq!(guest.boot().reached(), "[]\n");

    let extra = cpio(&[
        dir(".extra"),
        file(".extra/profile", b"ID=main\n"),
        dir(".extra/credentials"),
        entry(".extra/credentials/a.cred", 0o100_444, b"one"),
        file(".extra/credentials/other", b"no credential"),
        entry(".extra/credentials/link.cred", 0o120_777, b"/etc/passwd"),
        dir(".extra/global_credentials"),
        file(".extra/global_credentials/a.cred", b"not the first"),
        file(".extra/global_credentials/b.cred", b"two"),
        dir(".extra/sysext"),
        file(".extra/sysext/x.raw", b"unsigned"),
    ]);
    // /.extra in a layer, and in the rootfs.
    let image = mkfs(&base);
    let as_layer = Guest::new(&[("layers/10-base", &image), ("layers/20-extra", &extra)]);
    let in_rootfs = Guest::new(&[
        ("layers/10-base", &image),
        (".extra/profile", b"ID=main\n"),
        (".extra/credentials/a.cred", b"one"),
        (".extra/global_credentials/a.cred", b"not the first"),
        (".extra/global_credentials/b.cred", b"two"),
    ]);
    for guest in [as_layer, in_rootfs] {
        let outcome = guest.boot();
        let lines: Vec<_> = outcome.reached().lines().collect();
        let expected = [
            "[/run/credentials/@encrypted]",
            "700",
            "400",
            "400",
            "a:one",
            "b:two",
            "ID=main",
        ];
        assert_eq!(lines[..expected.len()], expected, "{lines:?}");
        assert!(!lines.contains(&"extensions"), "{lines:?}");
    }
    guest.cmdline = "rd.timestamps=0";
    assert_eq!(guest.boot().reached(), "[]\n");
}

#[test]
fn signals_and_descriptors_are_those_from_the_kernel() {
    let scratch = Scratch::new();
    let [base, _] = two_layers(&scratch, "true");
    let mut guest = Guest::new(&[("layers/base", &base)]);
    // Without a shell, which would change them.
    guest.cmdline = "init=/bin/cat";
    guest.arguments = "/proc/self/status";
    let outcome = guest.boot();
    let console = outcome.reached();
    let signals = |name: &str| {
        let line = console.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    };
    assert_eq!(signals("SigBlk:"), 0, "{console}");
    assert_eq!(signals("SigCgt:"), 0, "{console}");
    // USR2 is set by tests/common; the C library reserves signal 32.
    assert_eq!(signals("SigIgn:") & 0x7fff_ffff, 0x800, "{console}");
    guest.cmdline = "init=/bin/ls";
    guest.arguments = "/proc/self/fd";
    // Descriptor 3 is the directory that ls reads.
    assert_eq!(guest.boot().reached(), "0\n1\n2\n3\n");
}

#[test]
fn the_kernels_filesystems_are_mounted_with_their_flags() {
    let scratch = Scratch::new();
    let [base, _] = two_layers(
        &scratch,
        "cat /proc/mounts; stat -c '%a %n' /run /dev/shm; readlink /dev/fd",
    );
    let outcome = Guest::new(&[("layers/base", &base)]).boot();
    let console = outcome.reached();
    for expected in [
        "sysfs /sys sysfs rw,nosuid,nodev,noexec,relatime 0 0\n",
        "devpts /dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=000 0 0\n",
        "tmpfs /dev/shm tmpfs rw,nosuid,nodev,relatime 0 0\n",
        "tmpfs /run tmpfs rw,nosuid,nodev,relatime,mode=755 0 0\n",
        " /run/initramfs/layers/0 erofs ro,relatime",
        "755 /run\n1777 /dev/shm\n/proc/self/fd\n",
    ] {
        assert!(
            console.replace(",inode64", "").contains(expected),
            "no {expected:?} in\n{console}"
        );
    }
    // The old rootfs is unmounted, and the mounts that /init made in it.
    assert!(!console.contains("rootfs"), "{console}");
}

#[test]
fn a_read_only_root_is_the_layer_itself_or_an_overlay_without_upper() {
    let scratch = Scratch::new();
    let script = "grep ' / ' /proc/mounts; touch /x || echo read-only";
    let [base, app] = two_layers(&scratch, script);
    let mut guest = Guest::new(&[("layers/base", &base)]);
    guest.cmdline = "rd.overlay.readonly";
    let one = guest.boot();
    let console = one.reached();
    assert!(
        console.contains(" / erofs ro") && console.ends_with("read-only\n"),
        "{console}"
    );

    let mut guest = Guest::new(&[("layers/a", &base), ("layers/b", &app)]);
    guest.cmdline = "rd.overlay.readonly";
    let two = guest.boot();
    let console = two.reached();
    assert!(
        console.contains("overlay / overlay ro") && !console.contains("upperdir"),
        "{console}"
    );
}

#[test]
fn the_root_has_the_attributes_of_the_lowest_layer_with_a_root() {
    let scratch = Scratch::new();
    let [_, app] = two_layers(&scratch, "true");
    let base = scratch.join("odd");
    system(&base, "stat -c '%a %u %g' /");
    fs::set_permissions(&base, fs::Permissions::from_mode(0o1751)).unwrap();
    std::os::unix::fs::chown(&base, Some(12), Some(34)).unwrap();
    let odd = mkfs(&base);
    // An archive without a member for its root has no attributes for it.
    let lowest = cpio(&[file("etc", b"")]);
    let files = [
        ("layers/0.cpio", &lowest[..]),
        ("layers/1", &odd),
        ("layers/2", &app),
    ];
    let outcome = Guest::new(&files).boot();
    assert_eq!(outcome.reached(), "1751 12 34\n");
    // One with a member has.
    let lowest = cpio(&[entry(".", 0o040700, b"")]);
    let files = [
        ("layers/0.cpio", &lowest[..]),
        ("layers/1", &odd),
        ("layers/2", &app),
    ];
    assert_eq!(Guest::new(&files).boot().reached(), "700 0 0\n");
}

#[test]
fn wrong_options_of_the_upper_are_reported_with_the_kernels_message() {
    let scratch = Scratch::new();
    let [base, _] = two_layers(&scratch, "grep upper /proc/mounts");
    let mut guest = Guest::new(&[("layers/base", &base)]);
    guest.cmdline = "rd.overlay=tmpfs:size=4m,nr_inodes=99";
    let outcome = guest.boot();
    assert!(
        outcome.reached().contains("size=4096k,nr_inodes=99"),
        "{}",
        outcome.console
    );

    guest.cmdline = "rd.overlay=tmpfs:sice=4m rd.shell=0 panic=-1";
    let outcome = guest.boot();
    assert_eq!(outcome.status.signal(), Some(1), "{}", outcome.log);
    outcome.says(
        "boot failed: make the tmpfs for writes (rd.overlay=): mount tmpfs: EINVAL: Invalid argument \
         (kernel: tmpfs: Unknown parameter 'sice')",
    );
}

#[test]
fn whiteouts_in_a_layer_hide_files_of_lower_layers() {
    let scratch = Scratch::new();
    let [base, _] = two_layers(&scratch, "ls /etc; cat /etc/which");
    let whiteout = cpio(&[dir("etc"), entry("etc/which", 0o020000, b"")]);
    let outcome = Guest::new(&[("layers/0", &base), ("layers/1.cpio", &whiteout)]).boot();
    assert!(
        outcome.console.contains("can't open '/etc/which'"),
        "{}",
        outcome.console
    );
}

#[test]
fn without_layers_the_initramfs_is_the_system() {
    let scratch = Scratch::new();
    system(&scratch.join("system"), "echo $$ here; ls -d /layers");
    let guest = Guest::new(&[]);
    run(Command::new("cp")
        .arg("-a")
        .arg(scratch.join("system/."))
        .arg(guest.scratch.join("rootfs")));
    let outcome = guest.boot();
    assert!(
        outcome.console.starts_with("1 here\n"),
        "{}",
        outcome.console
    );
    outcome.says("no layers: the initramfs itself is the system");
}

#[test]
fn a_root_that_the_kernel_has_stacked_is_used() {
    let mut guest = Guest::new(&[("initrd_layers/0/which", b"of the kernel\n")]);
    system(
        &guest.scratch.join("rootfs"),
        "cat /run/initramfs/layers/0/which; grep -c ' / overlay ' /proc/mounts",
    );
    guest.rootfs = "overlay";
    let outcome = guest.boot();
    assert_eq!(outcome.reached(), "of the kernel\n1\n");
    outcome.says("the kernel has stacked the layers already: its root is the system");
}

#[test]
fn a_damaged_layer_is_named_with_the_damage() {
    let scratch = Scratch::new();
    let [base, mut app] = two_layers(&scratch, "true");
    app[1100] ^= 1;
    let mut guest = Guest::new(&[("layers/base", &base), ("layers/app", &app)]);
    let outcome = failure(&mut guest, "panic=-1");
    outcome
        .says("boot failed: mount layer 0 (app): read the image: its superblock is damaged: checksum bad (stored 0x")
        .says("by loop: mount erofs: EBADMSG");
}

#[test]
fn an_init_that_cannot_be_executed_fails_the_boot_before_the_switch() {
    let scratch = Scratch::new();
    let base = scratch.join("base");
    system(&base, "true");
    symlink("/sbin/gone", base.join("dangling")).unwrap();
    fs::copy(base.join("sbin/init"), base.join("run/init")).unwrap();
    symlink("../run/init", base.join("hidden")).unwrap();
    fs::write(base.join("plain"), "#!/bin/sh\n").unwrap();
    fs::write(base.join("text"), "hello\n").unwrap();
    fs::write(base.join("script"), "#!/bin/perl\n").unwrap();
    for name in ["text", "script"] {
        fs::set_permissions(base.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut guest = Guest::new(&[("layers/base", &mkfs(&base))]);
    for (cmdline, expected) in [
        ("init=/none panic=-1", "find /none: ENOENT"),
        ("init=/dangling panic=-1", "find /dangling: ENOENT"),
        (
            "init=/plain panic=-1",
            "check /plain: not executable (mode 0644)",
        ),
        (
            "init=/text panic=-1",
            "check /text: neither an ELF program nor a #! script: it starts with \"hello\\n\"",
        ),
        (
            "init=/script panic=-1",
            "check /script: find its interpreter: find /bin/perl: ENOENT",
        ),
        ("init=/etc panic=-1", "check /etc: not a regular file"),
        (
            "init=/hidden panic=-1",
            "check /hidden: it is in /run, and the filesystem that is mounted there hides it",
        ),
    ] {
        failure(&mut guest, cmdline).says(&format!(
            "boot failed: find init in the new root: {expected}"
        ));
    }
}

#[test]
fn links_to_init_are_resolved_in_the_new_root() {
    let scratch = Scratch::new();
    let base = scratch.join("base");
    system(&base, "echo found");
    fs::rename(base.join("sbin/init"), base.join("bin/real")).unwrap();
    symlink("/bin/real", base.join("sbin/init")).unwrap();
    assert_eq!(
        Guest::new(&[("layers/base", &mkfs(&base))])
            .boot()
            .reached(),
        "found\n"
    );
}

#[test]
fn a_failure_follows_the_command_line() {
    let mut guest = Guest::new(&[("layers/broken", b"what is this")]);
    let outcome = failure(&mut guest, "rd.emergency=poweroff");
    assert_eq!(outcome.status.signal(), Some(2));
    outcome
        .says("boot failed: plan broken: read at 0x0: neither cpio nor EROFS")
        .says("switching off");
    assert_eq!(
        failure(&mut guest, "rd.emergency=reboot").status.signal(),
        Some(1)
    );
    failure(&mut guest, "panic=1").says("restarting in 1 s (panic=)");
    failure(&mut guest, "panic=-1").says("restarting");
}

/// Sets up PID 1 as `/init` does, and returns the command line, which determines how failures are handled.
fn set_up_pid_1() -> String {
    use layerinit::boot::{console, kmsg, rescue, setup};
    assert!(rustix::process::getpid().is_init());
    assert!(setup::mount_dev().is_none());
    console::open_streams().unwrap();
    kmsg::install();
    setup::mount_filesystems().unwrap();
    let cmdline = setup::read_cmdline().unwrap();
    rescue::set_options(&layerinit::plan::cmdline::Options::parse(&cmdline));
    cmdline
}

/// A guest whose PID 1 is the ignored test `name` of this program.
fn guest_of_test(name: &str) -> Guest {
    let mut guest = Guest::new(&[]);
    let program = std::env::current_exe().unwrap();
    copy_program(program, guest.scratch.join("rootfs/init"));
    guest.arguments = format!("boot::{name} --exact --ignored --nocapture").leak();
    guest
}

/// PID 1 of the test below, which is not `/init`, but handles failures like it.
#[test]
#[ignore = "is started as PID 1 by a_panic_is_handled_like_other_failures"]
fn panics_as_pid_1() {
    let cmdline = set_up_pid_1();
    layerinit::boot::rescue::catch_panics();
    let nothing: Vec<u8> = Vec::new();
    let _ = nothing[cmdline.len()];
}

#[test]
fn a_panic_is_handled_like_other_failures() {
    let mut guest = guest_of_test("panics_as_pid_1");
    let outcome = failure(&mut guest, "rd.emergency=poweroff");
    assert_eq!(outcome.status.signal(), Some(2));
    outcome
        .says("panicked at tests/suite/boot.rs")
        .says("index out of bounds: the len is 0 but the index is 21")
        .says("this is a bug in layerinit; please report the line above")
        .says("switching off");
    // A shell in the initramfs is started first.
    rescue_shell(&guest);
    guest.typed = "busybox echo typed $((6 * 7)); exit\n";
    let outcome = failure(&mut guest, "");
    outcome
        .says("starting a shell; exit to restart")
        .says("restarting");
    assert!(
        outcome.console.contains("typed 42\n"),
        "{}",
        outcome.console
    );
}

/// PID 1 of the test below: causes the fault that the command line names, in a thread.
#[test]
#[expect(unsafe_code, reason = "it faults on purpose")]
#[ignore = "is started as PID 1 by a_fault_is_handled_like_other_failures_but_without_a_shell"]
fn faults_as_pid_1() {
    let cmdline = set_up_pid_1();
    layerinit::boot::fault::install_handler();
    fn deep(depth: u64) -> u64 {
        let frame = std::hint::black_box([depth; 512]);
        match frame[7] {
            u64::MAX => 0,
            depth => deep(depth + 1) + frame[8],
        }
    }
    let work = move || match cmdline.split(' ').next() {
        Some("null") => {
            let nowhere = std::hint::black_box(0x18usize) as *const u8;
            // SAFETY: none: the fault is the test.
            let _ = unsafe { nowhere.read_volatile() };
        }
        Some("overflow") => assert_eq!(deep(0), 0),
        Some("abort") => std::process::abort(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: none: the fault is the test.
        Some("illegal") => unsafe { std::arch::asm!("ud2") },
        Some("bus") => {
            let file = File::create_new("/empty").unwrap();
            // SAFETY: a new mapping; the read is beyond the end of the file, and the fault is the test.
            let map = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    4096,
                    libc::PROT_READ,
                    libc::MAP_SHARED,
                    std::os::fd::AsRawFd::as_raw_fd(&file),
                    0,
                )
            };
            // SAFETY: none: the fault is the test.
            let _ = unsafe { map.cast::<u8>().read_volatile() };
        }
        other => panic!("{other:?}"),
    };
    let thread = std::thread::spawn(layerinit::sys::signal::with_signal_stack(work));
    let _ = thread.join();
}

#[test]
fn a_fault_is_handled_like_other_failures_but_without_a_shell() {
    let mut guest = guest_of_test("faults_as_pid_1");
    // /init starts no shell, although there is one.
    rescue_shell(&guest);
    for (cmdline, expected, signal) in [
        (
            "null rd.emergency=poweroff",
            "boot failed: SIGSEGV, address 0x18, instruction 0x",
            2,
        ),
        (
            "overflow rd.emergency=poweroff",
            "boot failed: SIGSEGV, address 0x",
            2,
        ),
        ("bus panic=-1", "boot failed: SIGBUS, address 0x", 1),
        ("illegal panic=1", "boot failed: SIGILL, address 0x", 1),
        (
            "abort rd.emergency=reboot",
            "boot failed: SIGABRT, raised by /init itself, instruction 0x",
            1,
        ),
    ] {
        let outcome = failure(&mut guest, cmdline);
        assert_eq!(outcome.status.signal(), Some(signal), "{}", outcome.log);
        outcome
            .says(expected)
            .says("this is a bug in layerinit, or bad memory");
        assert_eq!(outcome.log.matches("boot failed").count(), 1);
        assert!(!outcome.log.contains("shell"), "{}", outcome.log);
    }
}

#[test]
fn a_fault_signal_from_a_process_fails_the_boot() {
    let mut guest = Guest::new(&[("layers/broken", b"what is this")]);
    rescue_shell(&guest);
    for signal in ["SEGV", "BUS", "ILL", "FPE", "ABRT", "SYS", "TRAP"] {
        guest.typed = format!("kill -{signal} 1; sleep 100\n").leak();
        let outcome = failure(&mut guest, "rd.emergency=poweroff");
        assert_eq!(outcome.status.signal(), Some(2), "{}", outcome.log);
        outcome
            .says(&format!("boot failed: SIG{signal}, sent by process "))
            .says("switching off");
    }
}

#[test]
fn a_full_console_does_not_stop_the_boot() {
    let mut guest = Guest::new(&[("layers/broken", b"what is this")]);
    fs::write(guest.scratch.join("full"), "").unwrap();
    // At this level, the kernel log does not write errors to the console: /init does.
    fs::write(guest.scratch.join("printk"), "1 4 1 7\n").unwrap();
    let outcome = failure(&mut guest, "rd.emergency=poweroff");
    assert_eq!(outcome.status.signal(), Some(2), "{}", outcome.log);
    outcome
        .says("boot failed: plan broken")
        .says("switching off");
}

#[test]
fn the_boot_continues_with_a_root_that_the_rescue_shell_mounts() {
    let mut guest = Guest::new(&[("layers/broken", b"what is this")]);
    system(&guest.scratch.join("rootfs/other"), "echo by hand");
    rescue_shell(&guest);
    guest.typed = "busybox mkdir -p /sysroot; busybox mount -t tmpfs hand /sysroot; \
                   busybox cp -a /other/. /sysroot; exit\n";
    let outcome = guest.boot();
    assert!(
        outcome.reached().ends_with("by hand\n"),
        "{}",
        outcome.console
    );
    outcome
        .says("starting a shell. Mount a root at /sysroot and exit to boot it")
        .says("in the shell: reboot -f or poweroff -f");
}

#[test]
fn a_shell_without_input_ends_the_boot() {
    let scratch = Scratch::new();
    let base = scratch.join("base");
    system(&base, "true");
    let mut guest = Guest::new(&[("layers/base", &mkfs(&base))]);
    rescue_shell(&guest);
    // The shell reads the end of its input each time.
    guest.typed = "";
    let outcome = failure(&mut guest, "init=/none rd.emergency=poweroff");
    assert_eq!(outcome.status.signal(), Some(2));
    outcome
        .says("The root that failed is at /sysroot: exit to retry it")
        .says("switching off");
}

/// Adds a shell to the initramfs.
fn rescue_shell(guest: &Guest) {
    let bin = guest.scratch.join("rootfs/bin");
    copy_program(busybox(), bin.join("busybox"));
    symlink("busybox", bin.join("sh")).unwrap();
}

#[test]
fn a_break_starts_a_shell_and_the_boot_continues_after_it() {
    let scratch = Scratch::new();
    let [base, _] = two_layers(&scratch, "echo went on");
    let mut guest = Guest::new(&[("layers/base", &base)]);
    rescue_shell(&guest);
    guest.cmdline = "rd.break=plan,mount,switch";
    let outcome = guest.boot();
    assert!(
        outcome.reached().ends_with("went on\n"),
        "{}",
        outcome.console
    );
    for point in ["plan", "mount", "switch"] {
        outcome.says(&format!("rd.break={point}: exit the shell to continue"));
    }
}

#[test]
fn a_symbolic_link_as_mount_point_hides_nothing_else() {
    let scratch = Scratch::new();
    let script = "cat /etc/which; for d in /proc /sys /run /dev; do readlink $d; done; echo $(stat -c %F /proc /sys /run/ /dev); \
                  ls /proc/self/cmdline /run/initramfs/layerinit.json /sys/kernel/mm >/dev/null && echo there";
    let [base, app] = two_layers(&scratch, script);
    let odd = scratch.join("odd");
    fs::create_dir_all(odd.join("var/run")).unwrap();
    symlink("/etc", odd.join("proc")).unwrap();
    symlink("var/run", odd.join("run")).unwrap();
    symlink("nowhere", odd.join("dev")).unwrap();
    fs::write(odd.join("sys"), "a file").unwrap();
    let mut guest = Guest::new(&[
        ("layers/0", &base),
        ("layers/1", &app),
        ("layers/2", &mkfs(&odd)),
    ]);
    let outcome = guest.boot();
    assert_eq!(
        outcome.reached(),
        "app\nvar/run\ndirectory directory directory directory\nthere\n",
        "{}",
        outcome.log
    );
    outcome
        .says("/proc of the new root: it is a symbolic link to /etc, which has another use; replaced by a directory")
        .says("/sys of the new root: it is neither a directory nor a link to one: ENOTDIR: Not a directory; replaced")
        .says("/dev of the new root: it is neither a directory nor a link to one: ENOENT: No such file or directory; replaced");

    // /init writes nothing to a root that is not an overlay.
    guest.cmdline = "rd.overlay.readonly init=/bin/cat -- /etc/which";
    guest.arguments = "/etc/which";
    let outcome = guest.boot();
    assert!(outcome.console.contains("app\n"), "{}", outcome.console);
    outcome.says("the new root will lack /proc");
}

#[test]
fn a_symbolic_link_as_mount_point_in_the_initramfs_hides_nothing_else() {
    let scratch = Scratch::new();
    let [base, _] = two_layers(&scratch, "stat -c %F /sys /run");
    let guest = Guest::new(&[
        ("layers/0", &base),
        ("etc/modprobe.d/x.conf", b"nonsense here\n"),
        ("run", b"a file"),
    ]);
    symlink("etc", guest.scratch.join("rootfs/sys")).unwrap();
    let outcome = guest.boot();
    assert_eq!(outcome.reached(), "directory\ndirectory\n");
    outcome
        .says("prepare mount point /sys: it is a symbolic link to /etc; replaced by a directory")
        .says("prepare mount point /run: it is not a directory; replaced by a directory");
}

#[test]
fn world_writable_directories_are_reported_up_to_a_limit() {
    let scratch = Scratch::new();
    let [base, _] = two_layers(&scratch, "stat -c %a /etc");
    // As GRUB makes them for newc:etc/conf.d/x:FILE.
    let names: Vec<_> = (0..9).map(|i| format!("etc/{i}")).collect();
    let mut entries = vec![
        entry("etc", 0o040777, b""),
        entry("tmp", 0o041777, b""),
        entry("srv", 0o040775, b""),
    ];
    entries.extend(names.iter().map(|name| entry(name, 0o040722, b"")));
    let archive = cpio(&entries);
    let outcome = Guest::new(&[("layers/0", &base), ("layers/1.cpio", &archive)]).boot();
    assert_eq!(outcome.reached(), "777\n");
    outcome
        .says("directory /etc: mode 0777: world-writable; give it mode 0755 in the archive")
        .says("directory /etc/3: mode 0722: world-writable")
        .says("more directories are world-writable");
    for absent in ["/etc/4:", "/tmp:", "/srv:"] {
        assert!(!outcome.log.contains(absent), "{}", outcome.log);
    }
}

#[test]
fn only_a_watchdog_is_written_to() {
    let scratch = Scratch::new();
    let [base, _] = two_layers(&scratch, "echo here");
    let mut guest = Guest::new(&[("layers/base", &base)]);
    // In these tests, the console is a file.
    guest.cmdline = "rd.watchdog=/dev/console";
    let outcome = guest.boot();
    assert_eq!(outcome.reached(), "here\n");
    outcome.says("/dev/console is not a watchdog: it is a regular file");
    guest.cmdline = "rd.watchdog=/dev/null";
    let outcome = guest.boot();
    assert_eq!(outcome.reached(), "here\n");
    outcome.says("/dev/null is not a watchdog: WDIOC_GETSUPPORT gives ENOTTY");
}

#[test]
fn missing_mount_points_are_created_or_skipped() {
    let scratch = Scratch::new();
    let base = scratch.join("base");
    system(&base, "ls -d /proc /dev /sys /run; echo done");
    for name in ["proc", "dev", "sys", "run"] {
        fs::remove_dir(base.join(name)).unwrap();
    }
    let image = mkfs(&base);
    let mut guest = Guest::new(&[("layers/base", &image)]);
    assert_eq!(guest.boot().reached(), "/dev\n/proc\n/run\n/sys\ndone\n");
    guest.cmdline = "rd.overlay.readonly";
    let outcome = guest.boot();
    assert!(outcome.reached().ends_with("done\n"), "{}", outcome.console);
    outcome.says("the new root will lack /run");
}

#[test]
fn sixty_four_layers_are_stacked_in_order() {
    let scratch = Scratch::new();
    let [base, _] = two_layers(
        &scratch,
        "cat /etc/top; ls /run/initramfs/layers | grep -c .",
    );
    let mut files = vec![("layers/000".to_string(), base)];
    for i in 1..64 {
        let directory = scratch.join(&format!("l{i}"));
        fs::create_dir_all(directory.join("etc")).unwrap();
        fs::write(directory.join("etc/top"), format!("{i}\n")).unwrap();
        files.push((format!("layers/{i:03}"), mkfs(&directory)));
    }
    let files: Vec<_> = files
        .iter()
        .map(|(name, data)| (name.as_str(), &data[..]))
        .collect();
    assert_eq!(Guest::new(&files).boot().reached(), "63\n64\n");
}

#[test]
fn many_archives_in_a_row_between_images_are_stacked_in_order() {
    let scratch = Scratch::new();
    let script = "cat /etc/which /etc/top; ls /etc/d | grep -c .; ls /run/initramfs; ls /run/initramfs/layers/20/etc/d; \
                  echo >/run/initramfs/layers/20/x; echo $?";
    let [base, app] = two_layers(&scratch, script);
    let mut files = vec![("layers/000".to_string(), base)];
    for i in 1..=40 {
        let (top, name) = (format!("{i}\n"), format!("etc/d/{i}"));
        let mut entries = vec![
            dir("etc"),
            dir("etc/d"),
            file(&name, b""),
            file("etc/top", top.as_bytes()),
        ];
        // A file of a layer that /init has merged before.
        if i == 39 {
            entries.push(entry("etc/d/3", 0o020000, b""));
        }
        files.push((format!("layers/{i:03}"), cpio(&entries)));
    }
    files.push(("layers/041".to_string(), app));
    files.push((
        "layers/042".to_string(),
        cpio(&[dir("etc"), file("etc/d/x", b"")]),
    ));
    let files: Vec<_> = files
        .iter()
        .map(|(name, data)| (name.as_str(), &data[..]))
        .collect();
    let outcome = Guest::new(&files).boot();
    let console = outcome.reached();
    assert!(
        console.starts_with("app\n40\n40\nlayerinit.json\nlayers\nupper\n20\n"),
        "{console}"
    );
    assert!(console.contains("Read-only file system\n1\n"), "{console}");
}

#[test]
fn the_report_describes_the_boot() {
    let scratch = Scratch::new();
    let [base, app] = two_layers(&scratch, "cat /run/initramfs/layerinit.json");
    let mut guest = Guest::new(&[("layers/a.erofs", &base), ("layers/b.erofs", &app)]);
    guest.cmdline = "rd.layers.only=0 rd.overlay=tmpfs:size=1m";
    let report = guest.boot();
    let report = report.reached();
    let length = base.len();
    for expected in [
        format!(
            "\"layers\":[{{\"number\":0,\"name\":\"a.erofs\",\"mount\":\"/run/initramfs/layers/0\",\"offset\":0,\
             \"length\":{length},\"type\":\"erofs\",\"backend\":\"loop\"}}],\"root\":\"overlay\",\"upper\":{{\"overlay\":\"tmpfs:size=1m\",\"type\":\"tmpfs\",\"node\":null,\
             \"mount\":\"/run/initramfs/upper\",\"directory\":\"/run/initramfs/upper\",\"refused\":null}}"
        ),
        "\"modules\":[],\"warnings\":[],\"init\":\"/sbin/init\",\"freed_bytes\":".into(),
        "\"steps_us\":{\"setup\":".into(),
    ] {
        assert!(report.contains(&expected), "no {expected} in\n{report}");
    }
}

/// The report has each warning of the log, in order, and nothing else.
#[test]
fn the_report_has_every_warning() {
    let scratch = Scratch::new();
    let [base, _] = two_layers(&scratch, "cat /run/initramfs/layerinit.json");
    let mut guest = Guest::new(&[("layers/a.erofs", &base), ("layers/X/y", b"")]);
    symlink("/etc", guest.scratch.join("rootfs/run")).unwrap();
    fs::create_dir(guest.scratch.join("rootfs/etc")).unwrap();
    rescue_shell(&guest);
    guest.cmdline = "rd.watchdog=/dev/null rd.layers.only=0,7 rd.break=plan";
    let outcome = guest.boot();
    let report = outcome.reached();
    let (_, warnings) = report.split_once("\"warnings\":").unwrap();
    let (warnings, _) = warnings.split_once(",\"init\"").unwrap();
    assert_eq!(
        warnings,
        "[\"prepare mount point /run: it is a symbolic link to /etc; replaced by a directory\",\
         \"open watchdog /dev/null: /dev/null is not a watchdog: WDIOC_GETSUPPORT gives ENOTTY: Not a \
         typewriter\",\
         \"/layers/X: not a regular file; not used\",\
         \"rd.layers.only=7: there is no such layer\"]"
    );
}

#[test]
fn started_by_hand_it_prints_what_it_is_and_changes_nothing() {
    let init = env!("CARGO_BIN_EXE_init");
    let output = Command::new(init).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("layerinit 0.1.0: the /init of an initramfs."),
        "{text}"
    );
    assert!(text.contains("README.md"), "{text}");
    let output = Command::new(init).arg("--version").output().unwrap();
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(0), &b"layerinit 0.1.0\n"[..])
    );
}

#[test]
fn the_program_is_static_and_needs_no_interpreter() {
    let mut program = Vec::new();
    File::open(env!("CARGO_BIN_EXE_init"))
        .unwrap()
        .read_to_end(&mut program)
        .unwrap();
    // 64-bit program headers of type PT_INTERP (3) and the dynamic section's DT_NEEDED (1).
    let field = |at: usize, n: usize| {
        program[at..at + n]
            .iter()
            .rev()
            .fold(0u64, |v, b| v << 8 | u64::from(*b)) as usize
    };
    let (phoff, phentsize, phnum) = (field(32, 8), field(54, 2), field(56, 2));
    for header in (0..phnum).map(|i| phoff + i * phentsize) {
        let (kind, offset, size) = (
            field(header, 4),
            field(header + 8, 8),
            field(header + 32, 8),
        );
        assert_ne!(kind, 3, "it names an interpreter");
        if kind == 2 {
            for entry in (offset..offset + size).step_by(16) {
                assert_ne!(field(entry, 8), 1, "it needs a shared library");
            }
        }
    }
    assert_eq!(
        field(16, 2),
        2,
        "it has a fixed address: nothing to relocate"
    );
    assert!(fs::metadata(env!("CARGO_BIN_EXE_init")).unwrap().mode() & 0o111 != 0);
}

#[test]
fn an_unreadable_init_is_an_error_and_not_skipped() {
    let scratch = Scratch::new();
    let tree = scratch.join("system");
    system(&tree, "echo never");
    fs::copy(tree.join("sbin/init"), tree.join("etc/init")).unwrap();
    let image = ext4_of(&tree);
    // The directory entry names a cleared inode.
    run(Command::new("debugfs").args(["-w", "-R", "clri /sbin/init", image.path()]));
    let disk = Loop::attach(&image);
    let mut guest = Guest::new(&[]);
    let outcome = failure(&mut guest, format!("root={} panic=-1", disk.0).leak());
    outcome.says("boot failed: find init in the new root: find /sbin/init: EUCLEAN");
}

/// systemd reads this link to find the disk of `/`, which it cannot see through an overlay.
#[test]
fn systemd_learns_the_device_below_the_overlay() {
    let scratch = Scratch::new();
    let script = "readlink /run/systemd/volatile-root || echo no link";
    system(&scratch.join("system"), script);
    let tree = scratch.join("system");
    let image = ext4_of(&tree);
    let disk = Loop::attach(&image);
    let number = fs::metadata(&disk.0).unwrap().rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let mut guest = Guest::new(&[]);
    for (overlay, expected) in [
        ("rd.overlay", format!("/dev/block/{major}:{minor}\n")),
        ("", "no link\n".into()),
    ] {
        guest.cmdline = format!("root={} {overlay} panic=-1", disk.0).leak();
        assert_eq!(guest.boot().reached(), expected, "{overlay}");
    }
}
