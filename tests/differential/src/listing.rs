//! Trees as text, with one line for each entry, and their comparison.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Writes a line for the root and one for each entry below it, in the order of their names.
pub fn list(root: &Path, out: &mut dyn Write) -> io::Result<()> {
    let mut links = BTreeMap::new();
    entry(root, root, &mut links, out)
}

fn entry(
    root: &Path,
    path: &Path,
    links: &mut BTreeMap<(u64, u64), String>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let stat = fs::symlink_metadata(path)?;
    let kind = stat.file_type();
    let inside = path.strip_prefix(root).unwrap_or(path).as_os_str();
    let name = inside
        .as_bytes()
        .escape_ascii()
        .to_string()
        .replace(' ', "\\x20");
    let device = || {
        let rdev = stat.rdev();
        format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev))
    };
    let (kind_name, what) = match () {
        () if kind.is_file() => (
            "file",
            format!("{} bytes, sum {:016x}", stat.size(), sum(path)?),
        ),
        () if kind.is_dir() => ("dir", String::new()),
        () if kind.is_symlink() => {
            let target = fs::read_link(path)?;
            (
                "link",
                format!("-> {}", target.as_os_str().as_bytes().escape_ascii()),
            )
        }
        () if kind.is_char_device() => ("char", device()),
        () if kind.is_block_device() => ("block", device()),
        () if kind.is_fifo() => ("fifo", String::new()),
        () => ("sock", String::new()),
    };
    // Archives have whole seconds, so this time comes from the clock.
    let time = match stat.mtime_nsec() {
        0 => stat.mtime().to_string(),
        _ => "now".into(),
    };
    // The link count of a directory depends on its content, and an overlay does not count it.
    let links_there = match kind.is_dir() {
        true => String::new(),
        false => format!("{} links ", stat.nlink()),
    };
    let mut line = format!(
        "/{name} {kind_name} {:04o} {}:{} @{time} {links_there}{what}",
        stat.mode() & 0o7777,
        stat.uid(),
        stat.gid(),
    );
    if !kind.is_dir() && stat.nlink() > 1 {
        let first = links
            .entry((stat.dev(), stat.ino()))
            .or_insert_with(|| name.clone());
        line += &format!(" = /{first}");
    }
    writeln!(out, "{}", line.trim_end())?;
    if kind.is_dir() {
        let mut below: Vec<PathBuf> = fs::read_dir(path)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()?;
        below.sort();
        for path in below {
            if path.strip_prefix(root) != Ok(Path::new(&super::HOME[1..])) {
                entry(root, &path, links, out)?;
            }
        }
    }
    Ok(())
}

/// FNV-1a over 8 bytes at a time, which is sufficient to compare files.
fn sum(path: &Path) -> io::Result<u64> {
    let mut content = Vec::new();
    fs::File::open(path)?.read_to_end(&mut content)?;
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    for chunk in content.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3);
    }
    Ok(sum)
}

/// Prints a verdict for each case (a directory `/case-...`; everything else is the case `root`), its
/// differences, and a summary. Returns the number of cases that differ.
pub fn compare(kernel: &str, ours: &str) -> usize {
    let (kernel, ours) = (cases(kernel, true), cases(ours, false));
    let names: std::collections::BTreeSet<_> = kernel.keys().chain(ours.keys()).collect();
    let (mut passed, mut failed) = (0, 0);
    for name in names {
        let none = BTreeMap::new();
        let kernel = kernel.get(name).unwrap_or(&none);
        let ours = ours.get(name).unwrap_or(&none);
        if kernel == ours {
            passed += 1;
            println!("ok {name}: {} entries", kernel.len());
            continue;
        }
        failed += 1;
        println!("not ok {name}");
        let paths: std::collections::BTreeSet<_> = kernel.keys().chain(ours.keys()).collect();
        for path in paths {
            let (kernel, ours) = (kernel.get(path), ours.get(path));
            if kernel != ours {
                println!("    {path}");
                println!("      kernel {}", kernel.map_or("nothing", |line| line));
                println!("      ours   {}", ours.map_or("nothing", |line| line));
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    failed
}

/// For each case and path, the rest of the line.
fn cases(listing: &str, ended: bool) -> BTreeMap<&str, BTreeMap<&str, &str>> {
    let mut cases = BTreeMap::<_, BTreeMap<_, _>>::new();
    let mut end = !ended;
    for line in listing.lines().map(str::trim_end) {
        let Some((path, rest)) = line.split_once(' ') else {
            end |= line == "end";
            continue;
        };
        let first = path[1..].split('/').next().unwrap_or_default();
        let case = if first.starts_with("case-") {
            first
        } else {
            "root"
        };
        cases.entry(case).or_default().insert(path, rest);
    }
    if !end {
        cases.entry("listing").or_default().insert("/", "cut short");
    }
    cases
}
