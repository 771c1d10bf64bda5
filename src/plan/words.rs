//! The words of the kernel command line that `/init` reads: one entry each in `words!`.
//!
//! [`Words`] splits the line as the kernel does: double quotes keep spaces, and words after `--` are for the
//! real init. In names, `-` equals `_`. The last of several equal words wins; `rd.layers.from=`, `rd.break=` and
//! the lists of drivers accumulate, as in dracut. Unknown words are ignored. A value that cannot be used adds a warning to
//! [`Options::problems`], and the default applies.
//!
//! [`DOCS`] is not linked into `/init`.

use std::str::FromStr;

use super::backend::{self, Backend};
use super::cmdline::{Break, Emergency, Options, Stale, Verbosity, Wait};
use super::device_spec::is_path;
use super::feature::{DISK, Feature, SYSTEMD, VERITY, WATCHDOG};
use crate::text::{Words, items};

/// How a word is read. Each function gets the value.
#[derive(Clone, Copy)]
enum Read {
    /// `word=VALUE`.
    Value(fn(&mut Parser, &str)),
    /// `word` alone.
    Bare(fn(&mut Parser)),
    /// `word`, or `word=` with one of 1, yes, on, 0, no, off.
    Flag(fn(&mut Parser, bool)),
    /// `word` or `word=VALUE`.
    Either(fn(&mut Parser, Option<&str>)),
    /// With or without a value it has no effect except this warning.
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

/// The documentation of a word, in plain text.
#[derive(Clone, Copy, Debug)]
pub struct Doc {
    /// The heading under which the documentation lists the word.
    pub section: &'static str,
    /// The name, with underscores.
    pub name: &'static str,
    /// What follows the name: `=PATH`; `[=...]` if the value is optional; empty for a word without a value.
    pub value: &'static str,
    /// What applies without the word.
    pub default: &'static str,
    /// The effect, in a few sentences.
    pub help: &'static str,
}

/// Whether a word with this value cannot defeat verification: it selects neither what boots nor who gets a
/// shell.
type Harmless = fn(Option<&str>) -> bool;

/// Any value is harmless.
fn any(_: Option<&str>) -> bool {
    true
}

/// Harmless only if it says no.
fn no(value: Option<&str>) -> bool {
    boolean(value) == Some(false)
}

/// Harmless if it names no device for the writes.
fn memory(value: Option<&str>) -> bool {
    let value = value.filter(|value| !value.is_empty());
    boolean(value).is_some()
        || value.is_some_and(|value| value == "tmpfs" || value.starts_with("tmpfs:"))
}

macro_rules! harmless {
    () => {
        |_| false
    };
    ($harmless:path) => {
        $harmless
    };
}

macro_rules! words {
    ($($section:literal { $($name:literal, $value:literal, $default:literal, $help:literal, $read:expr $(, $harmless:path)?;)* })*) => {
        /// Every word and how it is read.
        const WORDS: &[(&str, Read)] = &[$($(($name, $read)),*),*];

        /// Every word, and the values that cannot defeat verification.
        const HARMLESS: &[(&str, Harmless)] = &[$($(($name, harmless!($($harmless)?))),*),*];

        /// The documentation of every word, by section.
        pub const DOCS: &[Doc] = &[$($(Doc {
            section: $section,
            name: $name,
            value: $value,
            default: $default,
            help: $help,
        }),*),*];
    };
}

// One entry per word: name, value, default, help, how to read it, and for a word that a loader which verifies
// its layers always allows, which values these are (without any: none, so that the policy has to allow it).
// `rd.overlay.stale`, `.reset` and `.for` only matter with a device in rd.overlay=, which needs a policy, but
// need one as well: a policy that allows the device may rely on stale=fail, and on what the device keeps.
// After a change, update the tables of docs/cmdline.md: UPDATE_DOCS=1 cargo test --test suite
// docs::the_page_on_the_command_line
words! {
"Words of the kernel" {
    "retain_initrd", "", "the kernel frees the initrd",
    "The kernel keeps the initrd readable at /sys/firmware/initrd (Linux 6.8 and newer). Layers that are appended \
     to the initrd need this word, except with CONFIG_BLK_DEV_RAM=y or the memback patches.",
    Bare(|p| p.options.retain_initrd = true), any;

    "resume", "=DEVICE", "none",
    "Has no effect except a warning: /init resumes no hibernated system. The kernel does that itself before it \
     starts /init, if the disk's driver is built in.",
    Value(|p, device| p.resume = nonempty(device)), any;

    "noresume", "", "not set",
    "Silences the warning of resume=.",
    Bare(|p| p.noresume = true), any;

    "rdinit", "=PATH", "/init",
    "The path of layerinit's /init in the loader.",
    Value(|p, path| p.options.rdinit = path.into()), any;

    "init", "=PATH", "the first executable of /sbin/init, /etc/init, /bin/init, /bin/sh",
    "The real init.",
    Value(|p, path| p.options.init = nonempty(path));

    "debug", "", "not set",
    "Also logs each refused attempt, at the kernel's debug level.",
    Bare(|p| p.options.verbosity = Verbosity::Debug), any;

    "loglevel", "=LEVEL", "the kernel's",
    "The messages that the console shows, including those of /init: 0 to 15. From 8 on the same as debug.",
    Value(|p, s| p.number(s, |o, n: u8| if n >= 8 { o.verbosity = Verbosity::Debug })), any;

    "quiet", "", "not set",
    "The console shows only warnings and errors.",
    Bare(|_| {}), any;

    "panic", "=SECONDS", "0",
    "A failed boot restarts after this time; with a negative value at once, with 0 never, and a message says so. \
     After a rescue shell it restarts at once.",
    Value(|p, s| p.number(s, |o, n| o.panic = n)), any;
}

"The root device" {
    "root", "=DEVICE", "none",
    "The device that is the lowest layer; without other layers, the root itself: /dev/vda1, UUID=, LABEL=, \
     PARTUUID= (also with /PARTNROFF=N), PARTLABEL=, /dev/disk/by-uuid/... (by-label, by-partuuid, by-partlabel), \
     8:1 or 0801. Two matching devices are an error: /init does not guess.",
    needs(DISK, Value(|p, device| p.options.root = nonempty(device)));

    "rootfstype", "=TYPE[,TYPE...]", "auto",
    "The filesystem types to try for root=, in order; auto detects the type from the superblock.",
    Value(|p, types| p.options.rootfstype = nonempty(types)), any;

    "rootflags", "=OPTION[,OPTION...]", "none",
    "The mount options for root=, as for mount(8).",
    Value(|p, flags| p.options.rootflags = nonempty(flags));

    "ro", "", "set",
    "Mounts root= read-only.",
    Bare(|p| p.options.root_writable = false), any;

    "rw", "", "not set",
    "Mounts root= writable if it is the root itself. As a layer, or on a read-only device, it stays read-only.",
    Bare(|p| p.options.root_writable = true), any;

    "rootwait", "[=SECONDS]", "10",
    "Waits this long for root=, without a value forever; also for a medium that is missing in its drive.",
    Either(Parser::rootwait), any;

    "rootdelay", "=SECONDS", "0",
    "Waits this long before it looks for root=.",
    Value(|p, s| p.number(s, |o, n| o.rootdelay = n)), any;

    "rd.timeout", "=SECONDS", "10",
    "Waits this long for a device; 0 means forever. A number in rootwait= overrides it.",
    Value(|p, s| p.number(s, |o, n| o.timeout = Some(n))), any;
}

"dm-verity" {
    "roothash", "=HASH", "none",
    "The root device is verified: the root hash of its dm-verity hash tree, in hexadecimal. The device is /dev/mapper/root, \
     and root= may be left out. Without the words below, the UUIDs of the two partitions are the halves of the hash, as \
     in the Discoverable Partitions Specification.",
    needs(VERITY, Value(|p, hash| p.options.roothash = nonempty(hash)));

    "systemd.verity_root_data", "=DEVICE", "the partition with the first half of roothash= as its UUID",
    "The device with the data, in any form of root=.",
    needs(VERITY, Value(|p, device| p.options.verity_data = nonempty(device)));

    "systemd.verity_root_hash", "=DEVICE", "the partition with the second half of roothash= as its UUID",
    "The device with the hash tree; may be the same, with hash-offset=BYTES.",
    needs(VERITY, Value(|p, device| p.options.verity_hash = nonempty(device)));

    "systemd.verity_root_options", "=OPTION[,OPTION...]", "none",
    "Options of dm-verity as in veritytab(5): restart-on-corruption, panic-on-corruption, ignore-corruption, \
     ignore-zero-blocks, check-at-most-once, hash-offset=, root-hash-signature=PATH or base64:..., and with \
     superblock=no the format. Others fail the boot.",
    needs(VERITY, Value(|p, list| p.options.verity_options = nonempty(list)));
}

"The upper layer" {
    "rd.overlay", "[=tmpfs[:OPTION,...]|=DEVICE[:DIRECTORY]|=0|=1]", "tmpfs over layers, nothing over root= alone",
    "What takes the writes: a tmpfs with these options (size=50%, nr_inodes= and so on: tmpfs(5)), or a directory on \
     a device in any form of root=, which keeps them (DIRECTORY: layerinit by default). Without a value or with 1: \
     a tmpfs, over root= even without other layers, so that nothing is written to the device.",
    Either(Parser::overlay), memory;

    "rd.overlay.fallback", "=tmpfs[:OPTION,...]", "the boot fails",
    "A tmpfs takes the writes if the device of rd.overlay= cannot.",
    Value(Parser::overlay_fallback), any;

    "rd.overlay.stale", "=keep|fail|reset", "keep",
    "What /init does with a directory of rd.overlay=DEVICE that was written over other layers or another root=: keep \
     uses it, with a warning that names what changed; fail ends the boot (or uses rd.overlay.fallback=); reset begins \
     a new one, and keeps the old one until the next reset.",
    Value(Parser::overlay_stale);

    "rd.overlay.reset", "[=VALUE|=0|=1]", "0",
    "Replaces the directory of rd.overlay=DEVICE with a new one, and keeps the old one until the next reset. It does so once: at \
     the next boot with the same word /init does nothing, until a boot without the word or with another VALUE.",
    Either(Parser::overlay_reset);

    "rd.overlay.for", "=/DIRECTORY[,/DIRECTORY...]", "the whole root",
    "The directory of rd.overlay=DEVICE keeps the writes to these directories only. A tmpfs takes all other writes \
     (with the options of rd.overlay.fallback=), or nothing with rd.overlay.readonly.",
    Value(|p, list| p.options.overlay_for = items(list));

    "rd.overlay.readonly", "[=0|1]", "0",
    "Nothing takes writes: the root is read-only, except for the directories of rd.overlay.for=.",
    Flag(|p, on| p.options.overlay_readonly = on), any;

    "systemd.volatile", "=overlay", "not set",
    "The same as rd.overlay. Any other value of systemd.volatile= has no effect; for yes, a warning says so.",
    Either(|p, value| match value {
        Some("overlay") => p.options.overlay_root = true,
        // `state` is for the system's own systemd (systemd-fstab-generator(8)).
        value => p.options.volatile = boolean(value) == Some(true),
    }), any;
}

"Layers" {
    "rd.layers.from", "=[DEVICE:]PATH", "none",
    "Layers that are not in the initrd: an image, an archive, or a directory whose files are layers in the order of \
     their names. May be given several times. DEVICE has any form of root=; /init waits for it as for root= and \
     mounts it read-only. DEVICE ends at the first colon before a slash, as in LABEL=sys:/a. DEVICE: without a PATH \
     is a partition without a filesystem, with images one after the other. A PATH without a device is in the \
     initramfs. These layers are the lowest, except for root=.",
    Value(Parser::from);

    "rd.layers.backend", "=BACKEND[,BACKEND...]", "memback,file,loop,extract",
    "The backends to try for each layer, in this order.",
    Value(Parser::backends), any;

    "rd.layers.only", "=LAYER[,LAYER...]", "all",
    "The layers to use, each by volume label, file name (with or without extension) or number.",
    Value(|p, list| p.options.only = items(list));

    "rd.layers.skip", "=LAYER[,LAYER...]", "none",
    "The layers to leave out, each by volume label, file name (with or without extension) or number.",
    Value(|p, list| p.options.skip = items(list));

    "rd.layers.strict", "[=0|1]", "0",
    "Data in the initrd that is neither cpio nor EROFS stops the boot. Without this word it causes a warning, and \
     the boot continues with the layers before it.",
    Flag(|p, on| p.options.strict = on), any;
}

"Drivers" {
    "rd.driver.pre", "=MODULE[,MODULE...]", "none",
    "The modules to load before all others.",
    Value(|p, list| p.options.driver_pre.extend(items(list)));

    "rd.driver.blacklist", "=MODULE[,MODULE...]", "none",
    "The modules never to load.",
    Value(|p, list| p.options.driver_blacklist.extend(items(list)));
}

"Failures and debugging" {
    "rd.break", "[=plan|mount|switch]", "no stop",
    "Starts a shell at that point, without a value or with an unknown one at switch. The boot continues when the \
     shell ends.",
    Either(Parser::breaks), no;

    "rd.shell", "[=0|1]", "1",
    "Whether a failed boot may start a shell. Set rd.shell=0 on machines whose console is open to others.",
    Flag(|p, on| p.options.shell = on), no;

    "rd.emergency", "=reboot|poweroff|halt", "panic= decides",
    "What a failed boot does if it may start no shell, and when the shell ends.",
    Value(Parser::emergency), any;

    "rd.watchdog", "[=DEVICE|=0|=1]", "0",
    "Starts this watchdog (/dev/watchdog without a value), and pings it until the real init starts.",
    needs(WATCHDOG, Either(Parser::watchdog)), any;

    "rd.debug", "[=0|1]", "0",
    "Also logs each refused attempt, at a level that the console shows.",
    Flag(|p, on| p.shown = on), any;

    "rd.timestamps", "[=0|1]", "1",
    "Tells systemd when the initramfs started.",
    needs(SYSTEMD, Flag(|p, on| p.options.timestamps = on)), any;
}
}

/// Whether a word of the command line is one of these and can defeat verification, and so needs a policy that
/// allows it. `name` may have dashes.
pub fn is_guarded(name: &str, value: Option<&str>) -> bool {
    let name = name.replace('-', "_");
    let mut words = HARMLESS.iter();
    words.any(|(word, harmless)| *word == name && !harmless(value))
}

/// Whether `/init` reads a word of this name, with underscores.
pub fn is_known(name: &str) -> bool {
    WORDS.iter().any(|(word, _)| *word == name)
}

/// The state while a command line is read.
#[derive(Default)]
struct Parser {
    options: Options,
    /// The current word as written.
    name: String,
    resume: Option<String>,
    noresume: bool,
    /// `rd.debug`.
    shown: bool,
}

impl Options {
    /// Parses a command line.
    pub fn parse(text: &str) -> Self {
        let mut parser = Parser::default();
        for (name, value) in Words::new(text) {
            parser.name = name.to_string();
            parser.word(value);
        }
        if parser.shown {
            parser.options.verbosity = Verbosity::Shown;
        }
        if let Some(device) = parser.resume.take().filter(|_| !parser.noresume) {
            // The kernel tried to resume in a late initcall (software_resume in kernel/power/hibernate.c),
            // before it started this program, and found nothing.
            let why = "/init does not resume; the kernel does so itself before it starts /init, if the disk's driver is \
                       built in";
            parser.name = "resume".into();
            parser.problem(Some(&device), why);
        }
        parser.options.text = text.into();
        parser.options
    }
}

impl Parser {
    fn word(&mut self, value: Option<&str>) {
        // As in the kernel's parameqn (kernel/params.c).
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
                self.problem(value, "unknown, or the value is missing; ignored");
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
            Err(_) => self.problem(Some(value), "not a number, or out of range; ignored"),
        }
    }

