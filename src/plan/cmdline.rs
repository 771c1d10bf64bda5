//! The options of the kernel command line. [`super::words`] reads them.

use super::backend::{Backend, Hints};

/// A point at which `rd.break=` starts a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// After the plan is made, before a layer is mounted.
    Plan,
    /// After layers and overlay are mounted.
    Mount,
    /// After the new root is verified; the next step cannot be undone.
    Switch,
}

/// What a failed boot does without a shell (`rd.emergency=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emergency {
    /// Restart.
    Reboot,
    /// Power off.
    Poweroff,
    /// Halt.
    Halt,
}

/// What to do with an upper that was written over other layers (`rd.overlay.stale=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Use it.
    Keep,
    /// The device cannot be used.
    Fail,
    /// Replace it with a new one, and keep the old one until the next reset.
    Reset,
}

/// How long to wait for the root device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The default limit.
    Default,
    /// `rootwait`: no limit.
    Forever,
    /// `rootwait=`: seconds.
    Seconds(u64),
}

/// How much `/init` logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Steps and results.
    Normal,
    /// `debug` or `loglevel=8`: also each refused attempt, at the kernel's debug level.
    Debug,
    /// `rd.debug`: the same, at a level that the console shows by default.
    Shown,
}

/// What the kernel tries without `init=` (kernel_init in init/main.c).
const INITS: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];

/// The words of the command line that this program reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The whole line; the module loader reads module parameters from it.
    pub text: String,
    /// `init=`: the real init.
    pub init: Option<String>,
    /// `rdinit=`: the file that the kernel started as this program.
    pub rdinit: String,
    /// `retain_initrd`: the kernel keeps the initrd for /sys/firmware/initrd.
    pub retain_initrd: bool,
    /// `root=` as given.
    pub root: Option<String>,
    /// `roothash=`, in hexadecimal.
    pub roothash: Option<String>,
    /// `systemd.verity_root_data=`.
    pub verity_data: Option<String>,
    /// `systemd.verity_root_hash=`.
    pub verity_hash: Option<String>,
    /// `systemd.verity_root_options=`, a list separated by commas.
    pub verity_options: Option<String>,
    /// `rootfstype=`, a list separated by commas.
    pub rootfstype: Option<String>,
    /// `rootflags=`.
    pub rootflags: Option<String>,
    /// `rw` rather than `ro`.
    pub root_writable: bool,
    /// `rootwait`.
    pub rootwait: Wait,
    /// `rootdelay=`, seconds.
    pub rootdelay: u64,
    /// The value of `rd.overlay=` that names the upper layer; `None` if it is absent, yes or no.
    pub overlay: Option<String>,
    /// `rd.overlay.fallback=tmpfs[:option,...]`: options of the tmpfs to use if the device of `rd.overlay=` cannot
    /// be used; `None`: the boot fails.
    pub overlay_fallback: Option<Vec<String>>,
    /// `rd.overlay.stale=`.
    pub overlay_stale: Stale,
    /// `rd.overlay.reset`: reset the upper once for each value; `1` if it has none.
    pub overlay_reset: Option<String>,
    /// `rd.overlay.for=`: the directories whose writes the device keeps; empty: all.
    pub overlay_for: Vec<String>,
    /// `rd.overlay.readonly`: the overlay has no upper layer.
    pub overlay_readonly: bool,
    /// `rd.overlay` or `systemd.volatile=overlay`: an overlay over `root=` even without layers.
    pub overlay_root: bool,
    /// `systemd.volatile=yes`: systemd's own initrd would mount only /usr over a tmpfs.
    pub volatile: bool,
    /// `rd.layers.backend=`: the backends to try, in order.
    pub backends: Vec<Backend>,
    /// `rd.layers.from=`, each as given.
    pub from: Vec<String>,
    /// `rd.layers.only=`: names or numbers of the layers to use; empty: all.
    pub only: Vec<String>,
    /// `rd.layers.skip=`: names or numbers of layers to leave out.
    pub skip: Vec<String>,
    /// `rd.layers.strict`: data in the initrd that is neither cpio nor EROFS is an error.
    pub strict: bool,
    /// `rd.break=`.
    pub breaks: Vec<Break>,
    /// `rd.shell=`: whether a failure may start a shell.
    pub shell: bool,
    /// `rd.emergency=`.
    pub emergency: Option<Emergency>,
    /// `rd.timeout=`: seconds to wait for a device; 0: no limit (dracut.cmdline(7)).
    pub timeout: Option<u64>,
    /// `panic=`: seconds until a failed boot restarts; negative: at once; 0 or absent: never.
    pub panic: i64,
    /// `rd.watchdog=`: the watchdog device to ping until the real init starts.
    pub watchdog: Option<String>,
    /// `rd.timestamps=`: whether systemd is told when the initramfs started.
    pub timestamps: bool,
    /// `debug`, `loglevel=`, `rd.debug`.
    pub verbosity: Verbosity,
    /// `rd.driver.pre=`: modules to load before any other.
    pub driver_pre: Vec<String>,
    /// `rd.driver.blacklist=`: modules not to load.
    pub driver_blacklist: Vec<String>,
    /// Warnings about words with values that cannot be used, one sentence each.
    pub problems: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            text: String::new(),
            init: None,
            rdinit: "/init".into(),
            retain_initrd: false,
            root: None,
            roothash: None,
            verity_data: None,
            verity_hash: None,
            verity_options: None,
            rootfstype: None,
            rootflags: None,
            root_writable: false,
            rootwait: Wait::Default,
            rootdelay: 0,
            overlay: None,
            overlay_fallback: None,
            overlay_stale: Stale::Keep,
            overlay_reset: None,
            overlay_for: Vec::new(),
            overlay_readonly: false,
            overlay_root: false,
            volatile: false,
            backends: Backend::ALL.to_vec(),
            from: Vec::new(),
            only: Vec::new(),
            skip: Vec::new(),
            strict: false,
            breaks: Vec::new(),
            shell: true,
            emergency: None,
            timeout: None,
            panic: 0,
            watchdog: None,
            timestamps: true,
            verbosity: Verbosity::Normal,
            driver_pre: Vec::new(),
            driver_blacklist: Vec::new(),
            problems: Vec::new(),
        }
    }
}

impl Options {
    /// Whether the rootfs is a tmpfs rather than a ramfs (init_rootfs in init/do_mounts.c), on a kernel with
    /// tmpfs.
    pub fn rootfs_is_tmpfs(&self) -> bool {
        match &self.rootfstype {
            Some(types) => types.contains("tmpfs"),
            None => self.root.is_none(),
        }
    }

    /// The facts that tell whether a backend is likely to work.
    pub fn hints(&self) -> Hints {
        Hints {
            retain_initrd: self.retain_initrd,
            rootfs_is_tmpfs: self.rootfs_is_tmpfs(),
        }
    }

    /// The programs to try as the real init, in order. With `init=`, that one only.
    pub fn inits(&self) -> Vec<String> {
        match &self.init {
            Some(init) => vec![init.clone()],
            None => INITS.map(String::from).to_vec(),
        }
    }
}
