//! The paths of the programs that the tool puts into images.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::tool::platform::Platform;

/// The installed `init`: for the architecture of this program or an unknown one, [`installed`]; for another one, that
/// of `foreign_init`.
///
/// # Errors
/// There is no such program.
pub fn installed_init(target: Option<&Platform>) -> Result<PathBuf> {
    const NAME: &str = "init";
    let foreign = target.filter(|target| target.name != env::consts::ARCH);
    let found = match foreign {
        None => installed(NAME),
        Some(target) => program_directory().and_then(|directory| foreign_init(&directory, target)),
    };
    found.ok_or_else(|| match foreign {
        None => Error::new(
            "find",
            NAME,
            "neither in the directory of this program nor in ../lib/layerinit",
        )
        .hint("build it with `cargo build --release --bin init`, or use --init PATH"),
        Some(target) => {
            let (name, debian) = (target.name, target.debian);
            let what = format!(
                "neither in ../lib/layerinit/{name} from the directory of this program nor in the target directory of cargo"
            );
            Error::new("find", format!("{NAME} for {name}"), what).hint(format!(
                "build it with `qemu/cross {debian}` (docs/cross.md), or use --init PATH"
            ))
        }
    })
}

fn program_directory() -> Option<PathBuf> {
    Some(env::current_exe().ok()?.parent()?.to_path_buf())
}

/// A program that goes into images: in the directory of this program, where cargo puts it, or in
/// ../lib/layerinit from there, where packages have it.
pub fn installed(name: &str) -> Option<PathBuf> {
    let directory = program_directory()?;
    let places = [
        directory.join(name),
        directory.parent()?.join("lib/layerinit").join(name),
    ];
    places.into_iter().find(|path| path.is_file())
}

/// The `init` for an architecture, with the tool in `directory`: ../lib/layerinit/ARCHITECTURE/init, where
/// releases and packages have it, else the one that cargo or qemu/cross has built in the same target
/// directory, for glibc before musl.
fn foreign_init(directory: &Path, target: &Platform) -> Option<PathBuf> {
    let above = directory.parent()?;
    let packaged = above.join("lib/layerinit").join(target.name).join("init");
    if packaged.is_file() {
        return Some(packaged);
    }
    // target/release or target/TRIPLE/release.
    let mut roots = vec![above.to_path_buf()];
    roots.extend(above.parent().map(Path::to_path_buf));
    let cross = roots
        .iter()
        .map(|root| root.join("cross").join(target.debian));
    let cross: Vec<_> = cross.collect();
    roots.extend(cross);
    let profile = directory.file_name()?;
    roots.iter().find_map(|root| {
        let entries = fs::read_dir(root)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()));
        let mut triples: Vec<_> = entries.filter(|path| is_for(path, target)).collect();
        triples.sort();
        let programs = triples
            .into_iter()
            .map(|path| path.join(profile).join("init"));
        programs.into_iter().find(|path| path.is_file())
    })
}

/// Whether a directory has the name of a rustc target for an architecture.
fn is_for(directory: &Path, target: &Platform) -> bool {
    let name = directory.file_name().and_then(|name| name.to_str());
    let architecture = name.and_then(|name| name.split_once("-unknown-linux-"));
    architecture.is_some_and(|(architecture, _)| target.rustc.contains(&architecture))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_is_where_packages_or_cargo_put_it() {
        let root = env::temp_dir().join(format!("layerinit-target-{}", std::process::id()));
        let put = |path: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let find = |tool: &str, name: &str| {
            let found = foreign_init(&root.join(tool), Platform::named(name).unwrap());
            found.map(|path| path.strip_prefix(&root).unwrap().display().to_string())
        };
        let host = "target/x86_64-unknown-linux-gnu/release";
        put("target/aarch64-unknown-linux-musl/release/init");
        put("target/armv7-unknown-linux-gnueabihf/debug/init");
        assert_eq!(find(host, "riscv64"), None);
        assert_eq!(find(host, "arm"), None);
        for tool in [host, "target/release"] {
            let found = find(tool, "arm64").unwrap();
            assert_eq!(found, "target/aarch64-unknown-linux-musl/release/init");
        }
        put("target/cross/armhf/armv7-unknown-linux-gnueabihf/release/init");
        let found = find(host, "armhf").unwrap();
        assert_eq!(
            found,
            "target/cross/armhf/armv7-unknown-linux-gnueabihf/release/init"
        );
        put("usr/lib/layerinit/riscv64/init");
        assert_eq!(
            find("usr/bin", "riscv64").unwrap(),
            "usr/lib/layerinit/riscv64/init"
        );
        fs::remove_dir_all(root).unwrap();
    }
}
