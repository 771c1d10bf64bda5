//! The modules of one kernel, from the files that depmod has written, and the selection for a loader.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::host;
use super::loader::read_text;
use super::module::{self, ModuleFile, ModuleOptions};
use super::spec::{Body, FileContent, SpecEntry};
use crate::error::{Error, Result};
use crate::format::cpio::normalized;
use crate::module::alias::{Database, ModprobeConfig};
use crate::module::dep::{self, Index, underscored};
use crate::plan::Module;

/// The kernel modules for a loader.
#[derive(Clone, Debug)]
pub struct ModuleSelection {
    /// The directory with lib/modules, or lib/modules itself, or lib/modules/RELEASE; `None`: the layers.
    pub root: Option<PathBuf>,
    /// The release of the kernel, as printed by `uname -r`; `None`: the only one in `root`.
    pub kernel: Option<String>,
    /// Names of modules besides those that `/init` itself may need.
    pub names: Vec<String>,
    /// Add the modules for the disks of a machine: the directory with its sys and proc.
    pub host: Option<PathBuf>,
    /// How to change the files.
    pub options: ModuleOptions,
}

/// The entries of kernel modules for a loader: the modules that `/init` may need and the selected ones, with
/// their dependencies and soft dependencies. `root` is the directory of the selection, or the one into which
/// the modules of the layers are extracted. `loader` has the entries so far. Also returns the names of the
/// machine's modules.
///
/// # Errors
/// `root` has no modules of the kernel, or of several kernels; a module is neither there nor built in, or cannot be
/// read.
pub fn entries(
    root: &Path,
    selection: &ModuleSelection,
    loader: &[SpecEntry],
) -> Result<(Vec<SpecEntry>, Vec<String>)> {
    let depmod = Depmod::read(root, selection.kernel.as_deref())?;
    let index = Index::new(&depmod.dep, &depmod.builtin);
    let database = depmod.database();
    let host = match &selection.host {
        Some(root) => host::modules(root, &index, &database)?,
        None => Vec::new(),
    };
    // The module of SquashFS is among the selected ones if a layer needs it.
    let own = Module::ALL
        .iter()
        .filter(|module| **module != Module::Squashfs);
    let names = own
        .map(|module| module.name())
        .chain(selection.names.iter().map(String::as_str))
        .chain(host.iter().map(String::as_str));
    let chosen = depmod.choose(names, &index, &database)?;
    let prefix = format!("{}/modules/{}", library(loader)?, depmod.kernel);
    let mut tree = ModuleTree::new(loader, prefix);
    depmod.add(chosen, selection.options, &mut tree)?;
    Ok((tree.entries.into_values().collect(), host))
}

/// The bytes of any module of the kernel, decompressed; `None` if it has none. All are for one architecture.
/// `root` is the directory of [`entries`].
///
/// # Errors
/// `root` has no modules of the kernel, or of several kernels.
pub fn a_module(root: &Path, kernel: Option<&str>) -> Result<Option<Vec<u8>>> {
    let (directory, _) = find(root, kernel)?;
    let dep = read_text(&directory.join("modules.dep"))?;
    let first = dep.split_once(':').map(|(name, _)| directory.join(name));
    // A module that cannot be read is an error once it is needed.
    let bytes = first.and_then(|path| fs::read(path).ok());
    Ok(bytes.and_then(|bytes| dep::decompressed(bytes).ok()))
}

/// The files that depmod has written for one kernel. Missing ones are empty, except modules.dep.
struct Depmod {
    directory: PathBuf,
    /// The release of the kernel.
    kernel: String,
    /// modules.dep, modules.builtin, modules.alias, modules.softdep.
    dep: String,
    builtin: String,
    alias: String,
    softdep: String,
}

/// The modules for a loader.
struct Chosen<'a> {
    /// Their paths in modules.dep.
    files: BTreeSet<&'a str>,
    /// Names of selected modules that are built into the kernel.
    builtins: BTreeSet<String>,
}

