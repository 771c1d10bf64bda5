//! The structure of the crate: data flows one way. Each list of modules (`src/lib.rs`, and the `mod.rs` of a
//! folder) is ordered, and a file uses only modules above it in that list. Modules in one group, without a
//! blank line between them, do not use each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below `directory`.
fn files(directory: &Path) -> Vec<PathBuf> {
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

/// The module of a file, from its path below src.
fn module(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> = path
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    parts.pop_if(|last| matches!(last.as_str(), "mod" | "lib"));
    parts
}

/// The groups of modules that a file declares, in order.
fn groups(text: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut group = 0;
    for line in text.lines() {
        if line.trim().is_empty() {
            group += 1;
        }
        let declared = line.strip_prefix("pub ").unwrap_or(line);
        let name = declared
            .strip_prefix("mod ")
            .and_then(|rest| rest.strip_suffix(';'));
        if let Some(name) = name {
            found.insert(name.to_string(), group);
        }
    }
    found
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn flatten(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let (mut depth, mut item) = (0, String::new());
    let mut finish = |item: &mut String| {
        let text = std::mem::take(item);
        let text = text.trim();
        match text.split_once('{') {
            _ if text.is_empty() => {}
            None => found.push(format!("{prefix}{text}")),
            Some((head, rest)) => {
                let inner = rest.strip_suffix('}').expect("braces are closed");
                flatten(&format!("{prefix}{head}"), inner, found);
            }
        }
    };
    for c in tree.chars() {
        match c {
            ',' if depth == 0 => finish(&mut item),
            _ => item.push(c),
        }
        depth += i32::from(c == '{') - i32::from(c == '}');
    }
    finish(&mut item);
}

/// The paths that a module uses, from the root of the crate: those of `use`, and those in the code that begin
/// with `crate::`. Tests inside a file do not count.
fn uses(module: &[String], text: &str) -> Vec<Vec<String>> {
    let code: String = text
        .split("\n#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut paths = Vec::new();
    for part in code.split("\nuse ").skip(1) {
        flatten("", part.split(';').next().unwrap_or_default(), &mut paths);
    }
    for part in code.split("crate::").skip(1) {
        let end = part.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        paths.push(format!("crate::{}", &part[..end.unwrap_or(part.len())]));
    }
    let absolute = |path: String| {
        let mut parts: Vec<String> = path.split("::").map(str::to_string).collect();
        match parts.remove(0).as_str() {
            "crate" => Some(parts),
            "super" => Some([&module[..module.len().checked_sub(1)?], &parts].concat()),
            first => {
                // A child of this module, or another crate.
                parts.insert(0, first.to_string());
                Some([module, &parts].concat())
            }
        }
    };
    paths.into_iter().filter_map(absolute).collect()
}

#[test]
fn a_file_uses_only_what_is_above_it() {
    let src = src();
    let files = files(&src);
    let mut lists = BTreeMap::new();
    for path in &files {
        let text = fs::read_to_string(path).unwrap();
        lists.insert(module(path.strip_prefix(&src).unwrap()), groups(&text));
    }
    let (mut seen, mut wrong) = (0, Vec::new());
    for path in &files {
        let below = path.strip_prefix(&src).unwrap();
        let module = module(below);
        if module.first().is_none_or(|first| first == "bin") {
            continue;
        }
        for used in uses(&module, &fs::read_to_string(path).unwrap()) {
            let common = module.iter().zip(&used).take_while(|(a, b)| a == b).count();
            let (Some(mine), Some(other)) = (module.get(common), used.get(common)) else {
                continue;
            };
            let list = &lists[&module[..common]];
            let (Some(mine), Some(other)) = (list.get(mine), list.get(other)) else {
                continue;
            };
            seen += 1;
            if other >= mine {
                wrong.push(format!("{} uses {}", below.display(), used.join("::")));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "what is not above it:\n{}",
        wrong.join("\n")
    );
    assert!(
        seen > 200,
        "this test no longer finds what files use: {seen}"
    );
}

/// Exceptions: the stand-in for a feature that is off has the names of what it replaces. Each codec has a
/// `Stream`, which the table of codecs requires, and each iterator an `Item`.
#[test]
fn type_names_are_unique() {
    let src = src();
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in files(&src) {
        let below = path.strip_prefix(&src).unwrap().display().to_string();
        if below.ends_with("_off.rs") {
            continue;
        }
        for line in fs::read_to_string(&path).unwrap().lines() {
            let line = line.strip_prefix("pub").unwrap_or(line);
            let line = match line.split_once(") ") {
                Some((visibility, rest)) if visibility.starts_with('(') => rest,
                _ => line.trim_start_matches(' '),
            };
            let Some((kind, rest)) = line.split_once(' ') else {
                continue;
            };
            if !["struct", "enum", "trait", "type"].contains(&kind) {
                continue;
            }
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            let name = rest[..end.unwrap_or(rest.len())].to_string();
            if name != "Stream" && name != "Item" {
                places.entry(name).or_default().push(below.clone());
            }
        }
    }
    assert!(places.len() > 300, "only {} types", places.len());
    places.retain(|_, places| places.len() > 1);
    assert!(places.is_empty(), "in several files: {places:#?}");
}
