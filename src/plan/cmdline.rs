//! The kernel command line: text to options.
//!
//! Words are split as the kernel splits them ([`Words`]): double quotes keep
//! spaces, `-` and `_` are the same in names, the last of several wins, and what follows `--` is
//! the real init's own. `rd.break=` and the lists of drivers add up, as dracut's do. Words that are not
//! ours are left alone; values of ours that make no sense are reported in [`Options::problems`] and the
//! default holds.

use std::fmt;
use std::str::FromStr;

use crate::text::{Words, items};

/// Who mounts a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The EROFS driver on the initrd's memory.
    Memback,
    /// The EROFS driver on a regular file, without a block device.
    File,
    /// The EROFS driver on a loop device.
    Loop,
}

/// Every backend, the cheapest first: the order in which they are tried.
pub const BACKENDS: [Backend; 3] = [Backend::Memback, Backend::File, Backend::Loop];

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
            backends: BACKENDS.to_vec(),
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

    /// Reads a command line.
    pub fn parse(text: &str) -> Self {
        let mut options = Self {
            text: text.into(),
            ..Self::default()
        };
        let (mut resume, mut noresume, mut shown) = (None, false, false);
        for (name, value) in Words::new(text) {
            // The kernel's own words have no dots, and `-` for `_` in them is rare but allowed.
            match (name.replace('-', "_").as_str(), value) {
                ("init", Some(path)) => options.init = nonempty(path),
                ("rdinit", Some(path)) => options.rdinit = path.into(),
                ("retain_initrd", None) => options.retain_initrd = true,
                ("root", Some(device)) => options.root = nonempty(device),
                ("rootfstype", Some(types)) => options.rootfstype = nonempty(types),
                ("rootflags", Some(flags)) => options.rootflags = nonempty(flags),
                ("ro", None) => options.root_writable = false,
                ("rw", None) => options.root_writable = true,
                ("rootwait", None) => options.rootwait = Wait::Forever,
                ("rootwait", Some(s)) => options.rootwait(s),
                ("rootdelay", Some(s)) => options.number(name, s, |o, n| o.rootdelay = n),
                ("rd.overlay", value) => options.overlay(value),
                ("rd.overlay.readonly", value) => {
                    options.flag(name, value, |o, on| o.overlay_readonly = on)
                }
                ("rd.overlay.fallback", Some(kind)) => options.overlay_fallback(kind),
                ("rd.layers.backend", Some(list)) => options.backends(list),
                ("rd.layers.only", Some(list)) => options.only = items(list),
                ("rd.layers.skip", Some(list)) => options.skip = items(list),
                ("rd.layers.strict", value) => options.flag(name, value, |o, on| o.strict = on),
                ("rd.break", value) => options.breaks(value),
                ("rd.shell", value) => options.flag(name, value, |o, on| o.shell = on),
                ("rd.emergency", Some(action)) => options.emergency(action),
                ("rd.timeout", Some(s)) => options.number(name, s, |o, n| o.timeout = Some(n)),
                ("panic", Some(s)) => options.number(name, s, |o, n| o.panic = n),
                ("rd.watchdog", Some(path)) if path.starts_with('/') => {
                    options.watchdog = Some(path.into());
                }
                ("rd.watchdog", value) => options.flag(name, value, |o, on| {
                    o.watchdog = on.then(|| "/dev/watchdog".into());
                }),
                ("resume", Some(device)) => resume = nonempty(device),
                ("noresume", None) => noresume = true,
                ("rd.timestamps", value) => options.flag(name, value, |o, on| o.timestamps = on),
                ("debug", None) => options.verbosity = Verbosity::Debug,
                ("loglevel", Some(s)) => options.number(name, s, |o, n: u8| {
                    if n >= 8 {
                        o.verbosity = Verbosity::Debug;
                    }
                }),
                ("rd.debug", value) => options.flag(name, value, |_, on| shown = on),
                ("rd.driver.pre", Some(list)) => options.driver_pre.extend(items(list)),
                ("rd.driver.blacklist", Some(list)) => options.driver_blacklist.extend(items(list)),
                ("systemd.volatile", Some("overlay")) => options.overlay_root = true,
                // `state` is for the system's own systemd (systemd-fstab-generator(8)).
                ("systemd.volatile", value) => options.volatile = boolean(value) == Some(true),
                (ours, _) if ours.starts_with("rd.layers.") || ours.starts_with("rd.overlay.") => {
                    options.problem(name, value, "there is no such option, or it wants a value");
                }
                _ => {}
            }
        }
        if shown {
            options.verbosity = Verbosity::Shown;
        }
        if let Some(device) = resume.filter(|_| !noresume) {
            // software_resume in kernel/power/hibernate.c, a late initcall: had it found a hibernated
            // system, this program would not run.
            let why = "nothing is resumed from here; the kernel does it by itself before /init, where it has the \
                       disk's driver built in";
            options.problem("resume", Some(&device), why);
        }
        options
    }

    /// The programs to try as real init, in order: with `init=`, that one only.
    pub fn inits(&self) -> Vec<String> {
        match &self.init {
            Some(init) => vec![init.clone()],
            None => INITS.map(String::from).to_vec(),
        }
    }

    fn problem(&mut self, name: &str, value: Option<&str>, why: &str) {
        let word = match value {
            Some(value) => format!("{name}={value}"),
            None => name.to_string(),
        };
        self.problems.push(format!("{word}: {why}"));
    }

    fn number<T: FromStr>(&mut self, name: &str, value: &str, set: impl FnOnce(&mut Self, T)) {
        match value.parse() {
            Ok(number) => set(self, number),
            Err(_) => self.problem(name, Some(value), "not a number of this range; ignored"),
        }
    }

    fn flag(&mut self, name: &str, value: Option<&str>, set: impl FnOnce(&mut Self, bool)) {
        match boolean(value) {
            Some(yes) => set(self, yes),
            None => self.problem(name, value, "neither yes nor no; ignored"),
        }
    }

    /// What is no number is for ever (rootwait_timeout_setup in init/do_mounts.c).
    fn rootwait(&mut self, seconds: &str) {
        self.rootwait = match seconds.parse() {
            Ok(seconds) => Wait::Seconds(seconds),
            Err(_) => {
                let why = "not a number of seconds; waiting for ever, as the kernel does then";
                self.problem("rootwait", Some(seconds), why);
                Wait::Forever
            }
        };
    }

    /// What is no plain yes or no is for the plan to read, as `root=` is.
    fn overlay(&mut self, value: Option<&str>) {
        let value = value.filter(|text| !text.is_empty());
        let yes = boolean(value);
        self.overlay_root = yes.unwrap_or(true);
        self.overlay = match yes {
            Some(_) => None,
            None => value.map(Into::into),
        };
    }

    fn overlay_fallback(&mut self, kind: &str) {
        match kind.split_once(':').unwrap_or((kind, "")) {
            ("tmpfs", list) => self.overlay_fallback = Some(items(list)),
            _ => self.problem(
                "rd.overlay.fallback",
                Some(kind),
                "not tmpfs[:option,...]; ignored",
            ),
        }
    }

    fn backends(&mut self, list: &str) {
        let mut backends = Vec::new();
        for item in items(list) {
            match BACKENDS.iter().find(|backend| backend.name() == item) {
                Some(backend) if backends.contains(backend) => {}
                Some(backend) => backends.push(*backend),
                None => self.problem(
                    "rd.layers.backend",
                    Some(&item),
                    "not one of memback, file, loop; ignored",
                ),
            }
        }
        if !backends.is_empty() {
            self.backends = backends;
        }
    }

    /// A point of another initramfs (dracut's `pre-pivot`, ...) stops where none does: who asks for a
    /// shell is to get one.
    fn breaks(&mut self, value: Option<&str>) {
        let list = match boolean(value) {
            Some(false) => return,
            Some(true) => "switch",
            None => value.unwrap_or_default(),
        };
        for item in items(list) {
            match item.as_str() {
                "plan" => self.breaks.push(Break::Plan),
                "mount" => self.breaks.push(Break::Mount),
                "switch" => self.breaks.push(Break::Switch),
                _ => {
                    self.breaks.push(Break::Switch);
                    let why = "not one of plan, mount, switch; stopping at switch";
                    self.problem("rd.break", Some(&item), why);
                }
            }
        }
    }

    fn emergency(&mut self, action: &str) {
        match action {
            "reboot" => self.emergency = Some(Emergency::Reboot),
            "poweroff" => self.emergency = Some(Emergency::Poweroff),
            "halt" => self.emergency = Some(Emergency::Halt),
            _ => self.problem(
                "rd.emergency",
                Some(action),
                "not one of reboot, poweroff, halt; ignored",
            ),
        }
    }
}

