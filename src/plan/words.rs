//! The words of the kernel command line that `/init` reads: one entry each in [`WORDS`].
//!
//! Words are split as the kernel splits them ([`Words`]): double quotes keep spaces, `-` and `_` are the
//! same in names, the last of several wins, and words behind `--` are for the real init. `rd.break=` and the
//! lists of drivers add up, as dracut's do. Other words are left alone. A value that cannot be used is
//! reported in [`Options::problems`], and the default holds.
//!
//! The man page and the table in docs/cmdline.md show [`DOCS`], the other half of the entries. It is not
//! linked into `/init`.

use std::str::FromStr;

use super::backend::{self, Backend};
use super::cmdline::{Break, Emergency, Options, Verbosity, Wait};
use super::feature::{DISK, Feature, SYSTEMD, WATCHDOG};
use crate::text::{Words, items};

/// How a word is read.
#[derive(Clone, Copy)]
enum Read {
    /// `word=VALUE`.
    Value(fn(&mut Reader, &str)),
    /// `word` alone.
    Bare(fn(&mut Reader)),
    /// `word`, `word=1` or `word=0`, and the same as yes, no, on, off.
    Flag(fn(&mut Reader, bool)),
    /// `word` or `word=VALUE`.
    Either(fn(&mut Reader, Option<&str>)),
    /// With or without a value it has no effect but this warning.
    Off(&'static str),
}

use Read::{Bare, Either, Flag, Off, Value};

/// `read` for a word that needs a cargo feature.
const fn needs(feature: Feature, read: Read) -> Read {
    match feature.is_on {
        true => read,
        false => Off(feature.missing),
    }
}

/// What people are told of a word.
#[derive(Clone, Copy, Debug)]
pub struct Doc {
    /// The name, with underscores.
    pub name: &'static str,
    /// What follows the name: `=PATH`; `[=...]` where it may be missing; empty for a word that stands alone.
    pub value: &'static str,
    /// What holds without the word.
    pub default: &'static str,
    /// What the word does, in a sentence or two.
    pub help: &'static str,
}

macro_rules! words {
    ($($name:literal, $value:literal, $default:literal, $help:literal, $read:expr;)*) => {
        /// Every word, in the order of the man page.
        const WORDS: &[(&str, Read)] = &[$(($name, $read)),*];

        /// What people are told of each.
        pub const DOCS: &[Doc] = &[$(Doc { name: $name, value: $value, default: $default, help: $help }),*];
    };
}

words! {
    "init", "=PATH", "the first of /sbin/init, /etc/init, /bin/init, /bin/sh that exists",
    "The real init.",
    Value(|r, path| r.options.init = nonempty(path));

    "rdinit", "=PATH", "/init",
    "The kernel's own word: the name of layerinit's /init in the initramfs.",
    Value(|r, path| r.options.rdinit = path.into());

    "retain_initrd", "", "the kernel frees the initrd",
    "The kernel's own word: keep the initrd readable at /sys/firmware/initrd (Linux 6.8 and newer). Layers \
     that are appended to the initrd need it, except with CONFIG_BLK_DEV_RAM=y or the memback patches.",
    Bare(|r| r.options.retain_initrd = true);

    "root", "=DEVICE", "no device",
    "A device that becomes the lowest layer; without layers, the root itself: /dev/vda1, UUID=, LABEL=, \
     PARTUUID= (with /PARTNROFF=N), PARTLABEL=, /dev/disk/by-uuid/... and so on, 8:1 or 0801. Two devices \
     that match are an error.",
    needs(DISK, Value(|r, device| r.options.root = nonempty(device)));

    "rootfstype", "=TYPE[,TYPE...]", "from the superblock",
    "Filesystem types to try for root=. auto reads the superblock.",
    Value(|r, types| r.options.rootfstype = nonempty(types));

    "rootflags", "=OPTION[,OPTION...]", "none",
    "Mount options for root=, as mount(8) takes them.",
    Value(|r, flags| r.options.rootflags = nonempty(flags));

    "ro", "", "set",
    "Mount root= read-only.",
    Bare(|r| r.options.root_writable = false);

    "rw", "", "not set",
    "Mount root= writable, where it is the root itself. A layer is always read-only.",
    Bare(|r| r.options.root_writable = true);

    "rootwait", "[=SECONDS]", "10 seconds",
    "Wait for root= for ever, or for so many seconds; also for a disc or a card in its drive.",
    Either(Reader::rootwait);

    "rootdelay", "=SECONDS", "0",
    "Wait so long before looking for root=.",
    Value(|r, s| r.number(s, |o, n| o.rootdelay = n));

    "rd.timeout", "=SECONDS", "10",
    "Wait at most so long for a device; 0 waits for ever.",
    Value(|r, s| r.number(s, |o, n| o.timeout = Some(n)));

    "rd.overlay", "[=tmpfs[:OPTION,...]|=DEVICE[:DIRECTORY]|=0]", "tmpfs",
    "What takes the writes: a tmpfs with these options (size=50%, nr_inodes=...: tmpfs(5)), or a directory \
     of a device, which keeps them. Without a value: an overlay over root= even where there are no layers.",
    Either(Reader::overlay);

    "rd.overlay.fallback", "=tmpfs[:OPTION,...]", "the boot fails",
    "A tmpfs takes the writes where the device of rd.overlay= cannot.",
    Value(Reader::overlay_fallback);

    "rd.overlay.readonly", "[=0|1]", "0",
    "Nothing takes writes: the layers alone, read-only.",
    Flag(|r, on| r.options.overlay_readonly = on);

    "rd.layers.backend", "=BACKEND[,BACKEND...]", "memback,file,loop,extract",
    "The backends to try for each layer, in this order.",
    Value(Reader::backends);

    "rd.layers.only", "=LAYER[,LAYER...]", "all",
    "The only layers to use: number, file name (with or without ending) or volume label.",
    Value(|r, list| r.options.only = items(list));

    "rd.layers.skip", "=LAYER[,LAYER...]", "none",
    "Layers to leave out: number, file name (with or without ending) or volume label.",
    Value(|r, list| r.options.skip = items(list));

    "rd.layers.strict", "[=0|1]", "0",
    "Anything in the initrd that is neither cpio nor EROFS stops the boot. Without this word it is a \
     warning, and the layers before it are used.",
    Flag(|r, on| r.options.strict = on);

    "rd.break", "[=plan|mount|switch]", "no stop",
    "Start a shell at that point (switch if the value is not one of these); the boot goes on when it ends.",
    Either(Reader::breaks);

    "rd.shell", "[=0|1]", "1",
    "Whether a failed boot starts a shell.",
    Flag(|r, on| r.options.shell = on);

    "rd.emergency", "=reboot|poweroff|halt", "panic=",
    "What a failed boot does where no shell can be started, or when the shell has ended.",
    Value(Reader::emergency);

    "panic", "=SECONDS", "0",
    "The kernel's own word: a failed boot restarts after so many seconds; a negative value restarts at once, \
     0 waits for ever.",
    Value(|r, s| r.number(s, |o, n| o.panic = n));

    "rd.watchdog", "[=DEVICE|=0|=1]", "0",
    "Start this watchdog (/dev/watchdog without a value), and ping it until the real init starts.",
    needs(WATCHDOG, Either(Reader::watchdog));

    "rd.timestamps", "[=0|1]", "1",
    "Tell systemd when the initramfs began.",
    needs(SYSTEMD, Flag(|r, on| r.options.timestamps = on));

    "rd.debug", "[=0|1]", "0",
    "Log everything that is tried and refused, at a level that the console shows.",
    Flag(|r, on| r.shown = on);

    "debug", "", "not set",
    "The kernel's own word: log everything that is tried and refused, at the kernel's debug level.",
    Bare(|r| r.options.verbosity = Verbosity::Debug);

    "loglevel", "=LEVEL", "the kernel's",
    "The kernel's own word: which messages the console shows. 8 means the same as debug.",
    Value(|r, s| r.number(s, |o, n: u8| if n >= 8 { o.verbosity = Verbosity::Debug }));

    "quiet", "", "not set",
    "The kernel's own word: the console shows warnings and errors only.",
    Bare(|_| {});

    "rd.driver.pre", "=MODULE[,MODULE...]", "none",
    "Modules to load before all others.",
    Value(|r, list| r.options.driver_pre.extend(items(list)));

    "rd.driver.blacklist", "=MODULE[,MODULE...]", "none",
    "Modules never to load.",
    Value(|r, list| r.options.driver_blacklist.extend(items(list)));

    "systemd.volatile", "=overlay", "not set",
    "The same as rd.overlay. systemd.volatile=yes is not done, and a warning says so.",
    Either(|r, value| match value {
        Some("overlay") => r.options.overlay_root = true,
        // `state` is for the system's own systemd (systemd-fstab-generator(8)).
        value => r.options.volatile = boolean(value) == Some(true),
    });

    "resume", "=DEVICE", "none",
    "A warning says that nothing is resumed: the kernel does that by itself before /init, where it has the \
     disk's driver built in.",
    Value(|r, device| r.resume = nonempty(device));

    "noresume", "", "not set",
    "Silences the warning of resume=.",
    Bare(|r| r.noresume = true);
}

/// A command line being read.
#[derive(Default)]
struct Reader {
    options: Options,
    /// The word that is being read, as it is written.
    name: String,
    resume: Option<String>,
    noresume: bool,
    /// `rd.debug`.
    shown: bool,
}

impl Options {
    /// Reads a command line.
    pub fn parse(text: &str) -> Self {
        let mut reader = Reader::default();
        for (name, value) in Words::new(text) {
            reader.name = name.to_string();
            reader.word(value);
        }
        if reader.shown {
            reader.options.verbosity = Verbosity::Shown;
        }
        if let Some(device) = reader.resume.take().filter(|_| !reader.noresume) {
            // software_resume in kernel/power/hibernate.c, a late initcall: had it found a hibernated
            // system, this program would not run.
            let why = "nothing is resumed from here; the kernel does it by itself before /init, where it has the \
                       disk's driver built in";
            reader.name = "resume".into();
            reader.problem(Some(&device), why);
        }
        reader.options.text = text.into();
        reader.options
    }
}

impl Reader {
    fn word(&mut self, value: Option<&str>) {
        // The kernel's own words have no dots, and `-` for `_` in them is rare but allowed.
        let name = self.name.replace('-', "_");
        let known = WORDS.iter().find(|(word, _)| *word == name);
        match (known.map(|(_, read)| read), value) {
            (Some(Value(read)), Some(value)) => read(self, value),
            (Some(Bare(read)), None) => read(self),
            (Some(Either(read)), value) => read(self, value),
            (Some(Off(why)), value) => self.problem(value, why),
            (Some(Flag(read)), value) => match boolean(value) {
                Some(on) => read(self, on),
                None => self.problem(value, "neither yes nor no; ignored"),
            },
            _ if name.starts_with("rd.layers.") || name.starts_with("rd.overlay.") => {
                self.problem(value, "there is no such option, or it wants a value");
            }
            _ => {}
        }
    }

