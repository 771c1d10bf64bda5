//! The kernel modules in the loader, found as [`crate::module::loader`] does it in `/init`.

use std::collections::BTreeMap;
use std::io::Read;

use super::boot::Boot;
use super::rootfs::join;
use crate::bytes::{ReadAt, Reader};
use crate::module::dep::{self, Index, MODULE_MAX, decompressed};
use crate::text::{Words, shown};
use crate::tool::kernel_config::{self, KernelConfig};

/// Directories of modules, by release. `/init` uses the first that has the release of the kernel.
const ROOTS: [&str; 2] = ["lib/modules", "usr/lib/modules"];

/// The modules in the loader, for one or several kernels.
pub struct LoaderModules<'a> {
    boot: &'a Boot,
    image: &'a (dyn ReadAt + Sync),
    releases: Vec<Release>,
    /// Why the kernel refuses modules without a signature: an option or a word of the command line. `None` if it
    /// loads them.
    pub signature_required: Option<String>,
}

/// The modules of one kernel.
pub struct Release {
    /// The release of the kernel (`uname -r`).
    pub name: String,
    /// Their directory in the rootfs.
    pub directory: Vec<u8>,
    /// The text of modules.dep; `None` if there is none.
    pub dep: Option<String>,
    /// The text of modules.builtin.
    builtin: String,
}

impl Release {
    /// Whether the kernel has a module built in.
    pub fn is_builtin(&self, module: &str) -> bool {
        Index::new("", &self.builtin).is_builtin(module)
    }
}

