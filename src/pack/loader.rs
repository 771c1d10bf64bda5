//! The loader: its spec, and the kernel modules that go with it, as entries.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::host;
use super::module::{self, Treatment};
use super::spec::{self, Body, Content, Entry};
use crate::alias::{Config, Database};
use crate::cpio::normalized;
use crate::error::{Context, Error, Result};
use crate::modules::{self, Index, plain};
use crate::plan::Module;

/// The standard loader's spec.
pub const STANDARD: &str = include_str!("../../initramfs-spec/loader");

/// The variable that the standard loader's spec names its `/init` by.
const VARIABLE: &str = "LAYERINIT_INIT";

/// The most that a spec or a module index may have, in bytes: a bound, not a size to expect.
const TEXT_MAX: u64 = 256 << 20;

/// Which kernel modules go into the loader.
#[derive(Clone, Debug)]
pub struct Modules {
    /// Where lib/modules is, or the directory itself.
    pub root: PathBuf,
    /// The kernel's release, as `uname -r` has it; may be missing where there is only one.
    pub kernel: Option<String>,
    /// Modules besides those that `/init` itself may need.
    pub names: Vec<String>,
    /// The machine whose disks' drivers are wanted, too: the directory that holds its sys and proc.
    pub host: Option<PathBuf>,
    /// What is done with their files.
    pub treatment: Treatment,
}

/// The entries of spec files, one file after the other; of the standard loader's where there are
/// none. `init` is what `${LAYERINIT_INIT}` stands for.
pub fn entries(specs: &[PathBuf], init: Option<&Path>) -> Result<Vec<Entry>> {
    // Only a spec that asks for it needs an init to be there.
    let missing = Cell::new(false);
    let environment = |name: &[u8]| {
        if name != VARIABLE.as_bytes() {
            return env::var_os(OsStr::from_bytes(name)).map(OsStringExt::into_vec);
        }
        let chosen = init
            .map(|path| path.as_os_str().to_owned())
            .or_else(|| env::var_os(VARIABLE));
        let path = chosen.or_else(|| beside_the_tool().map(PathBuf::into_os_string));
        missing.set(missing.get() || path.is_none());
        path.map(OsStringExt::into_vec)
    };
    let mut entries = Vec::new();
    for path in specs {
        let text = read(path)?;
        entries.extend(spec::parse(
            &text,
            &path.display().to_string(),
            &environment,
        )?);
    }
    if specs.is_empty() {
        entries = spec::parse(STANDARD.as_bytes(), "standard loader", &environment)?;
    }
    if missing.get() {
        let what = "not beside this program; build it with `cargo build --release --bin init`, or say --init PATH";
        return Err(Error::new("find", "init", what));
    }
    Ok(entries)
}

/// The `init` that was installed or built together with this program.
fn beside_the_tool() -> Option<PathBuf> {
    let init = env::current_exe().ok()?.with_file_name("init");
    init.is_file().then_some(init)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let context = || path.display();
    let file = File::open(path).during("open", context())?;
    let mut text = Vec::new();
    let n = file
        .take(TEXT_MAX)
        .read_to_end(&mut text)
        .during("read", context())?;
    match n as u64 == TEXT_MAX {
        true => Err(Error::new(
            "read",
            context(),
            "this cannot be a text: it does not end",
        )),
        false => Ok(text),
    }
}

fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|_| Error::new("read", path.display(), "not UTF-8"))
}

