//! Loads kernel modules out of the initramfs.

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

use super::alias::{Database, ModprobeConfig};
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

/// Exists once the loop driver is loaded. So does an entry in /proc/devices, but the kernel takes as long to
/// generate that file as to set up four loop devices.
const LOOP_CONTROL: &str = "/sys/class/misc/loop-control";

/// Loads modules of the running kernel out of the initramfs. Uses a thread per module of the plan, since
/// loading mostly waits inside the kernel.
#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
    /// The threads that load a module.
    loading: Vec<(Module, JoinHandle<Result<()>>)>,
    /// The modules that are loaded or built in.
    present: Vec<Module>,
}

/// What the threads share: the configuration, the indexes and a log of what was loaded.
#[derive(Debug)]
struct Shared {
    release: String,
    /// The kernel command line, for the words that modprobe(8) reads.
    cmdline: String,
    /// `rd.driver.blacklist=`.
    blacklist: Vec<String>,
    /// `rd.driver.pre=`.
    pre: Vec<String>,
    /// The directory of the modules, and the texts of modules.dep and modules.builtin. Read for the first
    /// module.
    index: OnceLock<(PathBuf, String, String)>,
    /// The configuration of modprobe.d and the command line. Read for the first module.
    config: OnceLock<ModprobeConfig>,
    /// Aliases and soft dependencies. Read for the first alias; `None` if that failed.
    database: OnceLock<Option<Database>>,
    /// The files that were loaded, in order.
    loaded: Mutex<Vec<String>>,
}

impl Loader {
    /// Creates a loader for the kernel `release` (a directory in /lib/modules).
    pub fn new(release: &str, options: &Options) -> Self {
        let shared = Shared {
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
            shared: Arc::new(shared),
            loading: Vec::new(),
            present: Vec::new(),
        }
    }

    /// Loads the modules of `rd.driver.pre=`. Call it before everything else. Only warns of modules that fail.
    pub fn load_pre(&self) {
        for module in &self.shared.pre {
            if let Err(error) = self.shared.load_with_softdeps(module) {
                warn!("rd.driver.pre={module}: {error}");
            }
        }
    }