/// What a word says that is on or off; one without a value says yes.
fn boolean(value: Option<&str>) -> Option<bool> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        None | Some("1" | "y" | "yes" | "on" | "true") => Some(true),
        Some("0" | "n" | "no" | "off" | "false") => Some(false),
        Some(_) => None,
    }
}

impl Backend {
    /// Its name on the command line and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memback => "memback",
            Self::File => "file",
            Self::Loop => "loop",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn nonempty(value: &str) -> Option<String> {
    Some(value)
        .filter(|value| !value.is_empty())
        .map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_wins_and_dashes_equal_underscores() {
        let options = Options::parse(
            "init=/a rd.layers.strict=0 init=/b rd.layers.strict rw ro rw rd_x rd.driver-x=1",
        );
        assert_eq!(options.init.as_deref(), Some("/b"));
        assert!(options.strict && options.root_writable);
        assert_eq!(options.problems, [""; 0]);
    }

    #[test]
    fn what_follows_the_double_dash_is_not_ours() {
        let options = Options::parse("rd.shell=0 -- init=/x rd.shell=1");
        assert_eq!((options.init, options.shell), (None, false));
    }

    #[test]
    fn an_ordinary_distribution_command_line_is_left_alone() {
        let text = "BOOT_IMAGE=/vmlinuz-6.12 root=UUID=1-2 ro quiet splash console=ttyS0,115200n8 \
                    rd.luks.uuid=x systemd.unit=multi-user.target net.ifnames=0 rd.lvm=0";
        let expected = Options {
            root: Some("UUID=1-2".into()),
            ..Options::default()
        };
        assert_eq!(Options::parse(text), expected);
    }

    #[test]
    fn every_option_has_its_forms() {
        let options = Options::parse(
            "rd.overlay=tmpfs:size=50%,nr_inodes=1k rd.layers.backend=loop,file rd.layers.only=0,app.erofs \
             rd.layers.skip=2 rd.break=plan,switch rd.emergency=poweroff rd.timeout=9 panic=-1 rd.debug \
             debug rootwait=3 rootdelay=2 rdinit=/sbin/early loglevel=3 rd.timestamps=0 rd.watchdog",
        );
        let expected = Options {
            rdinit: "/sbin/early".into(),
            overlay: Some("tmpfs:size=50%,nr_inodes=1k".into()),
            overlay_root: true,
            backends: vec![Backend::Loop, Backend::File],
            only: vec!["0".into(), "app.erofs".into()],
            skip: vec!["2".into()],
            breaks: vec![Break::Plan, Break::Switch],
            emergency: Some(Emergency::Poweroff),
            timeout: Some(9),
            panic: -1,
            watchdog: Some("/dev/watchdog".into()),
            timestamps: false,
            verbosity: Verbosity::Shown,
            rootwait: Wait::Seconds(3),
            rootdelay: 2,
            ..Options::default()
        };
        assert_eq!(options, expected);
        let options =
            Options::parse("rd.layers.skip=1 rd.layers.skip=2,3 rd.layers.only=a rd.layers.only=b");
        assert_eq!((options.skip, options.only), (items("2,3"), items("b")));
        assert!(Options::parse("rd.overlay.readonly").overlay_readonly);
        let options = Options::parse("rd.overlay=LABEL=a:b rd.overlay.fallback=tmpfs:size=1g");
        assert_eq!(options.overlay.as_deref(), Some("LABEL=a:b"));
        assert_eq!(options.overlay_fallback, Some(vec!["size=1g".into()]));
        for (text, over_root) in [("rd.overlay", true), ("rd.overlay=0", false)] {
            let expected = Options {
                overlay_root: over_root,
                ..Options::default()
            };
            assert_eq!(
                Options::parse(&format!("rd.overlay=LABEL=a {text}")),
                expected
            );
        }
        for (text, verbosity) in [
            ("rd.debug", Verbosity::Shown),
            ("rd.debug debug", Verbosity::Shown),
            ("rd.debug rd.debug=0", Verbosity::Normal),
            ("rd.debug debug rd.debug=no", Verbosity::Debug),
        ] {
            assert_eq!(Options::parse(text).verbosity, verbosity, "{text}");
        }
        for (text, breaks) in [
            ("rd.break", &[Break::Switch][..]),
            ("rd.break=1", &[Break::Switch]),
            ("rd.break=0", &[]),
            ("rd.break=pre-pivot", &[Break::Switch]),
            ("rd.break=plan rd.break=mount", &[Break::Plan, Break::Mount]),
        ] {
            assert_eq!(Options::parse(text).breaks, breaks, "{text}");
        }
        let watchdog = Options::parse("rd.watchdog=/dev/watchdog1").watchdog;
        assert_eq!(watchdog.as_deref(), Some("/dev/watchdog1"));
    }

    #[test]
    fn values_that_make_no_sense_are_named_and_the_default_holds() {
        let options = Options::parse(
            "rd.shell=perhaps rd.layers.backend=disk rd.timeout=soon rd.layers.oly=1 rd.break=now rd.emergency=sing \
             rd.overlay.fallback=LABEL=x rd.watchdog=dog panic=99999999999999999999",
        );
        assert_eq!(
            options.problems,
            [
                "rd.shell=perhaps: neither yes nor no; ignored",
                "rd.layers.backend=disk: not one of memback, file, loop; ignored",
                "rd.timeout=soon: not a number of this range; ignored",
                "rd.layers.oly=1: there is no such option, or it wants a value",
                "rd.break=now: not one of plan, mount, switch; stopping at switch",
                "rd.emergency=sing: not one of reboot, poweroff, halt; ignored",
                "rd.overlay.fallback=LABEL=x: not tmpfs[:option,...]; ignored",
                "rd.watchdog=dog: neither yes nor no; ignored",
                "panic=99999999999999999999: not a number of this range; ignored",
            ]
        );
        let expected = Options {
            problems: options.problems.clone(),
            // Who asks for a shell gets one.
            breaks: vec![Break::Switch],
            ..Options::default()
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn a_hibernated_system_is_not_resumed_and_that_is_told() {
        let problems = |text: &str| Options::parse(text).problems;
        assert_eq!(
            problems("root=/dev/sda1 resume=/dev/sda2 resume_offset=1"),
            [
                "resume=/dev/sda2: nothing is resumed from here; the kernel does it by itself before /init, where it \
              has the disk's driver built in"
            ]
        );
        for text in [
            "resume=/dev/sda2 noresume",
            "noresume resume=/dev/sda2",
            "resume=",
        ] {
            assert_eq!(problems(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_wait_that_makes_no_sense_is_for_ever_as_in_the_kernel() {
        let options = Options::parse("rootwait=5s");
        assert_eq!(options.rootwait, Wait::Forever);
        assert_eq!(
            options.problems,
            ["rootwait=5s: not a number of seconds; waiting for ever, as the kernel does then"]
        );
    }
}