    fn problem(&mut self, value: Option<&str>, why: &str) {
        let word = match value {
            Some(value) => format!("{}={value}", self.name),
            None => self.name.clone(),
        };
        self.options.problems.push(format!("{word}: {why}"));
    }

    fn number<T: FromStr>(&mut self, value: &str, set: impl FnOnce(&mut Options, T)) {
        match value.parse() {
            Ok(number) => set(&mut self.options, number),
            Err(_) => self.problem(Some(value), "not a number of this range; ignored"),
        }
    }

    /// What is no number is for ever (rootwait_timeout_setup in init/do_mounts.c).
    fn rootwait(&mut self, seconds: Option<&str>) {
        self.options.rootwait = match seconds.map(str::parse) {
            None => Wait::Forever,
            Some(Ok(seconds)) => Wait::Seconds(seconds),
            Some(Err(_)) => {
                let why = "not a number of seconds; waiting for ever, as the kernel does then";
                self.problem(seconds, why);
                Wait::Forever
            }
        };
    }

    /// What is no plain yes or no is for the plan to read, as `root=` is.
    fn overlay(&mut self, value: Option<&str>) {
        let value = value.filter(|text| !text.is_empty());
        let yes = boolean(value);
        self.options.overlay_root = yes.unwrap_or(true);
        self.options.overlay = match yes {
            Some(_) => None,
            None => value.map(Into::into),
        };
    }

