//! `layerinit build`: reproducible images, and the times of files.

use super::*;

#[test]
fn the_same_input_gives_the_same_bytes() {
    let directory = workshop("tool-build-reproducible");
    // Files in another order, with other times, and another name of the directory.
    for (root, backwards) in [("one", false), ("two", true)] {
        fs::create_dir_all(directory.join(root)).unwrap();
        let mut numbers: Vec<_> = (0..300).collect();
        if backwards {
            numbers.reverse();
        }
        for n in numbers {
            let path = directory.join(format!("{root}/file-{n}"));
            fs::write(&path, format!("{n}\n").repeat(n)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        }
    }
    let age = Command::new("touch")
        .args(["-d", "2001-02-03", "two/file-7", "two", "init"])
        .current_dir(&directory)
        .status();
    assert!(age.unwrap().success());
    let words = ["build", "--init", "init", "--layer", "root", "--layer"];
    let label = ["--label", "numbers"];
    let one = [&words[..], &["one"], &label].concat();
    good(&directory, &[&one[..], &["-o", "a"]].concat());
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "umask 077; exec \"$@\"",
        "-",
        env!("CARGO_BIN_EXE_layerinit"),
    ]);
    shell
        .args(words)
        .args(["two", "-o", "b"])
        .args(label)
        .current_dir(&directory);
    shell
        .env_remove("SOURCE_DATE_EPOCH")
        .env("TZ", "Asia/Tokyo")
        .env("LC_ALL", "tr_TR.UTF-8");
    assert!(shell.output().unwrap().status.success());
    let image = fs::read(directory.join("a")).unwrap();
    assert!(
        image == fs::read(directory.join("b")).unwrap(),
        "a and b differ"
    );

    // The layers of an image have different UUIDs, which are derived from their content, and valid checksums.
    let list = good(&directory, &["list", "a"]);
    let uuids: BTreeSet<_> = list
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("uuid "))
        .collect();
    assert_eq!(uuids.len(), 2, "{list}");
    assert_eq!(list.matches("checksum good").count(), 2, "{list}");
    let mut dated = tool(&directory);
    dated
        .args(&one)
        .args(["-o", "c"])
        .env("SOURCE_DATE_EPOCH", "1000000000");
    assert!(dated.output().unwrap().status.success());
    good(
        &directory,
        &[&one[..], &["-o", "d", "--mtime", "1000000000"]].concat(),
    );
    let dated = fs::read(directory.join("c")).unwrap();
    assert!(dated == fs::read(directory.join("d")).unwrap() && dated != image);
}

#[test]
fn keep_times_keeps_the_times_of_files() {
    let directory = workshop("tool-build-times");
    let touch = |time: &str, names: &[&str]| {
        let mut command = Command::new("touch");
        let status = command
            .args(["-h", "-d", time])
            .args(names)
            .current_dir(&directory);
        assert!(status.status().unwrap().success());
    };
    symlink("old", directory.join("root/link")).unwrap();
    fs::write(directory.join("root/old"), "old").unwrap();
    fs::write(directory.join("root/new"), "new").unwrap();
    touch("2001-02-03 04:05:06 UTC", &["root/old", "root/link"]);
    touch("2020-01-01 00:00:00 UTC", &["root/new"]);
    touch("2010-01-01 00:00:00 UTC", &["root"]);
    let times = |words: &[&str]| {
        good(
            &directory,
            &[&["build", "-o", "image", "--init", "init"], words].concat(),
        );
        let list = good(&directory, &["list", "--files", "image"]);
        let year = |name: &str| {
            let is = |line: &&str| {
                line.split(" -> ")
                    .next()
                    .unwrap()
                    .ends_with(&format!(" {name}"))
            };
            let line = list.lines().rfind(is).unwrap();
            let date = line
                .split_whitespace()
                .find(|word| word.len() == 10 && word.starts_with(['1', '2']));
            date.unwrap()[..4].parse::<u32>().unwrap()
        };
        [".", "link", "new", "old"].map(year)
    };
    for form in [
        &["--layer", "root"][..],
        &["--layer", "root", "--as", "cpio"],
    ] {
        let with = |words: &[&str]| times(&[form, words].concat());
        assert_eq!(with(&[]), [1970; 4]);
        assert_eq!(with(&["--keep-times"]), [2010, 2001, 2020, 2001]);
        // 2015.
        assert_eq!(
            with(&["--keep-times", "--mtime", "1420070400"]),
            [2010, 2001, 2015, 2001]
        );
        let before = fs::read(directory.join("image")).unwrap();
        touch("2022-01-01 00:00:00 UTC", &["root/new"]);
        with(&["--keep-times", "--mtime", "1420070400"]);
        assert!(before == fs::read(directory.join("image")).unwrap());
        touch("2020-01-01 00:00:00 UTC", &["root/new"]);
    }
    // An image does not depend on the time of the build.
    times(&["--layer", "root", "--keep-times"]);
    let before = fs::read(directory.join("image")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    times(&["--layer", "root", "--keep-times"]);
    assert!(before == fs::read(directory.join("image")).unwrap());
}
