//! The policy for words of the kernel command line that could defeat verification: `/etc/layerinit/policy`.
//!
//! A line `minimum-version N` refuses an older signed list. A line `verity-options LIST` says what dm-verity
//! does with layers on a disk. A line `allow WORD` allows a word with any value, `allow WORD=VALUE` only with
//! this value. Empty lines and lines that begin with `#` are comments. [`words`] has the words that need
//! this; all others are always allowed. Pure.

use crate::error::{Error, Result};
use crate::format::verity::Corruption;
use crate::plan::verity::Behaviour;
use crate::plan::{loader_files, words};
use crate::text::{Words, items, shown};

/// The path of the policy in the initramfs.
pub const PATH: &str = loader_files::POLICY;

/// What a loader allows on the command line. The default allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    allowed: Vec<Allowed>,
    /// `minimum-version N`: a signed list must have this version or a later one.
    pub minimum_version: Option<u64>,
    /// `verity-options LIST`: what dm-verity does with layers on a disk.
    pub verity: Behaviour,
}

/// A word that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The word, with underscores.
    name: String,
    /// The only allowed value; `None`: any value, or none.
    value: Option<String>,
}

impl Allowed {
    /// Parses `WORD` or `WORD=VALUE`.
    ///
    /// # Errors
    /// `/init` has no such word.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (text, None),
        };
        let name = name.replace('-', "_");
        match words::is_known(&name) {
            true => Ok(Self { name, value }),
            false => {
                let name = shown(name.as_bytes());
                Err(format!("/init has no word {name} of the command line"))
            }
        }
    }
}

/// Parses the options of dm-verity for layers on a disk, from veritytab(5), separated by commas.
///
/// # Errors
/// An option is not one of these, or turns verification off.
pub fn verity_options(list: &str) -> std::result::Result<Behaviour, String> {
    let mut behaviour = Behaviour::default();
    for option in items(list.trim()) {
        if !behaviour.set(&option) {
            return Err(format!("{}: not supported", shown(option.as_bytes())));
        }
    }
    match behaviour.corruption {
        Corruption::Ignore => Err("ignore-corruption turns verification off".into()),
        Corruption::Error | Corruption::Restart | Corruption::Panic => Ok(behaviour),
    }
}