/// The entries that put kernel modules into a loader: what `/init` may need and what else is named,
/// with everything that these depend on or ask for softly, and nothing more. `loader` is what is there
/// already. The second value names the modules that the machine asked for.
pub fn modules(wanted: &Modules, loader: &[Entry]) -> Result<(Vec<Entry>, Vec<String>)> {
    let (directory, kernel) = find(wanted)?;
    let dep_path = directory.join("modules.dep");
    let dep = read_text(&dep_path)?;
    let builtin_path = directory.join("modules.builtin");
    let builtin = match builtin_path.exists() {
        true => read_text(&builtin_path)?,
        false => String::new(),
    };
    let index = Index::new(&dep, &builtin);
    let ours = [Module::Erofs, Module::Overlay, Module::Loop];
    let mut files = BTreeSet::new();
    let mut builtins = BTreeSet::new();
    let optional = |name: &str| match directory.join(name) {
        path if path.exists() => read_text(&path),
        _ => Ok(String::new()),
    };
    let (aliases, softdeps) = (optional("modules.alias")?, optional("modules.softdep")?);
    let database = Database::new(&dep, aliases.clone(), &softdeps, Config::default());
    let host = match &wanted.host {
        Some(root) => host::modules(root, &index, &database)?,
        None => Vec::new(),
    };
    for name in ours
        .iter()
        .map(|module| module.name())
        .chain(wanted.names.iter().map(String::as_str))
        .chain(host.iter().map(String::as_str))
    {
        match index.files(name) {
            Ok(needed) => {
                files.extend(needed);
                for wish in database.wanted(&[name]) {
                    files.extend(index.files(&wish)?);
                }
            }
            Err(_) if index.is_builtin(name) => {
                builtins.insert(plain(name));
            }
            Err(_) => {
                let what = format!(
                    "neither a module of kernel {kernel} nor built into it ({})",
                    dep_path.display()
                );
                return Err(Error::new("find module", name, what));
            }
        }
    }
    let mut prepared = BTreeMap::new();
    for file in files {
        let inside = Path::new(file)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            let what = format!("{file} is not a path below this directory");
            return Err(Error::new("read", dep_path.display(), what));
        }
        let module = module::prepare(file, &directory.join(file), wanted.treatment)?;
        prepared.insert(file, module);
    }
    let dep = renamed(&dep, &prepared);
    let builtin: String = lines(&builtin, |line| {
        builtins.contains(&plain(modules::name(line)))
    });

    let prefix = format!("{}/modules/{kernel}", library(loader)?);
    let mut tree = Tree::new(loader);
    tree.file(
        &format!("{prefix}/modules.dep"),
        Content::Bytes(dep.into_bytes()),
        &dep_path,
    );
    if !builtin.is_empty() {
        let content = Content::Bytes(builtin.into_bytes());
        tree.file(&format!("{prefix}/modules.builtin"), content, &builtin_path);
    }
    // What devices and filesystems ask for by alias, as far as these modules answer to it:
    // "alias PATTERN MODULE" and "softdep MODULE pre: ...".
    let kept: BTreeSet<String> = prepared
        .keys()
        .map(|file| plain(modules::name(file)))
        .collect();
    for (name, text, column) in [
        ("modules.alias", aliases, 2),
        ("modules.softdep", softdeps, 1),
    ] {
        let path = directory.join(name);
        let text = lines(&text, |line| {
            let module = line.split_ascii_whitespace().nth(column);
            module.is_some_and(|module| kept.contains(&plain(module)))
        });
        if !text.is_empty() {
            tree.file(
                &format!("{prefix}/{name}"),
                Content::Bytes(text.into_bytes()),
                &path,
            );
        }
    }
    for module in prepared.into_values() {
        tree.file(
            &format!("{prefix}/{}", module.name),
            module.content,
            &dep_path,
        );
    }
    Ok((tree.entries.into_values().collect(), host))
}

/// The directory with modules.dep in it, and the kernel's release.
fn find(wanted: &Modules) -> Result<(PathBuf, String)> {
    let root = &wanted.root;
    let context = || root.display();
    let parents = [
        root.join("lib/modules"),
        root.join("usr/lib/modules"),
        root.clone(),
    ];
    let kernel = match &wanted.kernel {
        Some(kernel) => kernel.clone(),
        None => {
            let releases: BTreeSet<_> =
                parents.iter().flat_map(|parent| releases(parent)).collect();
            let mut names = releases.iter();
            match (names.next(), names.next()) {
                (Some(only), None) => only.clone(),
                (None, _) => {
                    return Err(Error::new(
                        "find modules in",
                        context(),
                        "no lib/modules/VERSION/modules.dep here",
                    ));
                }
                _ => {
                    let releases = Vec::from_iter(releases).join(", ");
                    return Err(Error::new(
                        "find modules in",
                        context(),
                        format!("say --kernel, one of: {releases}"),
                    ));
                }
            }
        }
    };
    if kernel.is_empty() || kernel.contains('/') || kernel.starts_with('.') {
        return Err(Error::new(
            "find modules of",
            format!("{kernel:?}"),
            "not a kernel's release",
        ));
    }
    let mut directories: Vec<_> = parents.iter().map(|parent| parent.join(&kernel)).collect();
    // DIR may be lib/modules/VERSION itself.
    if root.file_name() == Some(OsStr::new(&kernel)) {
        directories.push(root.clone());
    }
    for directory in &directories {
        if directory.join("modules.dep").exists() {
            return Ok((directory.clone(), kernel));
        }
        if directory.is_dir() && releases_like(directory) {
            let what = format!(
                "no modules.dep; run `depmod -b {} {kernel}`",
                root.display()
            );
            return Err(Error::new("find modules in", directory.display(), what));
        }
    }
    let what = format!("no lib/modules/{kernel} here");
    Err(Error::new("find modules in", context(), what))
}