impl Depmod {
    fn read(root: &Path, kernel: Option<&str>) -> Result<Self> {
        let (directory, kernel) = find(root, kernel)?;
        let optional = |name: &str| match directory.join(name) {
            path if path.exists() => read_text(&path),
            _ => Ok(String::new()),
        };
        Ok(Self {
            dep: read_text(&directory.join("modules.dep"))?,
            builtin: optional("modules.builtin")?,
            alias: optional("modules.alias")?,
            softdep: optional("modules.softdep")?,
            directory,
            kernel,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn database(&self) -> Database {
        Database::new(
            &self.dep,
            self.alias.clone(),
            &self.softdep,
            ModprobeConfig::default(),
        )
    }

    /// The modules with these names, their dependencies and soft dependencies.
    fn choose<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
        index: &Index<'a>,
        database: &Database,
    ) -> Result<Chosen<'a>> {
        let (mut files, mut builtins) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            match index.files(name) {
                Ok(needed) => {
                    files.extend(needed);
                    for soft in database.resolve(&[name]) {
                        files.extend(index.files(&soft)?);
                    }
                }
                Err(_) if index.is_builtin(name) => {
                    builtins.insert(underscored(name));
                }
                Err(_) => {
                    let what = format!(
                        "neither a module of kernel {} nor built into it ({})",
                        self.kernel,
                        self.path("modules.dep").display()
                    );
                    return Err(Error::new("find module", name, what));
                }
            }
        }
        Ok(Chosen { files, builtins })
    }

    /// Adds the modules to a loader, with the lines of depmod's files that are about them.
    fn add(&self, chosen: Chosen<'_>, options: ModuleOptions, tree: &mut ModuleTree) -> Result<()> {
        let Chosen { files, builtins } = chosen;
        let prepared = self.prepare(files, options)?;
        let names: BTreeSet<_> = prepared
            .keys()
            .map(|file| underscored(dep::name(file)))
            .collect();
        // "alias PATTERN MODULE", "softdep MODULE pre: ...".
        let of_these = |text: &str, column: usize| {
            lines(text, |line| {
                let module = line.split_ascii_whitespace().nth(column);
                module.is_some_and(|module| names.contains(&underscored(module)))
            })
        };
        let builtin = |line: &str| builtins.contains(&underscored(dep::name(line)));
        for (name, text) in [
            ("modules.dep", renamed(&self.dep, &prepared)),
            ("modules.builtin", lines(&self.builtin, builtin)),
            ("modules.alias", of_these(&self.alias, 2)),
            ("modules.softdep", of_these(&self.softdep, 1)),
        ] {
            // Without modules.dep, modprobe(8) and `/init` find no modules.
            if !text.is_empty() || name == "modules.dep" {
                tree.add_file(
                    name,
                    FileContent::Bytes(text.into_bytes()),
                    &self.path(name),
                );
            }
        }
        for module in prepared.into_values() {
            tree.add_file(&module.name, module.content, &self.path("modules.dep"));
        }
        Ok(())
    }

    fn prepare<'a>(
        &self,
        files: BTreeSet<&'a str>,
        options: ModuleOptions,
    ) -> Result<BTreeMap<&'a str, ModuleFile>> {
        let mut prepared = BTreeMap::new();
        for file in files {
            let mut parts = Path::new(file).components();
            if !parts.all(|part| matches!(part, Component::Normal(_))) {
                let what = format!("{file} is not a path below this directory");
                let dep = self.path("modules.dep");
                return Err(Error::new("read", dep.display(), what));
            }
            let module = module::prepare(file, &self.path(file), options)?;
            prepared.insert(file, module);
        }
        Ok(prepared)
    }
}

