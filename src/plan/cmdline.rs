//! What the kernel command line asks for. Each word is in [`super::words`].

use super::backend::Backend;

/// A point at which `rd.break=` stops for a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// The plan is made, nothing is mounted.
    Plan,
    /// Layers and overlay are mounted.
    Mount,
    /// Everything is checked; the next step is the point of no return.
    Switch,
}

/// What a failure without a shell does (`rd.emergency=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emergency {
    /// Restart the machine.
    Reboot,
    /// Switch it off.
    Poweroff,
    /// Stop the processor.
    Halt,
}

/// How long to wait for the root device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until a time that the program chooses.
    Default,
    /// `rootwait`: for ever.
    Forever,
    /// `rootwait=`: seconds.
    Seconds(u64),
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Steps and results.
    Normal,
    /// `debug` or `loglevel=8`: what was tried and refused, too, at the kernel's debug level.
    Debug,
    /// `rd.debug`: the same, at a level that a console shows by default.
    Shown,
}

/// What the kernel tries when no `init=` is given (kernel_init in init/main.c).
const INITS: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];

/// The command line as this program understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The whole line, for those who read more of it: parameters of modules.
    pub text: String,
    /// `init=`: the real init.
    pub init: Option<String>,
    /// `rdinit=`: the file that the kernel started, this program.
    pub rdinit: String,
    /// `retain_initrd`: the kernel was told to keep the initrd for /sys/firmware/initrd.
    pub retain_initrd: bool,
    /// `root=` as given.
    pub root: Option<String>,
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
    /// `rd.overlay=` as given, where it names more than an overlay: what takes the writes.
    pub overlay: Option<String>,
    /// `rd.overlay.fallback=tmpfs[:option,...]`: options of the tmpfs that takes the writes where the
    /// device of `rd.overlay=` cannot; `None`: the boot fails then.
    pub overlay_fallback: Option<Vec<String>>,
    /// `rd.overlay.readonly`: nothing takes the writes.
    pub overlay_readonly: bool,
    /// An overlay over `root=` even where there are no layers (`rd.overlay`,
    /// `systemd.volatile=overlay`).
    pub overlay_root: bool,
    /// `systemd.volatile=yes`: systemd's own initrd would lay nothing but /usr over a tmpfs.
    pub volatile: bool,
    /// `rd.layers.backend=`: the backends to try, in order.
    pub backends: Vec<Backend>,
    /// `rd.layers.only=`: names or numbers of the only layers to use.
    pub only: Vec<String>,
    /// `rd.layers.skip=`: names or numbers of layers to leave out.
    pub skip: Vec<String>,
    /// `rd.layers.strict`: what is not understood in the initrd is an error.
    pub strict: bool,
    /// `rd.break=`.
    pub breaks: Vec<Break>,
    /// `rd.shell=`: whether a failure may start a shell.
    pub shell: bool,
    /// `rd.emergency=`.
    pub emergency: Option<Emergency>,
    /// `rd.timeout=`: seconds to wait for a device before giving up; 0 is for ever
    /// (dracut.cmdline(7)).
    pub timeout: Option<u64>,
    /// `panic=`: seconds before a failed boot restarts; negative: at once; 0 or absent: never.
    pub panic: i64,
    /// `rd.watchdog=`: the watchdog to ping until the real init starts.
    pub watchdog: Option<String>,
    /// `rd.timestamps=`: whether systemd is told when the initramfs began.
    pub timestamps: bool,
    /// `debug`, `loglevel=`, `rd.debug`.
    pub verbosity: Verbosity,
    /// `rd.driver.pre=`: modules to load before any other.
    pub driver_pre: Vec<String>,
    /// `rd.driver.blacklist=`: modules not to load.
    pub driver_blacklist: Vec<String>,
    /// Words of ours that make no sense, one sentence each.
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
            rootfstype: None,
            rootflags: None,
            root_writable: false,
            rootwait: Wait::Default,
            rootdelay: 0,
            overlay: None,
            overlay_fallback: None,
            overlay_readonly: false,
            overlay_root: false,
            volatile: false,
            backends: Backend::ALL.to_vec(),
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
    /// Whether the rootfs is a tmpfs rather than a ramfs (init_rootfs in init/do_mounts.c), where the
    /// kernel has tmpfs.
    pub fn rootfs_is_tmpfs(&self) -> bool {
        match &self.rootfstype {
            Some(types) => types.contains("tmpfs"),
            None => self.root.is_none(),
        }
    }

    /// The programs to try as real init, in order: with `init=`, that one only.
    pub fn inits(&self) -> Vec<String> {
        match &self.init {
            Some(init) => vec![init.clone()],
            None => INITS.map(String::from).to_vec(),
        }
    }
}
