//! Loads kernel modules that the kernel turns out not to have built in.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use log::{debug, info, warn};
use rustix::io::Errno;
use rustix::system::{finit_module, init_module};

use crate::compress::{Codec, Decoder};
use crate::error::{Cause, Context, Error, Result};
use crate::modules::{self, Index};
use crate::plan::Module;

/// include/uapi/linux/module.h.
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

/// No module is larger than this when decompressed; a bound for what a damaged one can ask for.
const MODULE_MAX: u64 = 256 << 20;

/// The modules of the running kernel, as far as the initramfs holds them.
#[derive(Debug)]
pub struct Loader {
    release: String,
    blacklist: Vec<String>,
    /// What the kernel is known to have.
    there: Vec<Module>,
    /// The files that were loaded, in order.
    pub loaded: Vec<String>,
}

impl Loader {
    /// A loader for the kernel `release` (as in /lib/modules) that leaves out the modules of
    /// `blacklist`. Reads nothing yet.
    pub fn new(release: String, blacklist: Vec<String>) -> Self {
        Self {
            release,
            blacklist,
            there: Vec::new(),
            loaded: Vec::new(),
        }
    }

    /// Loads what `rd.driver.pre=` names. That one of them is missing is no reason to stop.
    pub fn before_others(&mut self, modules: &[String]) {
        for module in modules {
            if let Err(error) = self.load(module) {
                warn!("rd.driver.pre={module}: {error}");
            }
        }
    }

    /// Sees to it that the kernel can do what `module` is for.
    pub fn need(&mut self, module: Module) -> Result<()> {
        if self.there.contains(&module) {
            return Ok(());
        }
        if present(module) {
            debug!("{}: the kernel has it", module.name());
        } else {
            self.load(module.name()).map_err(|error| {
                let object = format_args!(
                    "module {}, without which {}",
                    module.name(),
                    module.purpose()
                );
                Error::with("load", object, Cause::Each(vec![error]))
            })?;
        }
        self.there.push(module);
        Ok(())
    }

    /// Loads a module and those that it depends on.
    fn load(&mut self, name: &str) -> Result<()> {
        let directory = self.directory()?;
        let read = |file: &str| fs::read_to_string(directory.join(file));
        let dep = read("modules.dep").during("read", directory.join("modules.dep").display())?;
        // Where there is none, whatever is built in has been found to be missing already.
        let builtin = read("modules.builtin").unwrap_or_default();
        let index = Index::new(&dep, &builtin);
        if index.is_builtin(name) {
            return Ok(());
        }
        for file in index.files(name)? {
            let module = modules::name(file).replace('-', "_");
            if self
                .blacklist
                .iter()
                .any(|name| name.replace('-', "_") == module)
            {
                return Err(Error::new(
                    "load module",
                    module,
                    "rd.driver.blacklist= forbids it",
                ));
            }
            if Path::new("/sys/module").join(&module).exists() {
                continue;
            }
            insert(&directory.join(file))?;
            info!("loaded module {module}");
            self.loaded.push(file.to_string());
        }
        Ok(())
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

/// Whether the kernel has it now, built in or loaded.
fn present(module: Module) -> bool {
    let (list, name) = match module {
        // "nodev\toverlay", "\terofs"; "  7 loop".
        Module::Erofs | Module::Overlay => ("/proc/filesystems", module.name()),
        Module::Loop => ("/proc/devices", "loop"),
    };
    fs::read_to_string(list)
        .unwrap_or_default()
        .lines()
        .any(|line| line.split_ascii_whitespace().next_back() == Some(name))
}

/// Gives a module file to the kernel, which decompresses it if it can.
fn insert(path: &Path) -> Result<()> {
    const NO_PARAMETERS: &CStr = c"";
    let during = |errno: Errno| Error::with("load", path.display(), Cause::Os(errno));
    let mut file = File::open(path).during("open", path.display())?;
    let mut first = [0; 8];
    let n = file.read(&mut first).during("read", path.display())?;
    let codec = Codec::detect(first.get(..n).unwrap_or_default());
    let flags = codec.map_or(0, |_| MODULE_INIT_COMPRESSED_FILE);
    match (finit_module(&file, NO_PARAMETERS, flags), codec) {
        // Somebody else was faster.
        (Ok(()) | Err(Errno::EXIST), _) => Ok(()),
        // Not this kernel (before 5.17, or without MODULE_DECOMPRESS), or not this format.
        (Err(Errno::INVAL | Errno::OPNOTSUPP), Some(codec)) => {
            let image = decompress(path, codec)?;
            match init_module(&image, NO_PARAMETERS) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(errno) => Err(during(errno)),
            }
        }
        (Err(errno), _) => Err(during(errno)),
    }
}

fn decompress(path: &Path, codec: Codec) -> Result<Vec<u8>> {
    let file = File::open(path).during("open", path.display())?;
    let decoder = Decoder::new(codec, BufReader::new(file)).during("decompress", path.display())?;
    let mut image = Vec::new();
    decoder
        .take(MODULE_MAX)
        .read_to_end(&mut image)
        .during("decompress", path.display())?;
    Ok(image)
}
