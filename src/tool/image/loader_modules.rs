//! The kernel modules in the loader, looked at as `/init` does before it loads them (load.rs).

use std::collections::BTreeMap;
use std::io::Read;

use super::boot::Boot;
use super::machine::Machine;
use super::rootfs::join;
use super::unpack::{Report, Severity};
use crate::bytes::{ReadAt, Reader};
use crate::module::dep::{self, Index, MODULE_MAX, decompressed};
use crate::plan::{Module, Plan};
use crate::text::{Words, shown};
use crate::tool::kernel_config::{self, Config};

/// Where `/init` looks for them; the first that has the kernel's release counts.
const ROOTS: [&str; 2] = ["lib/modules", "usr/lib/modules"];

/// The modules of each kernel that the loader has some of.
pub struct Modules<'a> {
    boot: &'a Boot,
    image: &'a dyn ReadAt,
    releases: Vec<Release>,
    /// Why the kernel takes none without a signature, if that is so.
    signed: Option<String>,
}

/// The modules of one kernel.
struct Release {
    /// Its release, as `uname -r` has it.
    name: String,
    /// Where they are.
    directory: Vec<u8>,
    /// The texts of modules.dep and modules.builtin.
    dep: Option<String>,
    builtin: String,
}

impl<'a> Modules<'a> {
    /// The modules of a loader, for a kernel with this configuration and command line.
    pub fn of(
        boot: &'a Boot,
        image: &'a dyn ReadAt,
        config: Option<&Config>,
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
            signed: signed(config, cmdline),
        }
    }

    /// Why `/init` cannot load a module that a kernel of this version (major and minor number) has not
    /// built in; `None`: it can. Of the release there is more than a configuration says.
    pub fn lacks(&self, version: Option<(u32, u32)>, module: &str) -> Option<String> {
        if self.releases.is_empty() {
            return Some(format!("the loader has no {module}.ko (build --modules)"));
        }
        let mut fitting = self.fitting(version).peekable();
        if fitting.peek().is_none() {
            let names: Vec<_> = self.releases.iter().map(|release| &*release.name).collect();
            let names = names.join(", ");
            return Some(format!(
                "the loader has modules of other kernels only: {names}"
            ));
        }
        let mut troubles = fitting.map(|release| self.trouble(release, module));
        let first = troubles.next()?;
        match troubles.any(|trouble| trouble.is_none()) {
            true => None,
            false => first,
        }
    }

    /// Those of kernels of this version.
    fn fitting(&self, version: Option<(u32, u32)>) -> impl Iterator<Item = &Release> {
        let releases = self.releases.iter();
        releases.filter(move |release| {
            version.is_none() || kernel_config::version(&release.name) == version
        })
    }

    /// Reports modules that the loader has, or that its index says there are, and that `/init` could not
    /// load all the same: of each kernel, for any of them may be the one.
    pub fn check(&self, plan: &Plan, report: Report) {
        for release in &self.releases {
            let here = |module: &str| self.files(release).any(|file| is(file, module));
            let any = || self.files(release).any(has_module_name);
            let Some(dep) = &release.dep else {
                let mut modules = plan.modules.iter();
                if modules.any(|module| here(module.name()))
                    || (plan.devices().next().is_some() && any())
                {
                    let place = shown(&release.directory);
                    let what =
                        format!("{place} has no modules.dep (depmod): /init finds no module there");
                    report(Severity::Error, "loader".into(), what);
                }
                continue;
            };
            for module in &plan.modules {
                // Of what is in none of the two, the kernel may have all built in.
                let known = Index::new(dep, "").files(module.name()).is_ok() || here(module.name());
                let Some(what) = self.trouble(release, module.name()).filter(|_| known) else {
                    continue;
                };
                // A kernel with the memback patches does without.
                let severity = match module {
                    Module::Loop => Severity::Warning,
                    Module::Erofs | Module::Overlay => Severity::Error,
                };
                let what = format!("{what}: {}", module.purpose());
                report(severity, "loader".into(), what);
            }
        }
    }

    /// What is in the way of loading a module.
    fn trouble(&self, release: &Release, module: &str) -> Option<String> {
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
            return Some(match is(file.as_bytes(), module) {
                true => format!("{place} has no {file}"),
                false => format!("{place} has no {file}, which {module} depends on"),
            });
        }
        let why = self.signed.as_ref()?;
        let unsigned = |file: &&str| !self.is_signed(&path(file));
        let file = files.iter().copied().find(unsigned)?;
        Some(format!(
            "{place}/{file} has no signature, and the kernel loads no module without ({why})"
        ))
    }

    /// Reports the modules of each kernel that are for another machine than its programs. They are all of
    /// one build: the first says it.
    pub fn machine(&self, machine: &Machine, report: Report) {
        for release in &self.releases {
            let mut modules = self.files(release).filter_map(|file| {
                let path = join(&release.directory, file);
                let plain = has_module_name(file).then(|| self.plain(&path)).flatten()?;
                Some((path, plain))
            });
            if let Some((path, plain)) = modules.next()
                && let Some(what) = machine.refuses_module(&plain)
            {
                let what = format!("{}: {what}", shown(&path));
                report(Severity::Error, "loader".into(), what);
            }
        }
    }

    /// Reports modules without a signature that a kernel with this configuration may refuse: under Secure
    /// Boot, or those that no layer needs, such as drivers of disks.
    pub fn unsigned(&self, config: &Config, plan: &Plan, report: Report) {
        const SECURE_BOOT: &str = "LOCK_DOWN_IN_EFI_SECURE_BOOT";
        let locked = config.built_in(SECURE_BOOT) && config.built_in("MODULE_SIG");
        let (why, when) = match &self.signed {
            Some(why) => (why.clone(), ""),
            None if locked => (format!("CONFIG_{SECURE_BOOT}=y"), "under Secure Boot "),
            None => return,
        };
        for release in self.fitting(config.version) {
            // What a layer needs is an error of its own.
            let lacks = |module: &Module| self.trouble(release, module.name()).is_some();
            if when.is_empty() && plan.modules.iter().any(lacks) {
                continue;
            }
            let files = self.files(release).filter(|file| has_module_name(file));
            let mut paths = files.map(|file| join(&release.directory, file));
            if let Some(path) = paths.find(|path| !self.is_signed(path)) {
                let what = format!(
                    "{} has no signature: {when}the kernel loads no module without (build without \
                     --strip-module-signatures)",
                    shown(&path)
                );
                report(Severity::Warning, why.clone(), what);
            }
        }
    }

    /// Whether a module has a signature, which is inside of its compression. One that cannot be read is
    /// not said to have none.
    fn is_signed(&self, path: &[u8]) -> bool {
        self.plain(path)
            .is_none_or(|plain| dep::without_signature(&plain).len() < plain.len())
    }

    /// A module without its compression; `None` where it cannot be read.
    fn plain(&self, path: &[u8]) -> Option<Vec<u8>> {
        decompressed(read(self.boot, self.image, path)?).ok()
    }

    fn files<'b>(&'b self, release: &'b Release) -> impl Iterator<Item = &'b [u8]> {
        self.boot.rootfs.below(&release.directory)
    }
}