/// The kernels that have modules in `parent`.
fn releases(parent: &Path) -> Vec<String> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let with_index = entries.filter(|entry| entry.path().join("modules.dep").exists());
    with_index
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Whether this is a directory of modules that lacks its index.
fn releases_like(directory: &Path) -> bool {
    directory.join("kernel").is_dir()
}

/// Lines of `text` that are wanted, each with its end.
fn lines(text: &str, wanted: impl Fn(&str) -> bool) -> String {
    text.lines()
        .filter(|line| wanted(line))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The lines of modules.dep for the modules that are taken, by the names that these have now.
fn renamed(dep: &str, taken: &BTreeMap<&str, module::Prepared>) -> String {
    let name = |file: &str| taken.get(file).map(|module| module.name.as_str());
    let mut text = String::new();
    for line in dep.lines() {
        let Some((file, needs)) = line.split_once(':') else {
            continue;
        };
        let Some(file) = name(file.trim()) else {
            continue;
        };
        text.push_str(file);
        text.push(':');
        for needed in needs.split_ascii_whitespace() {
            text.push(' ');
            text.push_str(name(needed).unwrap_or(needed));
        }
        text.push('\n');
    }
    text
}

/// Where a loader's libraries are: `lib`, or where its symbolic link `lib` leads.
fn library(loader: &[Entry]) -> Result<String> {
    let Some(lib) = loader
        .iter()
        .rev()
        .find(|entry| normalized(&entry.name) == b"lib")
    else {
        return Ok("lib".into());
    };
    match &lib.body {
        Body::Nothing if is_directory(lib) => Ok("lib".into()),
        Body::Link(target) if normalized(target) == b"usr/lib" => Ok("usr/lib".into()),
        _ => {
            let what = "/lib is neither a directory nor a link to usr/lib: modules cannot go there";
            Err(Error::new("read", &lib.origin, what))
        }
    }
}

fn is_directory(entry: &Entry) -> bool {
    entry.mode & libc::S_IFMT == libc::S_IFDIR
}

/// Entries by name, so that a directory comes before what is in it, each once.
struct Tree {
    there: BTreeSet<Vec<u8>>,
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Tree {
    fn new(loader: &[Entry]) -> Self {
        let directories = loader.iter().filter(|entry| is_directory(entry));
        Self {
            there: directories.map(|entry| normalized(&entry.name)).collect(),
            entries: BTreeMap::new(),
        }
    }

    /// Adds a file, and the directories that it is in.
    fn file(&mut self, name: &str, content: Content, origin: &Path) {
        for (slash, _) in name.match_indices('/') {
            let Some(parent) = name.get(..slash) else {
                continue;
            };
            if !self.there.contains(parent.as_bytes()) {
                self.add(parent, 0o40755, Body::Nothing, origin);
            }
        }
        self.add(name, 0o100644, Body::File(content, Vec::new()), origin);
    }

    fn add(&mut self, name: &str, mode: u32, body: Body, origin: &Path) {
        let entry = Entry {
            name: name.into(),
            mode,
            uid: 0,
            gid: 0,
            body,
            origin: origin.display().to_string(),
        };
        self.entries.insert(name.into(), entry);
    }
}

/// Bytes that the files of `entries` hold, for a progress bar: what cannot be read counts nothing.
pub fn size(entries: &[Entry]) -> u64 {
    let sizes = entries.iter().map(|entry| match &entry.body {
        Body::File(Content::Location(path), _) => {
            fs::metadata(path).map_or(0, |metadata| metadata.len())
        }
        Body::File(Content::Bytes(bytes), _) => bytes.len() as u64,
        _ => 0,
    });
    sizes.fold(0, u64::saturating_add)
}