    /// Anything but a number means forever (rootwait_timeout_setup in init/do_mounts.c).
    fn rootwait(&mut self, seconds: Option<&str>) {
        self.options.rootwait = match seconds.map(str::parse) {
            None => Wait::Forever,
            Some(Ok(seconds)) => Wait::Seconds(seconds),
            Some(Err(_)) => {
                let why = "not a number of seconds; /init waits forever, as the kernel does";
                self.problem(seconds, why);
                Wait::Forever
            }
        };
    }

    /// The plan parses a value other than yes and no, as it does for `root=`.
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

    /// The plan parses the value. Without the feature disk, only a path in the initramfs can be used.
    fn from(&mut self, text: &str) {
        match text {
            "" => self.problem(Some(text), "the value is empty; ignored"),
            _ if DISK.is_on || is_path(text) => self.options.from.push(text.into()),
            _ => self.problem(Some(text), DISK.missing),
        }
    }

    fn overlay_stale(&mut self, policy: &str) {
        self.options.overlay_stale = match policy {
            "keep" => Stale::Keep,
            "fail" => Stale::Fail,
            "reset" => Stale::Reset,
            _ => return self.problem(Some(policy), "not one of keep, fail, reset; ignored"),
        };
    }

    fn overlay_reset(&mut self, value: Option<&str>) {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:+@".contains(c);
        self.options.overlay_reset = match (boolean(value), value) {
            (Some(on), _) => on.then(|| "1".into()),
            (None, Some(value)) if !value.is_empty() && value.chars().all(is_plain) => {
                Some(value.into())
            }
            _ => {
                let why = "its value may have letters, digits and -._:+@ only; ignored";
                return self.problem(value, why);
            }
        };
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

    /// The break points of other initramfs programs (dracut: `pre-pivot`) stop at the last of ours, so that
    /// the user still gets a shell.
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
                    let why = "not one of plan, mount, switch; /init stops at switch";
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

/// Parses yes or no in the forms that systemd and dracut accept. No value means yes.
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
        let options = parse("rd.overlay.for=/etc,/var rd.overlay.stale=reset rd.overlay.reset");
        assert_eq!(options.overlay_for, items("/etc,/var"));
        assert_eq!(options.overlay_stale, Stale::Reset);
        assert_eq!(options.overlay_reset.as_deref(), Some("1"));
        for (text, reset) in [
            ("rd.overlay.reset=2026-11-28", Some("2026-11-28")),
            ("rd.overlay.reset=yes", Some("1")),
            ("rd.overlay.reset=a rd.overlay.reset=0", None),
        ] {
            assert_eq!(parse(text).overlay_reset.as_deref(), reset, "{text}");
        }
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
    fn bad_values_are_reported_and_the_default_applies() {
        let options = parse(
            "rd.shell=perhaps rd.layers.backend=disk rd.timeout=soon rd.layers.oly=1 rd.break=now rd.emergency=sing \
             rd.overlay.fallback=LABEL=x rd.overlay.stale=old rd.overlay.reset=\"a b\" rd.watchdog=dog panic=99999999999999999999",
        );
        assert_eq!(
            options.problems,
            [
                "rd.shell=perhaps: neither yes nor no; ignored",
                "rd.layers.backend=disk: not one of memback, file, loop, extract; ignored",
                "rd.timeout=soon: not a number, or out of range; ignored",
                "rd.layers.oly=1: unknown, or the value is missing; ignored",
                "rd.break=now: not one of plan, mount, switch; /init stops at switch",
                "rd.emergency=sing: not one of reboot, poweroff, halt; ignored",
                "rd.overlay.fallback=LABEL=x: not tmpfs[:option,...]; ignored",
                "rd.overlay.stale=old: not one of keep, fail, reset; ignored",
                "rd.overlay.reset=a b: its value may have letters, digits and -._:+@ only; ignored",
                "rd.watchdog=dog: neither yes nor no; ignored",
                "panic=99999999999999999999: not a number, or out of range; ignored",
            ]
        );
        let expected = Options {
            problems: options.problems.clone(),
            // The user wants a shell.
            breaks: vec![Break::Switch],
            ..Options::default()
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn resume_causes_a_warning() {
        let problems = |text: &str| parse(text).problems;
        assert_eq!(
            problems("root=/dev/sda1 resume=/dev/sda2 resume_offset=1"),
            [
                "resume=/dev/sda2: /init does not resume; the kernel does so itself before it starts /init, if the disk's \
                 driver is built in"
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
    fn a_bad_rootwait_means_forever_as_in_the_kernel() {
        let options = parse("rootwait=5s");
        assert_eq!(options.rootwait, Wait::Forever);
        assert_eq!(
            options.problems,
            ["rootwait=5s: not a number of seconds; /init waits forever, as the kernel does"]
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