    /// Starts loading those of `wanted` that the kernel lacks. [`need`](Self::need) returns their errors.
    pub fn begin(&mut self, wanted: &[Module]) {
        let known = |module: &Module| {
            self.present.contains(module) || self.loading.iter().any(|(other, _)| other == module)
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
                Module::Erofs | Module::Squashfs | Module::Overlay => {
                    has_filesystem(&filesystems, module.name())
                }
                Module::Loop => Path::new(LOOP_CONTROL).exists(),
            };
            if present {
                debug!("{}: loaded or built in", module.name());
                self.present.push(module);
                continue;
            }
            let shared = Arc::clone(&self.shared);
            let load = move || shared.load_with_softdeps(module.name());
            match std::thread::Builder::new().spawn(with_signal_stack(load)) {
                Ok(thread) => self.loading.push((module, thread)),
                // need() loads it.
                Err(error) => warn!("load {} without a thread: {error}", module.name()),
            }
        }
    }

    /// Loads `module` unless the kernel has it, and waits until it is loaded.
    ///
    /// # Errors
    ///
    /// The module is missing, forbidden, or refused by the kernel.
    pub fn need(&mut self, module: Module) -> Result<()> {
        self.begin(&[module]);
        if self.present.contains(&module) {
            return Ok(());
        }
        let loaded = match self.loading.iter().position(|(other, _)| *other == module) {
            // A panic ends the boot in the panic hook.
            Some(index) => self.loading.swap_remove(index).1.join().unwrap_or(Ok(())),
            None => self.shared.load_with_softdeps(module.name()),
        };
        let (name, purpose) = (module.name(), module.purpose());
        loaded.during(
            "load",
            format_args!("module {name}, without which {purpose}"),
        )?;
        self.present.push(module);
        Ok(())
    }

    /// Loads the modules for a filesystem type. Only warns of modules that fail.
    pub fn need_filesystem(&mut self, fstype: &str) {
        if !has_filesystem(&filesystems(), fstype) {
            self.load_requested(&[format!("fs-{fstype}"), fstype.to_string()]);
        }
        let helpers: Vec<_> = superblock::helper_modules(fstype)
            .iter()
            .map(|name| name.to_string())
            .collect();
        self.load_requested(&helpers);
    }

    /// Loads the modules that `names` (MODALIAS of devices, aliases, module names) resolve to. Only warns of
    /// modules that fail: a machine has devices that its root does not need.
    pub fn load_requested(&mut self, names: &[String]) {
        for module in self.shared.resolve(names) {
            if let Err(error) = self.shared.load(&module) {
                warn!("{error}");
            }
        }
    }

    /// Waits for all threads. Returns the files that were loaded, in order.
    pub fn finish(self) -> Vec<String> {
        for (module, thread) in self.loading {
            if let Ok(Err(error)) = thread.join() {
                debug!("{}, which no mount needed: {error}", module.name());
            }
        }
        let loaded = self.shared.loaded.lock();
        loaded.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The filesystem types of the kernel, one per line: "nodev\toverlay\n", "\terofs\n".
fn filesystems() -> String {
    fs::read_to_string("/proc/filesystems").unwrap_or_default()
}

/// Whether the text of /proc/filesystems has `name`.
fn has_filesystem(text: &str, name: &str) -> bool {
    text.contains(&format!("\t{name}\n"))
}

impl Shared {
    /// Loads a module, its dependencies, and the soft dependencies of all of them: libcrc32c of Linux 6.12
    /// works only with a module that implements crc32c.
    fn load_with_softdeps(&self, name: &str) -> Result<()> {
        let module = dep::underscored(name);
        let modules = self.resolve(std::slice::from_ref(&module));
        if !modules.contains(&module) {
            return self.load(name);
        }
        let mut loaded = Ok(());
        for other in modules {
            match (self.load(&other), other == module) {
                (result, true) => loaded = result,
                // Like modprobe: for example, the faster of two modules does not work on every processor.
                (Err(error), false) => debug!("soft dependency of {name}: {error}"),
                (Ok(()), false) => {}
            }
        }
        loaded
    }

    /// Loads a module and its dependencies.
    fn load(&self, name: &str) -> Result<()> {
        let (directory, dep, builtin) = self.index()?;
        let index = Index::new(dep, builtin);
        if index.is_builtin(name) {
            return Ok(());
        }
        for file in index.files(name)? {
            let module = dep::underscored(dep::name(file));
            if self
                .blacklist
                .iter()
                .any(|name| dep::underscored(name) == module)
            {
                return Err(Error::new(
                    "load module",
                    module,
                    "rd.driver.blacklist= forbids it",
                ));
            }
            // True also while another thread loads it: the kernel waits for that when it resolves symbols
            // (resolve_symbol_wait in kernel/module/main.c).
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

    /// The field `index`. Two threads may read it at the same time; one result is kept.
    fn index(&self) -> Result<&(PathBuf, String, String)> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let directory = self.directory()?;
        let read = |file: &str| fs::read_to_string(directory.join(file));
        let dep = read("modules.dep").during("read", directory.join("modules.dep").display())?;
        // Without this file, no module that is built in gets here: begin() asks the kernel first.
        let builtin = read("modules.builtin").unwrap_or_default();
        Ok(self.index.get_or_init(|| (directory, dep, builtin)))
    }

    /// The modules that `names` resolve to, in load order. Empty if the initramfs holds no modules.
    fn resolve(&self, names: &[String]) -> Vec<String> {
        let read = || {
            let (directory, dep, _) = self.index().ok()?;
            let database = sysfs::database(directory, dep, self.config().clone());
            let mut database = database.inspect_err(|error| warn!("{error}")).ok()?;
            if database.config.has_softdeps() {
                database.drop_satisfied_softdeps(
                    &fs::read_to_string("/proc/crypto").unwrap_or_default(),
                );
            }
            Some(database)
        };
        match names {
            [] => Vec::new(),
            names => self
                .database
                .get_or_init(read)
                .as_ref()
                .map_or(Vec::new(), |database| database.resolve(names)),
        }
    }

    fn config(&self) -> &ModprobeConfig {
        self.config.get_or_init(|| {
            let config = sysfs::config(&self.cmdline).unwrap_or_else(|error| {
                warn!("{error}");
                ModprobeConfig::default()
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

/// Why the kernel refuses a module, for errnos that mean something else here than for files (init_module(2),
/// module_sig_check in kernel/module/signing.c).
fn refusal(errno: Errno) -> Cause {
    let why = match errno {
        Errno::NOENT => "it needs a symbol that this kernel lacks; the kernel's log names it",
        Errno::NOEXEC => "not a module for this kernel; the kernel's log says why",
        Errno::KEYREJECTED | Errno::BADMSG | Errno::NOKEY | Errno::NOPKG => {
            "the kernel enforces module signatures (module.sig_enforce or CONFIG_MODULE_SIG_FORCE), and this \
             module has none that it trusts; build the image without --strip-module-signatures, with the modules \
             of exactly this kernel"
        }
        Errno::PERM => {
            "the kernel loads no modules (modules_disabled), or under lockdown (Secure Boot, lockdown=) only \
             modules with a signature that it trusts; build the image without --strip-module-signatures, with the \
             modules of exactly this kernel; the kernel's log says more"
        }
        errno => return Cause::Os(errno),
    };
    // Only the errno's name, for people to search for.
    let name = crate::error::name(errno).to_string();
    let name = name.split(':').next().unwrap_or_default();
    Cause::Reason(format!("{name}: {why}"))
}

/// Passes a module file and its parameters to the kernel, which decompresses it if it can.
fn insert(path: &Path, parameters: &str) -> Result<()> {
    let parameters = CString::new(parameters).unwrap_or_default();
    let during = |errno: Errno| Error::with("load", path.display(), refusal(errno));
    let mut file = File::open(path).during("open", path.display())?;
    let mut first = [0; 8];
    let n = file.read(&mut first).during("read", path.display())?;
    let codec = Codec::detect(first.get(..n).unwrap_or_default());
    let flags = codec.map_or(0, |_| MODULE_INIT_COMPRESSED_FILE);
    match (finit_module(&file, &parameters, flags), codec) {
        // EEXIST: loaded meanwhile.
        (Ok(()) | Err(Errno::EXIST), _) => Ok(()),
        // A kernel before 5.17 or without MODULE_DECOMPRESS, or one that lacks this format.
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
    // The reader type of archives: another one would instantiate the decoders a second time.
    codec
        .decompress(Reader::new(&file, 0), MODULE_MAX)
        .during("decompress", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_name_of_the_errno_and_a_hint() {
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
            "ENOEXEC: not a module for this kernel; the kernel's log says why"
        );
        assert_eq!(
            refusal(Errno::NOMEM).to_string(),
            crate::error::name(Errno::NOMEM).to_string()
        );
    }
}