    fn overlay_fallback(&mut self, kind: &str) {
        match kind.split_once(':').unwrap_or((kind, "")) {
            ("tmpfs", list) => self.options.overlay_fallback = Some(items(list)),
            _ => self.problem(Some(kind), "not tmpfs[:option,...]; ignored"),
        }
    }

    fn watchdog(&mut self, value: Option<&str>) {
        let device = match value {
            Some(path) if path.starts_with('/') => Some(path),
            value => match boolean(value) {
                Some(on) => on.then_some("/dev/watchdog"),
                None => return self.problem(value, "neither yes nor no; ignored"),
            },
        };
        self.options.watchdog = device.map(Into::into);
    }

    fn backends(&mut self, list: &str) {
        let mut backends = Vec::new();
        for item in items(list) {
            match Backend::ALL.iter().find(|backend| backend.name() == item) {
                Some(backend) if backends.contains(backend) => {}
                Some(backend) => backends.push(*backend),
                None => {
                    let names = backend::names();
                    self.problem(Some(&item), &format!("not one of {names}; ignored"));
                }
            }
        }
        if !backends.is_empty() {
            self.options.backends = backends;
        }
    }

    /// A point of another initramfs (dracut's `pre-pivot`, ...) stops at the last one: someone who asks
    /// for a shell is to get one.
    fn breaks(&mut self, value: Option<&str>) {
        let list = match boolean(value) {
            Some(false) => return,
            Some(true) => "switch",
            None => value.unwrap_or_default(),
        };
        for item in items(list) {
            let point = match item.as_str() {
                "plan" => Break::Plan,
                "mount" => Break::Mount,
                "switch" => Break::Switch,
                _ => {
                    let why = "not one of plan, mount, switch; stopping at switch";
                    self.problem(Some(&item), why);
                    Break::Switch
                }
            };
            self.options.breaks.push(point);
        }
    }

