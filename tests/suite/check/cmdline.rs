//! `--cmdline`: words that /init or the kernel refuses.

use super::image::{NEEDS, of_image, system};
use super::*;

#[test]
fn words_that_the_kernel_refuses_are_reported() {
    let directory = scratch("check-words");
    let image = |layer: &[u8]| {
        let mut files = vec![init(), dir("layers")];
        files.push(file("layers/base", layer));
        cpio(&files)
    };
    let with = |cmdline: &str| {
        let image = image(&cpio(&[dir("sbin"), program("sbin/init")]));
        check(&directory, &image, &["--cmdline", cmdline])
            .0
            .join("\n")
    };
    for option in ["siez=10%", "size=banana", "size=", "size=10x", "noexec"] {
        let lines = with(&format!("rd.overlay=tmpfs:mode=755,{option}"));
        let told = format!("warning: command line: tmpfs option \"{option}\": unknown here");
        assert!(lines.contains(&told), "{lines}");
    }
    for options in [
        "size=10%,nr_inodes=1k,huge=advise,noswap,inode64",
        "nr_blocks=0x100",
    ] {
        let lines = with(&format!("rd.overlay=tmpfs:{options}"));
        assert!(!lines.contains("tmpfs option"), "{lines}");
    }
    let erofs = image(&erofs(1, ""));
    for (cmdline, told) in [
        ("rd.layers.backend=file", true),
        ("rd.layers.backend=file rootfstype=ramfs", false),
        ("rd.layers.backend=file,loop", false),
        ("", false),
    ] {
        let (lines, _) = check(&directory, &erofs, &["--cmdline", cmdline]);
        let lines = lines.join("\n");
        assert_eq!(
            lines.contains("names \"file\" alone"),
            told,
            "{cmdline}: {lines}"
        );
    }
}

#[test]
fn check_reads_the_command_line() {
    let image = aligned(system(vec![init()]), &erofs_with_init(""));
    let (stdout, status) = of_image(
        "cmdline",
        &image,
        &["--cmdline", "rd.layers.skip=app rd.shell=maybe"],
    );
    assert_eq!(
        (stdout, status),
        (
            format!(
                "warning: command line: rd.shell=maybe: neither yes nor no; ignored\n\
                 warning: command line: rd.layers.skip=app: there is no such layer\n\
                 warning: command line: without retain_initrd the layers after the loader are lost, unless the \
                 kernel has CONFIG_BLK_DEV_RAM=y\n\
                 image: 0 errors, 3 warnings; 1 layer; {NEEDS} retain_initrd\n"
            ),
            0
        )
    );
    for (words, line) in [
        ("root=UUIID=1", "warning: command line: read root=UUIID=1: "),
        (
            "rd.layers.backend=file",
            "warning: layer 0 (initrd+0x1000): rd.layers.backend= names none that can reach /sys/firmware/initrd\n",
        ),
        (
            "rd.driver.blacklist=erofs",
            "warning: command line: rd.driver.blacklist=erofs: no EROFS layer can be mounted, unless the kernel has it \
             built in\n",
        ),
    ] {
        let words = format!("retain_initrd {words}");
        let (stdout, _) = of_image("words", &image, &["--cmdline", &words]);
        assert!(stdout.starts_with(line), "{stdout}");
    }
    let alone = cpio(&[init()]);
    let (stdout, status) = of_image("alone", &alone, &[]);
    let warning = "warning: image: there are no layers, and no init but the loader: it boots only with root=\n";
    assert!(stdout.starts_with(warning), "{stdout}");
    assert_eq!(status, 0);
    let (stdout, status) = of_image("alone", &alone, &["--cmdline", "init=/bin/x"]);
    let error = "error: command line: there are no layers, and the initramfs has no other init: /bin/x: not there\n";
    assert!(stdout.starts_with(error), "{stdout}");
    assert_eq!(status, 1);
    let (stdout, status) = of_image(
        "rdinit",
        &image,
        &["--cmdline", "rdinit=/sbin/early retain_initrd"],
    );
    assert!(
        stdout.starts_with("error: /sbin/early: no archive that the kernel unpacks has it"),
        "{stdout}"
    );
    assert_eq!(status, 1);
}
