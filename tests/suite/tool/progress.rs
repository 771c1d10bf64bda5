//! What long steps show on standard error: bars on a terminal, else a line for each layer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{erofs_with_init, said, scratch, tool};

/// A directory with a layer, and the image `list.img` of it, whose loader lists it.
fn workshop(name: &str) -> PathBuf {
    let directory = scratch(name);
    fs::create_dir(directory.join("dir")).unwrap();
    fs::write(directory.join("dir/file"), [7; 3000]).unwrap();
    fs::write(directory.join("small.erofs"), erofs_with_init("small")).unwrap();
    fs::write(directory.join("init"), "#!/init\n").unwrap();
    let build = ["build", "--init", "init", "--layer", "small.erofs"];
    let more = ["--layer", "dir", "--as", "cpio", "--verify"];
    let words = [&build[..], &more, &["-q", "-o", "list.img"]].concat();
    let output = tool(&directory).args(&words).output().unwrap();
    assert_eq!(said(&output), (String::new(), String::new(), 0));
    directory
}

/// The command that makes an archive of `dir`, compressed or not.
fn build(format: &str) -> String {
    format!("build --spec /dev/null --layer dir --as {format} -o a.img")
}

/// The commands that have long steps, each with a line that tells of a layer.
fn commands() -> [(String, &'static str); 8] {
    let command = String::from;
    [
        (build("cpio.gz"), "layer 0, dir: "),
        (
            command("extract list.img -C tree"),
            "extract layer 1: 3000 bytes",
        ),
        (
            command("extract list.img -C parts --segments"),
            "extract parts/0.cpio: ",
        ),
        (command("cat list.img /file"), "read /file: 3000 bytes"),
        (
            command("diff list.img list.img"),
            "compare the files: 3064 bytes",
        ),
        (command("verify list.img"), "hash layer 0 "),
        (command("check list.img"), "hash layer 0 "),
        // It has no step with a line: the bars are those of the walk.
        (command("list list.img"), ""),
    ]
}

/// Removes what a command leaves.
fn clean(directory: &Path) {
    for name in ["tree", "parts"] {
        let path = directory.join(name);
        if path.exists() {
            fs::remove_dir_all(path).unwrap();
        }
    }
}

/// Runs a command whose standard error is a terminal. Its standard output, and what the terminal got.
fn on_terminal(directory: &Path, words: &str) -> (Vec<u8>, String) {
    clean(directory);
    let program = env!("CARGO_BIN_EXE_layerinit");
    let command = format!("'{program}' {words} >out");
    let mut script = Command::new("script");
    script.args(["--quiet", "--command", &command, "log"]);
    let output = script
        .env("TERM", "xterm")
        .current_dir(directory)
        .output()
        .expect("script runs");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    (fs::read(directory.join("out")).unwrap(), shown)
}

#[test]
fn verbose_shows_all_steps_and_quiet_none() {
    let directory = workshop("progress");
    for (words, line) in commands() {
        let run = |more: &[&str]| {
            clean(&directory);
            let words = words.split(' ');
            tool(&directory).args(words).args(more).output().unwrap()
        };
        let plain = run(&[]);
        assert_eq!(said(&plain).1, "", "{words:?}: the steps are short");
        let quiet = run(&["--quiet"]);
        assert_eq!(said(&quiet).1, "", "{words:?}");
        assert_eq!(quiet.status, plain.status, "{words:?}");
        let verbose = run(&["--verbose"]);
        let (_, lines, _) = said(&verbose);
        assert!(lines.contains(line), "{words:?}: {lines}");
        assert!(
            !lines.contains('\r'),
            "a bar where there is no terminal: {lines}"
        );
        assert!(verbose.stdout == plain.stdout, "{words:?}");

        let (stdout, shown) = on_terminal(&directory, &words);
        assert_eq!(shown, "", "{words:?}: the steps are short");
        assert!(stdout == plain.stdout, "{words:?}");
        let (stdout, shown) = on_terminal(&directory, &format!("{words} -v"));
        assert!(shown.contains("iB/s, "), "{words:?}: no bar: {shown}");
        assert!(shown.contains(line), "{words:?}: {shown}");
        assert!(stdout == plain.stdout, "{words:?}");
        let (stdout, shown) = on_terminal(&directory, &format!("{words} -q"));
        assert_eq!(shown, "", "{words:?}");
        assert!(stdout == quiet.stdout, "{words:?}");
    }
    for verb in ["list", "check", "plan", "verify", "cat", "extract", "boot"] {
        let words = [verb, "-q", "-v", "list.img"];
        let (_, stderr, status) = said(&tool(&directory).args(words).output().unwrap());
        assert_eq!(status, 2, "{stderr}");
        let what = "'--quiet' cannot be used with '--verbose'";
        assert!(stderr.contains(what), "{stderr}");
    }
}

#[test]
fn a_long_step_has_a_bar_on_a_terminal_and_else_its_line() {
    let directory = workshop("progress-long");
    let file = fs::File::create(directory.join("dir/file")).unwrap();
    file.set_len(64 << 20).unwrap();
    let words = build("cpio");
    let (_, stderr, status) = said(&tool(&directory).args(words.split(' ')).output().unwrap());
    assert_eq!(
        (stderr.as_str(), status),
        ("layer 0, dir: 67109376 bytes\n", 0)
    );
    let (_, shown) = on_terminal(&directory, &words);
    assert!(shown.contains("write the archive of dir: "), "{shown}");
    assert!(!shown.contains("layer 0, dir: "), "{shown}");
}
