//! Loads kernel modules that the kernel turns out not to have built in.

use std::cell::LazyCell;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use log::{debug, info, warn};
use rustix::io::Errno;
use rustix::system::{finit_module, init_module};

use super::alias::{Config, Database};
use super::dep::{self, Index, MODULE_MAX};
use super::sysfs;
use crate::bytes::{Opened, Reader};
use crate::error::{Cause, Context, Error, Result};
use crate::format::compress::Codec;
use crate::format::superblock;
use crate::plan::Module;
use crate::plan::cmdline::Options;
use crate::sys::signal::with_signal_stack;

/// include/uapi/linux/module.h.
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

/// There as soon as the loop driver is. /proc/devices would say so too, but takes the kernel as long
/// to write as four loop devices take to set up.
const LOOP_CONTROL: &str = "/sys/class/misc/loop-control";

/// Loads modules of the running kernel out of the initramfs, each on a thread of its own: most of the
/// time goes into waits of the kernel's that do not need each other.
#[derive(Debug)]
pub struct Loader {
    modules: Arc<Modules>,
    /// What is on its way.
    loading: Vec<(Module, JoinHandle<Result<()>>)>,
    /// What the kernel is known to have.
    there: Vec<Module>,
}

/// The modules that there are, and what was done with them.
#[derive(Debug)]
struct Modules {
    release: String,
    /// The kernel command line: `rd.driver.blacklist=`, and what it says about modules' parameters.
    cmdline: String,
    /// `rd.driver.blacklist=`.
    blacklist: Vec<String>,
    /// `rd.driver.pre=`.
    pre: Vec<String>,
    /// Where the modules are, and the texts of modules.dep and modules.builtin: read when the first
    /// module is loaded.
    index: OnceLock<(PathBuf, String, String)>,
    /// Parameters, and more that must not be loaded: read when the first module is.
    config: OnceLock<Config>,
    /// Which modules devices ask for: read when the first device does.
    database: OnceLock<Option<Database>>,
    /// Files that were loaded, in order.
    loaded: Mutex<Vec<String>>,
}

impl Loader {
    /// A loader for the kernel `release` (as in /lib/modules) that follows the command line.
    pub fn new(release: &str, options: &Options) -> Self {
        let modules = Modules {
            release: release.into(),
            cmdline: options.text.clone(),
            pre: options.driver_pre.clone(),
            blacklist: options.driver_blacklist.clone(),
            index: OnceLock::new(),
            config: OnceLock::new(),
            database: OnceLock::new(),
            loaded: Mutex::new(Vec::new()),
        };
        Self {
            modules: Arc::new(modules),
            loading: Vec::new(),
            there: Vec::new(),
        }
    }

    /// Loads the modules of `rd.driver.pre=`, before everything else. A module that is missing does not
    /// stop the boot.
    pub fn load_pre(&self) {
        for module in &self.modules.pre {
            if let Err(error) = self.modules.load_with_wishes(module) {
                warn!("rd.driver.pre={module}: {error}");
            }
        }
    }

    /// Begins to load those of `wanted` that the kernel lacks. What goes wrong is told to who
    /// [needs](Self::need) it.
    pub fn begin(&mut self, wanted: &[Module]) {
        let known = |module: &Module| {
            self.there.contains(module) || self.loading.iter().any(|(other, _)| other == module)
        };
        let wanted: Vec<_> = wanted
            .iter()
            .copied()
            .filter(|module| !known(module))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let filesystems = LazyCell::new(filesystems);
        for module in wanted {
            let present = match module {
                Module::Erofs | Module::Overlay => lists(&filesystems, module.name()),
                Module::Loop => Path::new(LOOP_CONTROL).exists(),
            };
            if present {
                debug!("{}: the kernel has it", module.name());
                self.there.push(module);
                continue;
            }
            let modules = Arc::clone(&self.modules);
            let load = move || modules.load_with_wishes(module.name());
            match std::thread::Builder::new().spawn(with_signal_stack(load)) {
                Ok(thread) => self.loading.push((module, thread)),
                Err(error) => warn!("load {} later: {error}", module.name()),
            }
        }
    }

    /// Sees to it that the kernel can do what `module` is for, and waits until it can.
    pub fn need(&mut self, module: Module) -> Result<()> {
        self.begin(&[module]);
        if self.there.contains(&module) {
            return Ok(());
        }
        let loaded = match self.loading.iter().position(|(other, _)| *other == module) {
            // A panic has ended the boot in its hook already.
            Some(index) => self.loading.swap_remove(index).1.join().unwrap_or(Ok(())),
            None => self.modules.load_with_wishes(module.name()),
        };
        loaded.map_err(|error| {
            let object = format_args!(
                "module {}, without which {}",
                module.name(),
                module.purpose()
            );
            Error::with("load", object, Cause::Each(vec![error]))
        })?;
        self.there.push(module);
        Ok(())
    }