/// The directory of modules.dep, and the release of the kernel.
fn find(root: &Path, kernel: Option<&str>) -> Result<(PathBuf, String)> {
    let context = || root.display();
    let parents = [
        root.join("lib/modules"),
        root.join("usr/lib/modules"),
        root.to_path_buf(),
    ];
    let kernel = match kernel {
        Some(kernel) => kernel.to_string(),
        None => {
            let releases: BTreeSet<_> =
                parents.iter().flat_map(|parent| releases(parent)).collect();
            let mut names = releases.iter();
            match (names.next(), names.next()) {
                (Some(only), None) => only.clone(),
                (None, _) => {
                    let what = "no lib/modules/VERSION/modules.dep here";
                    return Err(Error::new("find modules in", context(), what));
                }
                _ => {
                    let releases = Vec::from_iter(releases).join(", ");
                    let error = Error::new("find modules in", context(), "several kernels");
                    return Err(error.hint(format!("use --kernel with one of: {releases}")));
                }
            }
        }
    };
    if kernel.is_empty() || kernel.contains('/') || kernel.starts_with('.') {
        return Err(Error::new(
            "find modules of",
            format!("{kernel:?}"),
            "not the release of a kernel",
        ));
    }
    let mut directories: Vec<_> = parents.iter().map(|parent| parent.join(&kernel)).collect();
    // DIR may be lib/modules/VERSION itself.
    if root.file_name() == Some(OsStr::new(&kernel)) {
        directories.push(root.to_path_buf());
    }
    for directory in &directories {
        if directory.join("modules.dep").exists() {
            return Ok((directory.clone(), kernel));
        }
        if directory.join("kernel").is_dir() {
            let error = Error::new("find modules in", directory.display(), "no modules.dep");
            let hint = format!("run `depmod -b {} {kernel}`", root.display());
            return Err(error.hint(hint));
        }
    }
    let what = format!("no lib/modules/{kernel} here");
    Err(Error::new("find modules in", context(), what))
}

/// The releases of kernels with modules in `parent`.
fn releases(parent: &Path) -> Vec<String> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let with_index = entries.filter(|entry| entry.path().join("modules.dep").exists());
    with_index
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// The lines of `text` for which `keep` is true.
fn lines(text: &str, keep: impl Fn(&str) -> bool) -> String {
    text.lines()
        .filter(|line| keep(line))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The lines of modules.dep for the modules of a loader, with the names of their files there.
fn renamed(dep: &str, modules: &BTreeMap<&str, ModuleFile>) -> String {
    let name = |file: &str| modules.get(file).map(|module| module.name.as_str());
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

/// The library directory of a loader: `lib`, or the target of its symbolic link `lib`.
fn library(loader: &[SpecEntry]) -> Result<String> {
    let Some(lib) = loader
        .iter()
        .rev()
        .find(|entry| normalized(&entry.name) == b"lib")
    else {
        return Ok("lib".into());
    };
    match &lib.body {
        Body::Empty if is_directory(lib) => Ok("lib".into()),
        Body::Link(target) if normalized(target) == b"usr/lib" => Ok("usr/lib".into()),
        _ => {
            let what =
                "/lib is neither a directory nor a link to usr/lib, so it cannot hold modules";
            Err(Error::new("read", &lib.origin, what))
        }
    }
}

fn is_directory(entry: &SpecEntry) -> bool {
    entry.mode & libc::S_IFMT == libc::S_IFDIR
}

/// Entries sorted by name, so that a directory precedes its files, each once.
struct ModuleTree {
    /// The directory of all files.
    prefix: String,
    /// Directories that the loader has already.
    existing: BTreeSet<Vec<u8>>,
    entries: BTreeMap<Vec<u8>, SpecEntry>,
}

impl ModuleTree {
    fn new(loader: &[SpecEntry], prefix: String) -> Self {
        let directories = loader.iter().filter(|entry| is_directory(entry));
        Self {
            prefix,
            existing: directories.map(|entry| normalized(&entry.name)).collect(),
            entries: BTreeMap::new(),
        }
    }

    /// Adds a file and its parent directories.
    fn add_file(&mut self, name: &str, content: FileContent, origin: &Path) {
        let name = format!("{}/{name}", self.prefix);
        for (slash, _) in name.match_indices('/') {
            let Some(parent) = name.get(..slash) else {
                continue;
            };
            if !self.existing.contains(parent.as_bytes()) {
                self.add(parent, 0o40755, Body::Empty, origin);
            }
        }
        self.add(&name, 0o100644, Body::File(content, Vec::new()), origin);
    }

    fn add(&mut self, name: &str, mode: u32, body: Body, origin: &Path) {
        let entry = SpecEntry::of_root(name, mode, body, origin.display().to_string());
        self.entries.insert(name.into(), entry);
    }
}
