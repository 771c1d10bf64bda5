//! One kernel's modules, as depmod has written them down, and those of them that go into a loader.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::host;
use super::loader::read_text;
use super::module::{self, Prepared, Treatment};
use super::spec::{Body, Content, Entry};
use crate::error::{Error, Result};
use crate::format::cpio::normalized;
use crate::module::alias::{Database, ModprobeConfig};
use crate::module::dep::{self, Index, underscored};
use crate::plan::Module;

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

/// The entries that put kernel modules into a loader: what `/init` may need and what else is named,
/// with everything that these depend on or ask for softly, and nothing more. `loader` is what is there
/// already. The second value names the modules that the machine asked for.
pub fn entries(wanted: &Modules, loader: &[Entry]) -> Result<(Vec<Entry>, Vec<String>)> {
    let depmod = Depmod::read(wanted)?;
    let index = Index::new(&depmod.dep, &depmod.builtin);
    let database = depmod.database();
    let host = match &wanted.host {
        Some(root) => host::modules(root, &index, &database)?,
        None => Vec::new(),
    };
    let names = Module::ALL
        .iter()
        .map(|module| module.name())
        .chain(wanted.names.iter().map(String::as_str))
        .chain(host.iter().map(String::as_str));
    let chosen = depmod.choose(names, &index, &database)?;
    let prefix = format!("{}/modules/{}", library(loader)?, depmod.kernel);
    let mut tree = Tree::new(loader, prefix);
    depmod.put(chosen, wanted.treatment, &mut tree)?;
    Ok((tree.entries.into_values().collect(), host))
}

/// What depmod has written of one kernel's modules: its texts as they are, those that need not be there
/// empty if they are not.
struct Depmod {
    directory: PathBuf,
    /// The kernel's release.
    kernel: String,
    /// modules.dep, modules.builtin, modules.alias, modules.softdep.
    dep: String,
    builtin: String,
    alias: String,
    softdep: String,
}

/// What goes into a loader.
struct Chosen<'a> {
    /// As modules.dep names them.
    files: BTreeSet<&'a str>,
    /// Names of what is asked for, and built in.
    builtins: BTreeSet<String>,
}

impl Depmod {
    fn read(wanted: &Modules) -> Result<Self> {
        let (directory, kernel) = find(wanted)?;
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

    /// The modules with these names, and what they depend on or ask for.
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
                    for wish in database.resolve(&[name]) {
                        files.extend(index.files(&wish)?);
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

    /// Puts the chosen modules into a loader, with what depmod has written of these.
    fn put(&self, chosen: Chosen<'_>, treatment: Treatment, tree: &mut Tree) -> Result<()> {
        let Chosen { files, builtins } = chosen;
        let prepared = self.prepare(files, treatment)?;
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
            // A directory without modules.dep holds no modules for anybody.
            if !text.is_empty() || name == "modules.dep" {
                tree.file(name, Content::Bytes(text.into_bytes()), &self.path(name));
            }
        }
        for module in prepared.into_values() {
            tree.file(&module.name, module.content, &self.path("modules.dep"));
        }
        Ok(())
    }

    fn prepare<'a>(
        &self,
        files: BTreeSet<&'a str>,
        treatment: Treatment,
    ) -> Result<BTreeMap<&'a str, Prepared>> {
        let mut prepared = BTreeMap::new();
        for file in files {
            let mut parts = Path::new(file).components();
            if !parts.all(|part| matches!(part, Component::Normal(_))) {
                let what = format!("{file} is not a path below this directory");
                let dep = self.path("modules.dep");
                return Err(Error::new("read", dep.display(), what));
            }
            let module = module::prepare(file, &self.path(file), treatment)?;
            prepared.insert(file, module);
        }
        Ok(prepared)
    }
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
        if directory.join("kernel").is_dir() {
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

/// Lines of `text` that are wanted, each with its end.
fn lines(text: &str, wanted: impl Fn(&str) -> bool) -> String {
    text.lines()
        .filter(|line| wanted(line))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The lines of modules.dep for the modules that are taken, by the names that these have now.
fn renamed(dep: &str, taken: &BTreeMap<&str, Prepared>) -> String {
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
    /// The directory that all of it goes into.
    prefix: String,
    there: BTreeSet<Vec<u8>>,
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Tree {
    fn new(loader: &[Entry], prefix: String) -> Self {
        let directories = loader.iter().filter(|entry| is_directory(entry));
        Self {
            prefix,
            there: directories.map(|entry| normalized(&entry.name)).collect(),
            entries: BTreeMap::new(),
        }
    }

    /// Adds a file, and the directories that it is in.
    fn file(&mut self, name: &str, content: Content, origin: &Path) {
        let name = format!("{}/{name}", self.prefix);
        for (slash, _) in name.match_indices('/') {
            let Some(parent) = name.get(..slash) else {
                continue;
            };
            if !self.there.contains(parent.as_bytes()) {
                self.add(parent, 0o40755, Body::Nothing, origin);
            }
        }
        self.add(&name, 0o100644, Body::File(content, Vec::new()), origin);
    }

    fn add(&mut self, name: &str, mode: u32, body: Body, origin: &Path) {
        let entry = Entry {
            name: name.into(),
            mode,
            uid: 0,
            gid: 0,
            mtime: None,
            body,
            origin: origin.display().to_string(),
        };
        self.entries.insert(name.into(), entry);
    }
}