impl Policy {
    /// Parses a policy.
    ///
    /// # Errors
    /// A line is wrong, or names no word of `/init`. The error names the first one.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let mut policy = Self::default();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let number = index.saturating_add(1);
            let wrong = |what: &str| Error::new("read", format_args!("line {number}"), what);
            let text = std::str::from_utf8(line).map_err(|_| wrong("not UTF-8"))?;
            if let Some(version) = text.strip_prefix("minimum-version ") {
                let version = version.trim().parse();
                let version = version.map_err(|_| wrong("the version is not a number"))?;
                policy.minimum_version = Some(version);
                continue;
            }
            if let Some(list) = text.strip_prefix("verity-options ") {
                policy.verity = verity_options(list).map_err(|what| wrong(&what))?;
                continue;
            }
            let word = text.strip_prefix("allow ").map(str::trim);
            let word = word.ok_or_else(|| {
                wrong("not `allow WORD[=VALUE]`, `minimum-version N` or `verity-options LIST`")
            })?;
            policy
                .allowed
                .push(Allowed::parse(word).map_err(|what| wrong(&what))?);
        }
        Ok(policy)
    }

    /// Whether a word may have this value.
    pub fn allows(&self, name: &str, value: Option<&str>) -> bool {
        let name = name.replace('-', "_");
        let mut allowed = self.allowed.iter();
        !words::is_guarded(&name, value)
            || allowed.any(|word| {
                word.name == name && (word.value.is_none() || word.value.as_deref() == value)
            })
    }

    /// Whether a failed boot may start a shell, and `rd.break=` one.
    pub fn allows_shell(&self) -> bool {
        self.allows("rd.shell", Some("1"))
    }

    /// Checks every word of a command line.
    ///
    /// # Errors
    /// Words are not allowed. The error lists them.
    pub fn check(&self, cmdline: &str) -> Result<()> {
        let mut refused: Vec<String> = Vec::new();
        for (name, value) in Words::new(cmdline) {
            if !self.allows(name, value) {
                let word = match value {
                    Some(value) => format!("{name}={value}"),
                    None => name.to_string(),
                };
                refused.push(word);
            }
        }
        if refused.is_empty() {
            return Ok(());
        }
        let what = format!("the policy of the loader ({PATH}) does not allow this");
        let hint = "boot without it, or build the image with --verify-allow WORD";
        Err(Error::new("check", refused.join(" "), what).hint(hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn by_default_only_harmless_words_are_allowed() {
        let harmless = "console=ttyS0 quiet debug loglevel=7 rd.debug panic=1 rd.timeout=3 rootwait retain_initrd ro \
                        rd.shell=0 rd.overlay=tmpfs:size=50% rd.overlay rd.overlay.readonly rd.layers.strict foo=bar \
                        rd.break=no -- init=/bin/sh";
        Policy::default().check(harmless).unwrap();
        for word in [
            "init=/bin/sh",
            "root=/dev/sda1",
            "rd.break",
            "rd.break=plan",
            "rd.shell",
            "rd.shell=1",
            "rd.shell=maybe",
            "rd.layers.skip=1",
            "rd.layers.only=1",
            "\"init=/bin/a b\"",
            "rd.overlay=/dev/sda1",
            "rd.overlay=LABEL=tmpfs",
            "rootflags=subvol=other",
            "rd.driver.pre=evil",
        ] {
            let error = Policy::default()
                .check(&format!("quiet {word} quiet"))
                .unwrap_err();
            let word = word.trim_matches('"');
            let expected = format!(
                "check {word}: the policy of the loader (/etc/layerinit/policy) does not allow this; boot without it, \
                 or build the image with --verify-allow WORD"
            );
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_new_word_is_refused_until_it_is_known_to_be_harmless() {
        // With a value that some of these words accept, and none takes for a harmless one.
        let is_refused = |name: &str| !Policy::default().allows(name, Some("/x"));
        let mut refused: Vec<_> = words::DOCS.iter().map(|doc| doc.name).collect();
        refused.retain(|name| is_refused(name));
        refused.sort_unstable();
        assert_eq!(
            refused,
            [
                "init",
                "rd.break",
                "rd.driver.blacklist",
                "rd.driver.pre",
                "rd.layers.from",
                "rd.layers.only",
                "rd.layers.skip",
                "rd.overlay",
                "rd.overlay.for",
                "rd.overlay.reset",
                "rd.overlay.stale",
                "rd.shell",
                "root",
                "rootflags",
                "roothash",
                "systemd.verity_root_data",
                "systemd.verity_root_hash",
                "systemd.verity_root_options",
            ]
        );
    }

    #[test]
    fn a_word_is_allowed_with_any_value_or_with_one() {
        let policy = policy(
            "# comment\n\nallow rd.break\n allow init=/sbin/other\nallow rd.shell\nminimum-version 7\n\
             verity-options restart-on-corruption,check-at-most-once",
        );
        assert_eq!(
            policy.verity.parameters(),
            ["restart_on_corruption", "check_at_most_once"]
        );
        assert_eq!(policy.minimum_version, Some(7));
        policy
            .check("rd.break=plan init=/sbin/other rd.break")
            .unwrap();
        assert!(policy.allows_shell() && !Policy::default().allows_shell());
        let error = policy.check("init=/bin/sh init=/sbin/other root=1:2");
        let error = error.unwrap_err().to_string();
        assert!(
            error.starts_with("check init=/bin/sh root=1:2: "),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_policy_is_an_error() {
        for (text, what) in [
            (
                "allow init\ninit",
                "read line 2: not `allow WORD[=VALUE]`, `minimum-version N` or `verity-options LIST`",
            ),
            (
                "allow",
                "read line 1: not `allow WORD[=VALUE]`, `minimum-version N` or `verity-options LIST`",
            ),
            (
                "verity-options panic-on-corruption,fec-roots=2",
                "read line 1: fec-roots=2: not supported",
            ),
            (
                "verity-options ignore-corruption",
                "read line 1: ignore-corruption turns verification off",
            ),
            (
                "minimum-version x",
                "read line 1: the version is not a number",
            ),
            (
                "allow rd.brake",
                "read line 1: /init has no word rd.brake of the command line",
            ),
        ] {
            let error = Policy::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), what);
        }
    }
}
