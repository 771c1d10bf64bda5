//! README.md and docs/*.md: links have targets, and all commands work.
//!
//! Blocks of shell commands begin with ```` ```sh ````. Those with a `layerinit` command run in a directory
//! of test trees, with a fake machine in place of the reader's.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{OWN_INIT, copy_program};
use crate::support::{said, scratch, tool};
use layerinit::plan::words::DOCS;
use layerinit::tool::cli;

/// The fake machine: its paths, its kernel, and stand-ins for programs. `layerinit` is the tool; it writes
/// each call as one line to the file `calls`.
const MACHINE: &str = r#"
set -euo pipefail
PATH=$PWD/bin:$PATH
layerinit() {
    local word words=()
    for word; do
        case $word in
        /) word=machine ;;
        --host) word=--host=machine ;;
        /mnt) word=base ;;
        /boot/*) word=machine$word ;;
        /*) echo "what is $word on this machine?" >&2; return 1 ;;
        esac
        words+=("$word")
        # systemd's stub is not on every machine.
        [[ $word != --uki ]] || words=("${words[0]}" --uki-stub stub "${words[@]:1}")
    done
    BUSYBOX=${BUSYBOX:+base/sbin/init} "$LAYERINIT" "${words[@]}"
    echo "${words[*]}" >>calls
}
uname() { echo 6.12-test; }
skopeo() {
    local image=${*: -1}
    image=${image#oci:}
    tar -C base -cf base.tar .
    umoci init --layout "${image%:*}"
    umoci new --image "$image"
    umoci raw add-layer --image "$image" base.tar
} >&2
export XDG_CACHE_HOME=$PWD/cache
for name in cargo mount qemu-system-x86_64; do eval "$name() { :; }"; done
"#;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages and their paths in the repository.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(repository().join("docs")).unwrap();
    let mut paths: Vec<_> = docs
        .map(|entry| Path::new("docs").join(entry.unwrap().file_name()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .chain([PathBuf::from("README.md")])
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(repository().join(&path)).unwrap();
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// Splits a page into the text outside of blocks, and the blocks with their languages.
fn split(page: &str) -> (String, Vec<(&str, String)>) {
    let (mut text, mut blocks, mut open) = (String::new(), Vec::new(), None);
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language, String::new())),
            (Some(""), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, block))) => *block += &format!("{line}\n"),
            (None, None) => text += &format!("{line}\n"),
            (Some(_), Some(_)) => panic!("a block inside a block: {line}"),
        }
    }
    assert!(open.is_none(), "a block is not closed");
    (text, blocks)
}

fn shell_blocks(page: &str) -> Vec<String> {
    let blocks = split(page).1.into_iter();
    blocks
        .filter(|(language, _)| *language == "sh")
        .map(|(_, block)| block)
        .collect()
}

/// The `code` in a text.
fn spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The anchors of a page, as GitHub derives them from the headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let (text, _) = split(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// The targets of the links of a page.
fn links(page: &str) -> Vec<String> {
    let (text, _) = split(page);
    let code: String = text.split('`').step_by(2).collect();
    let ends = code.split("](").skip(1);
    ends.map(|rest| rest.split(')').next().unwrap().to_string())
        .collect()
}

/// Runs a script in a directory; returns standard output, standard error and the status.
fn bash(directory: &Path, options: &[&str], script: &str) -> (String, String, i32) {
    let mut child = Command::new("bash")
        .args(options)
        .current_dir(directory)
        .env("LAYERINIT", env!("CARGO_BIN_EXE_layerinit"))
        .env_remove("SOURCE_DATE_EPOCH")
        .env("LAYERINIT_INIT", "init")
        .env_remove("BUSYBOX")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bash runs");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(script.as_bytes()).unwrap();
    drop(stdin);
    said(&child.wait_with_output().unwrap())
}

/// A directory with what the commands of a page need: directories as layers, and a machine.
fn workshop(page: &Path) -> PathBuf {
    let name = page.file_stem().unwrap().to_str().unwrap();
    let directory = scratch(&format!("docs-{name}"));
    for path in [
        "base/sbin",
        "base/etc",
        "base/dev",
        "base/proc",
        "base/sys",
        "base/run",
        "app/usr/bin",
        "etc/etc",
        "machine/boot",
        "machine/lib/modules/6.12-test/kernel",
        "machine/sys/class/block",
        "machine/sys/devices",
        "machine/proc",
        "qemu/kernel",
        "initramfs-spec",
        "bin",
    ] {
        fs::create_dir_all(directory.join(path)).unwrap();
    }
    // As much of a program as the tool reads: the one that cargo builds for tests has 48 MB.
    for (path, program) in [("base/sbin/init", &b"\x7fELF"[..]), ("init", OWN_INIT)] {
        fs::write(directory.join(path), program).unwrap();
        fs::set_permissions(directory.join(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(directory.join("app/usr/bin/app"), "app").unwrap();
    fs::write(directory.join("etc/etc/hostname"), "test").unwrap();
    for name in ["loader", "shell"] {
        let spec = repository().join("initramfs-spec").join(name);
        fs::copy(spec, directory.join("initramfs-spec").join(name)).unwrap();
    }
    for name in ["profile", "kernel/build"] {
        copy_program("/bin/true", directory.join("qemu").join(name));
    }
    // Stand-ins for the programs that the tool runs.
    copy_program("/bin/true", directory.join("bin/qemu-system-x86_64"));
    for (name, script) in [
        (
            "ukify",
            "for word; do case $word in --output=*) cp \"$initrd\" \"${word#*=}\";; --initrd=*) initrd=${word#*=};; esac; done",
        ),
        ("grub-mkrescue", "genisoimage -quiet -o \"$2\" \"$3\""),
    ] {
        let path = directory.join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(directory.join("board.dtb"), "no tree").unwrap();
    let machine = directory.join("machine");
    let mut kernel = vec![0; 1024];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    fs::write(machine.join("boot/vmlinuz-6.12-test"), kernel).unwrap();
    let modules = machine.join("lib/modules/6.12-test");
    let mut dep = String::new();
    for name in [
        "erofs",
        "overlay",
        "loop",
        "virtio_pci",
        "virtio_blk",
        "virtio_net",
        "virtio_scsi",
        "sr_mod",
        "ext4",
        "vfat",
        "isofs",
        "nls_cp437",
        "nls_iso8859_1",
        "nls_ascii",
        "nls_utf8",
    ] {
        fs::write(modules.join(format!("kernel/{name}.ko")), "module").unwrap();
        dep += &format!("kernel/{name}.ko:\n");
    }
    fs::write(modules.join("modules.dep"), dep).unwrap();
    fs::write(modules.join("modules.alias"), "alias fs-ext4 ext4\n").unwrap();
    // A layer with a kernel.
    let bootc = directory.join("bootc/usr/lib");
    fs::create_dir_all(&bootc).unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(machine.join("lib/modules")).arg(&bootc);
    assert!(copy.status().unwrap().success());
    fs::copy(
        machine.join("boot/vmlinuz-6.12-test"),
        bootc.join("modules/6.12-test/vmlinuz"),
    )
    .unwrap();
    fs::write(machine.join("proc/mounts"), "/dev/vda1 / ext4 rw 0 0\n").unwrap();
    let options = "BLK_DEV_INITRD PROC_FS SYSFS TMPFS TMPFS_XATTR DEVTMPFS OVERLAY_FS EROFS_FS EROFS_FS_XATTR \
                   EROFS_FS_ZIP BLK_DEV_LOOP BINFMT_ELF BINFMT_SCRIPT NET FUTEX";
    let config: String = options
        .split(' ')
        .map(|name| format!("CONFIG_{name}=y\n"))
        .collect();
    fs::write(machine.join("boot/config-6.12-test"), config).unwrap();
    // A page may use the image of another page.
    let image = "build -o initrd.img --layer base --layer app".split(' ');
    let output = tool(&directory)
        .env("LAYERINIT_INIT", "init")
        .args(image)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    directory
}

#[test]
fn the_readme_is_short() {
    let size = fs::metadata(repository().join("README.md")).unwrap().len();
    assert!(size <= 8192, "README.md has {size} bytes");
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut seen = 0;
    for (path, page) in pages() {
        for link in links(&page) {
            assert!(!link.contains("://"), "{}: {link}", path.display());
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => path.clone(),
                _ => path.parent().unwrap().join(file),
            };
            let target = repository().join(target);
            assert!(target.exists(), "{}: no file for {link}", path.display());
            if !anchor.is_empty() {
                let known = anchors(&fs::read_to_string(target).unwrap());
                let there = known.contains(anchor);
                assert!(
                    there,
                    "{}: no heading for {link}: {known:?}",
                    path.display()
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} links were found");
}

/// Checks the paths of files of this repository in `code` and in shell blocks.
#[test]
fn files_that_are_named_exist() {
    let folders = [
        "docs/",
        "fuzz/",
        "initramfs-spec/",
        "qemu/",
        "src/",
        "tests/",
        ".ci/",
        ".cargo/",
    ];
    let mut seen = 0;
    for (path, page) in pages() {
        let (text, _) = split(&page);
        let blocks = shell_blocks(&page).join(" ");
        let words = spans(&text).into_iter().flat_map(str::split_whitespace);
        let words = words.chain(blocks.split_whitespace());
        for word in words.filter(|word| folders.iter().any(|folder| word.starts_with(folder))) {
            let file = word.split(['*', '?', '{']).next().unwrap();
            assert!(
                repository().join(file).exists(),
                "{}: {word}",
                path.display()
            );
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} names were found");
}

#[test]
fn shell_blocks_are_shell() {
    for (path, page) in pages() {
        for block in shell_blocks(&page) {
            let (_, stderr, status) = bash(repository(), &["-n"], &block);
            assert_eq!(
                (stderr.as_str(), status),
                ("", 0),
                "{}:\n{block}",
                path.display()
            );
        }
    }
}

#[test]
fn commands_run() {
    let command = |line: &&str| {
        let mut words = line.split(' ').skip_while(|word| word.contains('='));
        words.next() == Some("layerinit")
    };
    let mut pages_with_commands = 0;
    for (path, page) in pages() {
        let blocks = shell_blocks(&page);
        let blocks: Vec<_> = blocks
            .iter()
            .filter(|block| block.lines().any(|line| command(&line)))
            .collect();
        if blocks.is_empty() {
            continue;
        }
        let directory = workshop(&path);
        for block in &blocks {
            let (stdout, stderr, status) = bash(&directory, &[], &format!("{MACHINE}\n{block}"));
            assert_eq!(
                status,
                0,
                "{}:\n{block}\n{stdout}\n{stderr}",
                path.display()
            );
        }
        let shown: usize = blocks
            .iter()
            .map(|block| block.lines().filter(command).count())
            .sum();
        let calls = fs::read_to_string(directory.join("calls")).unwrap();
        assert_eq!(calls.lines().count(), shown, "{}: {calls}", path.display());
        pages_with_commands += 1;
    }
    assert!(
        pages_with_commands >= 5,
        "{pages_with_commands} pages have commands"
    );
}

/// The rows take their configuration from docs/bootloaders.md. A block of it that `commands_run` does not run is one
/// that a function of qemu/loaders.sh or qemu/images.sh asks for, and each boot loader has a row.
#[test]
fn rows_boot_the_examples_of_boot_loaders() {
    let read = |file| fs::read_to_string(repository().join(file)).unwrap();
    let scripts = read("qemu/loaders.sh") + &read("qemu/images.sh");
    let asked_for = |heading: &str, number: usize| {
        let name = match heading.contains(' ') {
            true => format!("'{heading}'"),
            false => heading.into(),
        };
        let first = number == 1;
        let calls = ["page", "example bootloaders"].map(|call| match first {
            true => format!("{call} {name}"),
            false => format!("{call} {name} {number}"),
        });
        let another = |rest: &str| {
            first && rest.starts_with(' ') && rest[1..].starts_with(|c: char| c.is_ascii_digit())
        };
        let ends = |rest: &str| rest.starts_with([' ', '\n', ')', ';']) && !another(rest);
        let mut found = calls
            .iter()
            .flat_map(|call| scripts.split(call.as_str()).skip(1));
        found.any(ends)
    };
    let page = read("docs/bootloaders.md");
    let (mut heading, mut number, mut seen) = ("", 0, 0);
    let mut open: Option<Vec<&str>> = None;
    for line in page.lines() {
        match (line.starts_with("```"), open.take()) {
            (true, None) => open = Some(Vec::new()),
            (true, Some(block)) => {
                number += 1;
                if !block.iter().any(|line| line.starts_with("layerinit ")) {
                    assert!(
                        asked_for(heading, number),
                        "no row boots block {number} of {heading}"
                    );
                    seen += 1;
                }
            }
            (false, Some(mut block)) => {
                block.push(line);
                open = Some(block);
            }
            (false, None) if line.starts_with('#') => {
                (heading, number) = (line.trim_start_matches('#').trim(), 0);
            }
            (false, None) => {}
        }
    }
    assert!(seen > 12, "only {seen} examples were found");
    let rows = read("qemu/rows");
    let mut loaders = 0;
    for line in scripts.lines() {
        let name = line
            .strip_prefix("loader_")
            .and_then(|rest| rest.split_once("() {"));
        if let Some((name, _)) = name.filter(|(name, _)| *name != "packages") {
            assert!(
                rows.contains(&format!("| loader={name}")),
                "no row has loader={name}"
            );
            loaders += 1;
        }
    }
    assert!(loaders > 12, "only {loaders} boot loaders were found");
}

/// The help of a word in Markdown, with literal text as `code`.
fn markdown(help: &str) -> String {
    let typed = |word: &str| {
        word.contains(['=', '_', '/'])
            || DOCS
                .iter()
                .any(|doc| doc.name == word && word.contains('.'))
    };
    let words = help.split(' ').map(|word| {
        let text = word.trim_matches(|c| matches!(c, '(' | ')' | ',' | ';' | ':'));
        // A full stop, but not an ellipsis.
        let text = match text.strip_suffix('.') {
            Some(text) if !text.ends_with('.') => text,
            _ => text,
        };
        match typed(text) {
            true => word.replacen(text, &format!("`{text}`"), 1),
            false => word.into(),
        }
    });
    words.collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// The table of a section of docs/cmdline.md.
fn word_table(section: &str) -> String {
    let mut table = String::from("| word | default | meaning |\n|---|---|---|\n");
    for doc in DOCS.iter().filter(|doc| doc.section == section) {
        let word = format!("{}{}", doc.name, doc.value).replace('|', "\\|");
        let (default, help) = (markdown(doc.default), markdown(doc.help));
        table += &format!("| `{word}` | {default} | {help} |\n");
    }
    table
}

/// The tables in docs/cmdline.md are those of `DOCS`. With UPDATE_DOCS=1, writes them.
#[test]
fn the_page_on_the_command_line_has_every_word() {
    let path = repository().join("docs/cmdline.md");
    let page = fs::read_to_string(&path).unwrap();
    let sections: BTreeSet<_> = DOCS.iter().map(|doc| doc.section).collect();
    let (mut expected, mut section, mut shown) = (String::new(), "", BTreeSet::new());
    for line in page.lines() {
        section = line.strip_prefix("## ").unwrap_or(section);
        if !line.starts_with('|') || !sections.contains(section) {
            expected += &format!("{line}\n");
        } else if shown.insert(section) {
            expected += &word_table(section);
        }
    }
    assert_eq!(
        shown, sections,
        "a section without a table in docs/cmdline.md"
    );
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
        return;
    }
    assert!(
        page == expected,
        "docs/cmdline.md differs from src/plan/words.rs: UPDATE_DOCS=1 cargo test --test suite \
         docs::the_page_on_the_command_line updates it"
    );
}

/// The words into which bash splits a command.
fn words(example: &str) -> Vec<String> {
    let script = format!(
        "uname() {{ echo 6.12; }}\njq() {{ cat; }}\nssh() {{ cat; }}\nlayerinit() {{ printf '%s\\n' layerinit \"$@\"; }}\n{example}\n"
    );
    let (stdout, stderr, status) = bash(repository(), &[], &script);
    assert_eq!((stderr.as_str(), status), ("", 0), "{example}");
    stdout.lines().map(String::from).collect()
}

#[test]
fn examples_of_the_help_parse() {
    let mut seen = 0;
    for verb in cli::command().get_subcommands() {
        let help = verb
            .get_after_help()
            .expect("every command has examples")
            .to_string();
        let (_, examples) = help
            .split_once("Examples:\n")
            .expect("the examples come last");
        for example in examples.replace("\\\n", "").lines() {
            let words = words(example.trim());
            assert_eq!(words[1], verb.get_name(), "{example}");
            if let Err(error) = cli::parse(&words) {
                panic!("{example}: {error}");
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} examples were found");
}

/// Checks that commands `layerinit VERB --option` in the text exist.
#[test]
fn commands_in_the_text_have_their_options() {
    let tool = cli::command();
    let mut seen = 0;
    for (path, page) in pages() {
        let (text, _) = split(&page);
        for span in spans(&text) {
            let span = span.replace('\n', " ");
            let Some(rest) = span.strip_prefix("layerinit ") else {
                continue;
            };
            let mut words = rest.split(' ');
            let name = words.next().unwrap();
            if name.chars().all(|c| c.is_ascii_uppercase()) {
                continue; // COMMAND
            }
            let verb = tool.find_subcommand(name);
            let verb = verb.unwrap_or_else(|| panic!("{}: `{span}`", path.display()));
            for option in words.filter_map(|word| word.strip_prefix("--")) {
                let option = option.split('=').next().unwrap();
                let known = verb
                    .get_arguments()
                    .any(|arg| arg.get_long() == Some(option));
                assert!(known, "{}: `{span}`: no --{option}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} commands were found");
}