    /// Loads what a filesystem that the kernel lacks needs.
    pub fn need_filesystem(&mut self, fstype: &str) {
        if !lists(&filesystems(), fstype) {
            self.follow(&[format!("fs-{fstype}"), fstype.to_string()]);
        }
        let helpers: Vec<_> = superblock::helper_modules(fstype)
            .iter()
            .map(|name| name.to_string())
            .collect();
        self.follow(&helpers);
    }

    /// Loads the modules that devices (by their MODALIAS) or others ask for. What does not load is
    /// told, and no reason to stop: a machine has devices that its root does not need.
    pub fn follow(&mut self, names: &[String]) {
        for module in self.modules.wanted(names) {
            if let Err(error) = self.modules.load(&module) {
                warn!("{error}");
            }
        }
    }

    /// Waits for whatever still is on its way; the files that were loaded, in order.
    pub fn finish(self) -> Vec<String> {
        for (module, thread) in self.loading {
            if let Ok(Err(error)) = thread.join() {
                debug!("{}, which nothing needed: {error}", module.name());
            }
        }
        let loaded = self.modules.loaded.lock();
        loaded.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the kernel can mount, a line each: "nodev\toverlay\n", "\terofs\n".
fn filesystems() -> String {
    fs::read_to_string("/proc/filesystems").unwrap_or_default()
}

/// Whether such a list has `name`.
fn lists(text: &str, name: &str) -> bool {
    text.contains(&format!("\t{name}\n"))
}

impl Modules {
    /// Loads a module, those that it depends on, and what any of these asks for softly: libcrc32c of
    /// Linux 6.12 works only with one of the modules that make its sum.
    fn load_with_wishes(&self, name: &str) -> Result<()> {
        let module = dep::plain(name);
        let wanted = self.wanted(std::slice::from_ref(&module));
        if !wanted.contains(&module) {
            return self.load(name);
        }
        let mut done = Ok(());
        for wish in wanted {
            match (self.load(&wish), wish == module) {
                (loaded, true) => done = loaded,
                // As modprobe does: the fast one of two does not go with every processor, say.
                (Err(error), false) => debug!("{error}, which {name} would have liked"),
                (Ok(()), false) => {}
            }
        }
        done
    }

    /// Loads a module and those that it depends on.
    fn load(&self, name: &str) -> Result<()> {
        let (directory, dep, builtin) = self.index()?;
        let index = Index::new(dep, builtin);
        if index.is_builtin(name) {
            return Ok(());
        }
        for file in index.files(name)? {
            let module = dep::plain(dep::name(file));
            if self.blacklist.iter().any(|name| dep::plain(name) == module) {
                return Err(Error::new(
                    "load module",
                    module,
                    "rd.driver.blacklist= forbids it",
                ));
            }
            // One that another thread is loading is there, too: the kernel waits for it where it
            // resolves symbols (resolve_symbol_wait in kernel/module/main.c).
            if Path::new("/sys/module").join(&module).exists() {
                continue;
            }
            if self.config().is_disabled(&module) {
                return Err(Error::new(
                    "load module",
                    module,
                    "modprobe.d or the command line forbids it",
                ));
            }
            insert(&directory.join(file), &self.config().parameters(&module))?;
            info!("loaded module {module}");
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            loaded.push(file.to_string());
        }
        Ok(())
    }

    /// See the field. Two threads may read it at the same time; one of the two is kept.
    fn index(&self) -> Result<&(PathBuf, String, String)> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let directory = self.directory()?;
        let read = |file: &str| fs::read_to_string(directory.join(file));
        let dep = read("modules.dep").during("read", directory.join("modules.dep").display())?;
        // Where there is none, whatever is built in has been found to be missing already.
        let builtin = read("modules.builtin").unwrap_or_default();
        Ok(self.index.get_or_init(|| (directory, dep, builtin)))
    }

    /// The modules that `names` ask for, in order. None where the initramfs holds none.
    fn wanted(&self, names: &[String]) -> Vec<String> {
        let read = || {
            let (directory, dep, _) = self.index().ok()?;
            let database = sysfs::database(directory, dep, self.config().clone());
            let mut database = database.inspect_err(|error| warn!("{error}")).ok()?;
            if database.config.has_softdeps() {
                database.grant_algorithms(&fs::read_to_string("/proc/crypto").unwrap_or_default());
            }
            Some(database)
        };
        match names {
            [] => Vec::new(),
            names => self
                .database
                .get_or_init(read)
                .as_ref()
                .map_or(Vec::new(), |database| database.wanted(names)),
        }
    }

    fn config(&self) -> &Config {
        self.config.get_or_init(|| {
            let config = sysfs::config(&self.cmdline).unwrap_or_else(|error| {
                warn!("{error}");
                Config::default()
            });
            config
                .problems
                .iter()
                .for_each(|problem| warn!("{problem}"));
            config
        })
    }

    fn directory(&self) -> Result<PathBuf> {
        let roots = ["/lib/modules", "/usr/lib/modules"];
        for root in roots {
            let directory = Path::new(root).join(&self.release);
            if directory.is_dir() {
                return Ok(directory);
            }
        }
        let others: Vec<_> = roots
            .iter()
            .filter_map(|root| fs::read_dir(root).ok())
            .flat_map(|entries| {
                entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            })
            .collect();
        let what = match others.as_slice() {
            [] => "the initramfs holds no kernel modules".to_string(),
            others => format!(
                "the initramfs holds modules of other kernels only: {}",
                others.join(", ")
            ),
        };
        Err(Error::new("find modules of", &self.release, what))
    }
}

/// Why the kernel refuses a module, where the errno says something else than it does of files
/// (init_module(2), module_sig_check in kernel/module/signing.c).
fn refusal(errno: Errno) -> Cause {
    let why = match errno {
        Errno::NOENT => "it wants a symbol that this kernel has not; the kernel's log names it",
        Errno::NOEXEC => "no module for this kernel; the kernel's log says why",
        Errno::KEYREJECTED | Errno::BADMSG | Errno::NOKEY | Errno::NOPKG => {
            "the kernel takes only modules with a signature that it knows (module.sig_enforce, or built so), \
             and this one has none or another; build the image without --strip-module-signatures, with the \
             modules of this very kernel"
        }
        Errno::PERM => {
            "the kernel takes no module, or under lockdown (Secure Boot, lockdown=) none without a signature \
             that it knows; build the image without --strip-module-signatures, with the modules of this very \
             kernel; the kernel's log says more"
        }
        errno => return Cause::Os(errno),
    };
    // What stands before the colon is the name, which people search for.
    let name = crate::error::name(errno).to_string();
    let name = name.split(':').next().unwrap_or_default();
    Cause::Reason(format!("{name}: {why}"))
}

/// Gives a module file with its parameters to the kernel, which decompresses it if it can.
fn insert(path: &Path, parameters: &str) -> Result<()> {
    let parameters = CString::new(parameters).unwrap_or_default();
    let during = |errno: Errno| Error::with("load", path.display(), refusal(errno));
    let mut file = File::open(path).during("open", path.display())?;
    let mut first = [0; 8];
    let n = file.read(&mut first).during("read", path.display())?;
    let codec = Codec::detect(first.get(..n).unwrap_or_default());
    let flags = codec.map_or(0, |_| MODULE_INIT_COMPRESSED_FILE);
    match (finit_module(&file, &parameters, flags), codec) {
        // Somebody else was faster.
        (Ok(()) | Err(Errno::EXIST), _) => Ok(()),
        // Not this kernel (before 5.17, or without MODULE_DECOMPRESS), or not this format.
        (Err(Errno::INVAL | Errno::OPNOTSUPP), Some(codec)) => {
            let image = decompress(path, codec)?;
            match init_module(&image, &parameters) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(errno) => Err(during(errno)),
            }
        }
        (Err(errno), _) => Err(during(errno)),
    }
}

fn decompress(path: &Path, codec: Codec) -> Result<Vec<u8>> {
    let file = Opened::open(path)?;
    // The kind of reader that archives are read with: a second one would be as much code again.
    codec
        .decompress(Reader::new(&file, 0), MODULE_MAX)
        .during("decompress", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_a_signature_is_told_with_its_name_and_what_to_do() {
        for (errno, name) in [
            (Errno::KEYREJECTED, "EKEYREJECTED: "),
            (Errno::PERM, "EPERM: "),
        ] {
            let text = refusal(errno).to_string();
            assert!(text.starts_with(name), "{text}");
            assert!(text.contains("--strip-module-signatures"), "{text}");
        }
        assert_eq!(
            refusal(Errno::NOEXEC).to_string(),
            "ENOEXEC: no module for this kernel; the kernel's log says why"
        );
        assert_eq!(
            refusal(Errno::NOMEM).to_string(),
            crate::error::name(Errno::NOMEM).to_string()
        );
    }
}