/// Whether a file is called as modules are, compressed or not.
pub fn has_module_name(file: &[u8]) -> bool {
    file.windows(3).any(|part| part == b".ko")
}

/// Whether this is the file of a module.
fn is(file: &[u8], module: &str) -> bool {
    let file = String::from_utf8_lossy(file);
    file.contains(".ko") && dep::underscored(dep::name(&file)) == dep::underscored(module)
}

/// A file of the rootfs; `None` where it is not there, or cannot be read.
fn read(boot: &Boot, image: &dyn ReadAt, path: &[u8]) -> Option<Vec<u8>> {
    let (_, node) = boot.rootfs.find(path)?;
    let content = boot.content(image, node).ok()?;
    let mut bytes = Vec::new();
    let mut reader = Reader::new(&*content, 0).take(MODULE_MAX);
    reader.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Why a kernel takes no module without a signature, if that is so.
fn signed(config: Option<&Config>, cmdline: &str) -> Option<String> {
    const FORCED: [&str; 3] = [
        "MODULE_SIG_FORCE",
        "LOCK_DOWN_KERNEL_FORCE_INTEGRITY",
        "LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
    ];
    let set = |option: &str| config.is_some_and(|config| config.built_in(option));
    if let Some(option) = FORCED.into_iter().find(|option| set(option)) {
        return Some(format!("CONFIG_{option}=y"));
    }
    // Words for what a kernel has not have no effect.
    let can = |option| config.is_none() || set(option);
    let mut words = Words::new(cmdline);
    words.find_map(|(name, value)| {
        let word = match value {
            Some(value) => format!("{name}={value}"),
            None => name.to_string(),
        };
        let enforced = match (name.replace('-', "_").as_str(), value) {
            ("module.sig_enforce", None | Some("1" | "y" | "Y" | "on")) => true,
            ("lockdown", Some("integrity" | "confidentiality")) => can("SECURITY_LOCKDOWN_LSM"),
            _ => false,
        };
        (enforced && can("MODULE_SIG")).then_some(word)
    })
}