    fn emergency(&mut self, action: &str) {
        self.options.emergency = Some(match action {
            "reboot" => Emergency::Reboot,
            "poweroff" => Emergency::Poweroff,
            "halt" => Emergency::Halt,
            _ => return self.problem(Some(action), "not one of reboot, poweroff, halt; ignored"),
        });
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

fn nonempty(value: &str) -> Option<String> {
    Some(value)
        .filter(|value| !value.is_empty())
        .map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The options of a command line, without the text.
    fn parse(text: &str) -> Options {
        Options {
            text: String::new(),
            ..Options::parse(text)
        }
    }

    #[test]
    fn the_last_word_wins_and_dashes_equal_underscores() {
        let options = parse(
            "init=/a rd.layers.strict=0 init=/b rd.layers.strict rw ro rw rd_x rd.driver-x=1",
        );
        assert_eq!(options.init.as_deref(), Some("/b"));
        assert!(options.strict && options.root_writable);
        assert_eq!(options.problems, [""; 0]);
    }

    #[test]
    fn what_follows_the_double_dash_is_not_ours() {
        let options = parse("rd.shell=0 -- init=/x rd.shell=1");
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
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn every_option_has_its_forms() {
        let options = parse(
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
            parse("rd.layers.skip=1 rd.layers.skip=2,3 rd.layers.only=a rd.layers.only=b");
        assert_eq!((options.skip, options.only), (items("2,3"), items("b")));
        assert!(parse("rd.overlay.readonly").overlay_readonly);
        let options = parse("rd.overlay=LABEL=a:b rd.overlay.fallback=tmpfs:size=1g");
        assert_eq!(options.overlay.as_deref(), Some("LABEL=a:b"));
        assert_eq!(options.overlay_fallback, Some(vec!["size=1g".into()]));
        for (text, over_root) in [("rd.overlay", true), ("rd.overlay=0", false)] {
            let expected = Options {
                overlay_root: over_root,
                ..Options::default()
            };
            assert_eq!(parse(&format!("rd.overlay=LABEL=a {text}")), expected);
        }
        for (text, verbosity) in [
            ("rd.debug", Verbosity::Shown),
            ("rd.debug debug", Verbosity::Shown),
            ("rd.debug rd.debug=0", Verbosity::Normal),
            ("rd.debug debug rd.debug=no", Verbosity::Debug),
        ] {
            assert_eq!(parse(text).verbosity, verbosity, "{text}");
        }
        for (text, breaks) in [
            ("rd.break", &[Break::Switch][..]),
            ("rd.break=1", &[Break::Switch]),
            ("rd.break=0", &[]),
            ("rd.break=pre-pivot", &[Break::Switch]),
            ("rd.break=plan rd.break=mount", &[Break::Plan, Break::Mount]),
        ] {
            assert_eq!(parse(text).breaks, breaks, "{text}");
        }
        let watchdog = parse("rd.watchdog=/dev/watchdog1").watchdog;
        assert_eq!(watchdog.as_deref(), Some("/dev/watchdog1"));
    }

    #[test]
    fn values_that_make_no_sense_are_named_and_the_default_holds() {
        let options = parse(
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
        let problems = |text: &str| parse(text).problems;
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
        let options = parse("rootwait=5s");
        assert_eq!(options.rootwait, Wait::Forever);
        assert_eq!(
            options.problems,
            ["rootwait=5s: not a number of seconds; waiting for ever, as the kernel does then"]
        );
    }

    #[test]
    fn each_word_is_described_in_sentences_and_once() {
        let backends = DOCS.iter().find(|doc| doc.name == "rd.layers.backend");
        let default = backend::names().replace(' ', "");
        assert_eq!(backends.map(|doc| doc.default), Some(default.as_str()));
        for (number, doc) in DOCS.iter().enumerate() {
            assert!(!doc.default.is_empty(), "{}", doc.name);
            assert!(doc.help.ends_with('.'), "{}", doc.name);
            assert!(
                DOCS[..number].iter().all(|other| other.name != doc.name),
                "{}",
                doc.name
            );
        }
    }

    #[test]
    fn the_dictionary_of_the_fuzz_target_has_every_word() {
        let dictionary = include_str!("../../fuzz/dict/cmdline");
        for doc in DOCS {
            let plain = format!("\"{}\"", doc.name);
            let with_value = format!("\"{}=", doc.name);
            let found = dictionary
                .lines()
                .any(|line| line == plain || line.starts_with(&with_value));
            assert!(found, "{} is missing in fuzz/dict/cmdline", doc.name);
        }
    }
}
