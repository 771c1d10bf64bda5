//! The shape of the crate: data flows one way, and a file imports only what stands above it.

use std::fs;
use std::path::Path;

/// Modules from the top down; those on one line do not import each other.
const ORDER: [&[&str]; 16] = [
    &["sys"],
    &["error"],
    &["bytes", "json", "words"],
    &["compress", "cpio", "erofs", "modules", "rootspec", "uevent"],
    &["alias", "probe"],
    &["segment"],
    &["cmdline"],
    &["plan"],
    &["coldplug", "kmsg", "setup", "systemd", "watchdog"],
    &["device", "source"],
    &["load"],
    &["mount"],
    &["proof"],
    &["switch"],
    &["report", "rescue"],
    &["pack"],
];

fn rank(module: &str) -> usize {
    ORDER
        .iter()
        .position(|line| line.contains(&module))
        .unwrap_or_else(|| panic!("{module} has no place in the order of tests/structure.rs"))
}

/// Every Rust file below `directory`.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The module that a file belongs to, from its path below src.
fn module(path: &Path) -> String {
    let first = path.components().next().unwrap();
    Path::new(first.as_os_str())
        .file_stem()
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

/// Modules named after `crate::` in code, lists in braces included.
fn imports(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = Vec::new();
    for part in code.split("crate::").skip(1) {
        let name = |text: &str| {
            text.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect::<String>()
        };
        match part.strip_prefix('{') {
            None => found.push(name(part)),
            Some(list) => {
                let mut depth = 0;
                let mut item = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => found.push(name(std::mem::take(&mut item).trim())),
                        _ if depth == 0 => item.push(c),
                        _ => {}
                    }
                }
                found.push(name(item.trim()));
            }
        }
    }
    found.retain(|name| !name.is_empty() && name.chars().all(|c| !c.is_uppercase()));
    found
}

#[test]
fn a_file_imports_only_what_stands_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for path in files(&src) {
        let below = path.strip_prefix(&src).unwrap();
        let module = module(below);
        if matches!(module.as_str(), "lib" | "bin") {
            continue;
        }
        for import in imports(&fs::read_to_string(&path).unwrap()) {
            // The macro of sys::entry is exported at the top.
            if import == module || import == "entry" {
                continue;
            }
            seen += 1;
            assert!(
                rank(&import) < rank(&module),
                "{} imports {import}, which does not stand above {module}",
                below.display()
            );
        }
    }
    assert!(
        seen > 50,
        "this test has lost its eyes: {seen} imports found"
    );
}

#[test]
fn unsafe_stands_in_sys_alone() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in files(&src) {
        let below = path.strip_prefix(&src).unwrap();
        if module(below) == "sys" {
            continue;
        }
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let word = code
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == "unsafe");
            assert!(!word, "{}:{}: {line}", below.display(), number + 1);
        }
    }
}