impl<'a> LoaderModules<'a> {
    /// The modules of a loader, for a kernel with this configuration and command line.
    pub fn new(
        boot: &'a Boot,
        image: &'a (dyn ReadAt + Sync),
        config: Option<&KernelConfig>,
        cmdline: &str,
    ) -> Self {
        let mut found = BTreeMap::new();
        for root in ROOTS {
            let Some((root, _)) = boot.rootfs.find(root.as_bytes()) else {
                continue;
            };
            for name in boot.rootfs.directory(&root) {
                let path = [root.as_slice(), b"/", name].concat();
                if let Some((directory, node)) = boot.rootfs.find(&path)
                    && node.mode & libc::S_IFMT == libc::S_IFDIR
                {
                    found.entry(shown(name)).or_insert(directory);
                }
            }
        }
        let text = |directory: &[u8], name: &str| {
            let bytes = read(boot, image, &[directory, b"/", name.as_bytes()].concat())?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let releases = found.into_iter().map(|(name, directory)| Release {
            name,
            dep: text(&directory, "modules.dep"),
            builtin: text(&directory, "modules.builtin").unwrap_or_default(),
            directory,
        });
        Self {
            boot,
            image,
            releases: releases.collect(),
            signature_required: signature_required(config, cmdline),
        }
    }

    /// Why `/init` cannot load a module on a kernel of this version (major and minor number); `None` if it can, for
    /// at least one release of this version: a configuration does not hold the full release.
    pub fn why_missing(&self, version: Option<(u32, u32)>, module: &str) -> Option<String> {
        if self.releases.is_empty() {
            return Some(format!("the loader has no {module}.ko (build --modules)"));
        }
        let mut matching = self.releases(version).peekable();
        if matching.peek().is_none() {
            let names: Vec<_> = self.releases.iter().map(|release| &*release.name).collect();
            let names = names.join(", ");
            return Some(format!(
                "the loader has modules of other kernels only: {names}"
            ));
        }
        let mut problems = matching.map(|release| self.problem(release, module));
        let first = problems.next()?;
        match problems.any(|problem| problem.is_none()) {
            true => None,
            false => first,
        }
    }

    /// The releases of this version; `None`: all.
    pub fn releases(&self, version: Option<(u32, u32)>) -> impl Iterator<Item = &Release> {
        let releases = self.releases.iter();
        releases.filter(move |release| {
            version.is_none() || kernel_config::version(&release.name) == version
        })
    }

    /// Why `/init` cannot load a module on the kernel of this release; `None` if it can.
    pub fn problem(&self, release: &Release, module: &str) -> Option<String> {
        let place = shown(&release.directory);
        let Some(dep) = &release.dep else {
            return Some(format!("{place} has no modules.dep (depmod)"));
        };
        let index = Index::new(dep, &release.builtin);
        if index.is_builtin(module) {
            return None;
        }
        let Ok(files) = index.files(module) else {
            return Some(format!(
                "the loader has no {module}.ko in {place}/modules.dep (build --modules)"
            ));
        };
        let path = |file: &str| match file.starts_with('/') {
            true => file.as_bytes().to_vec(),
            false => [release.directory.as_slice(), b"/", file.as_bytes()].concat(),
        };
        let missing = |file: &&str| self.boot.rootfs.find(&path(file)).is_none();
        if let Some(file) = files.iter().copied().find(missing) {
            return Some(match is_module(file.as_bytes(), module) {
                true => format!("{place} has no {file}"),
                false => format!("{place} has no {file}, which {module} depends on"),
            });
        }
        let why = self.signature_required.as_ref()?;
        let unsigned = |file: &&str| !self.is_signed(&path(file));
        let file = files.iter().copied().find(unsigned)?;
        Some(format!(
            "{place}/{file} has no signature, and the kernel loads no module without one ({why})"
        ))
    }

    /// Whether a module has a signature, once decompressed. True for a file that cannot be read, which
    /// another check reports.
    pub fn is_signed(&self, path: &[u8]) -> bool {
        self.decompressed(path)
            .is_none_or(|plain| dep::without_signature(&plain).len() < plain.len())
    }

    /// A module, decompressed; `None` if it cannot be read.
    pub fn decompressed(&self, path: &[u8]) -> Option<Vec<u8>> {
        decompressed(read(self.boot, self.image, path)?).ok()
    }

    /// The files of a release, relative to its directory.
    pub fn files<'b>(&'b self, release: &'b Release) -> impl Iterator<Item = &'b [u8]> {
        self.boot.rootfs.below(&release.directory)
    }

    /// The paths of the modules of a release.
    pub fn paths<'b>(&'b self, release: &'b Release) -> impl Iterator<Item = Vec<u8>> + 'b {
        let files = self.files(release).filter(|file| has_module_name(file));
        files.map(|file| join(&release.directory, file))
    }
}

/// Whether a file has the name of a module, compressed or not.
pub fn has_module_name(file: &[u8]) -> bool {
    file.windows(3).any(|part| part == b".ko")
}

/// Whether a file is this module, by its name.
pub fn is_module(file: &[u8], module: &str) -> bool {
    let file = String::from_utf8_lossy(file);
    file.contains(".ko") && dep::underscored(dep::name(&file)) == dep::underscored(module)
}

/// The bytes of a file of the rootfs; `None` if there is none, or it cannot be read.
fn read(boot: &Boot, image: &(dyn ReadAt + Sync), path: &[u8]) -> Option<Vec<u8>> {
    let (_, node) = boot.rootfs.find(path)?;
    let content = boot.content(image, node).ok()?;
    let mut bytes = Vec::new();
    let mut reader = Reader::new(&*content, 0).take(MODULE_MAX);
    reader.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Why a kernel refuses modules without a signature: an option or a word of the command line.
fn signature_required(config: Option<&KernelConfig>, cmdline: &str) -> Option<String> {
    const FORCED: [&str; 3] = [
        "MODULE_SIG_FORCE",
        "LOCK_DOWN_KERNEL_FORCE_INTEGRITY",
        "LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
    ];
    let set = |option: &str| config.is_some_and(|config| config.built_in(option));
    if let Some(option) = FORCED.into_iter().find(|option| set(option)) {
        return Some(format!("CONFIG_{option}=y"));
    }
    // The word has no effect without the option.
    let supported = |option| config.is_none() || set(option);
    let mut words = Words::new(cmdline);
    words.find_map(|(name, value)| {
        let word = match value {
            Some(value) => format!("{name}={value}"),
            None => name.to_string(),
        };
        let enforced = match (name.replace('-', "_").as_str(), value) {
            ("module.sig_enforce", None | Some("1" | "y" | "Y" | "on")) => true,
            ("lockdown", Some("integrity" | "confidentiality")) => {
                supported("SECURITY_LOCKDOWN_LSM")
            }
            _ => false,
        };
        (enforced && supported("MODULE_SIG")).then_some(word)
    })
}
