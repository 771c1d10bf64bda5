//! modprobe.d files, and what the kernel command line says about modules.

use super::dep::plain;
use super::fnmatch;
use crate::text::Words;

/// What a module wants loaded before it and after it, if it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SoftDep {
    /// The module; `_` for `-`.
    module: String,
    /// Before it: names or aliases.
    pub pre: Vec<String>,
    /// After it.
    pub post: Vec<String>,
}

/// What the administrator says about modules. What is read later adds to what was read before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Pattern and module.
    aliases: Vec<(String, String)>,
    /// Module and parameters.
    options: Vec<(String, String)>,
    blacklist: Vec<String>,
    disabled: Vec<String>,
    softdeps: Vec<SoftDep>,
    /// Lines that are not understood, or that ask for what cannot be done here: one sentence each.
    pub problems: Vec<String>,
}

impl Config {
    /// Reads the text of a file of modprobe.d, or modules.softdep. `source` is its name, for
    /// messages.
    pub fn read(&mut self, text: &str, source: &str) {
        // A backslash at its end joins a line with the next.
        let joined = text.replace("\\\n", " ");
        for line in joined.lines() {
            let mut words = line.split_ascii_whitespace();
            let Some(command) = words.next() else {
                continue;
            };
            if command.starts_with('#') {
                continue;
            }
            let rest: Vec<_> = words.collect();
            match (command, rest.as_slice()) {
                ("alias", [pattern, module]) => {
                    self.aliases.push(((*pattern).into(), plain(module)));
                }
                ("options", [module, parameters @ ..]) => {
                    self.options.push((plain(module), parameters.join(" ")));
                }
                ("blacklist", [module]) => self.blacklist(module),
                ("softdep", [module, wishes @ ..]) => self.softdep(module, wishes),
                // How people write "never load this".
                (
                    "install",
                    [module, "/bin/true" | "/bin/false" | "/usr/bin/true" | "/usr/bin/false" | ":", ..],
                ) => self.disable(module),
                ("install", [module, ..]) => self.problems.push(format!(
                    "{source}: install {module}: no command can be run here; the module is loaded as \
                     any other"
                )),
                // About unloading, and about what depmod puts into an image.
                ("remove" | "weakdep", _) => {}
                _ => self.problems.push(format!("{source}: not understood: {line}")),
            }
        }
    }

    /// Reads the kernel command line: `module.parameter=value`, and `modprobe.blacklist=` and
    /// `module_blacklist=` with names separated by commas.
    pub fn read_cmdline(&mut self, text: &str) {
        for (name, value) in Words::new(text) {
            match (name.split_once('.'), value) {
                (Some(("modprobe", "blacklist")), Some(list)) => {
                    list.split(',').for_each(|module| self.blacklist(module));
                }
                (None, Some(list)) if name == "module_blacklist" => {
                    list.split(',').for_each(|module| self.disable(module));
                }
                (Some((module, parameter)), value)
                    if !module.is_empty() && !parameter.is_empty() =>
                {
                    // The kernel's own quoting: a value with spaces stands in quotes.
                    let text = match value {
                        Some(value) if value.contains(char::is_whitespace) => {
                            format!("{parameter}=\"{value}\"")
                        }
                        Some(value) => format!("{parameter}={value}"),
                        None => parameter.into(),
                    };
                    self.options.push((plain(module), text));
                }
                _ => {}
            }
        }
    }

    /// Forbids to load `module` because an alias asks for it.
    pub fn blacklist(&mut self, module: &str) {
        self.blacklist.push(plain(module));
    }

    /// Forbids to load `module` at all.
    pub fn disable(&mut self, module: &str) {
        self.disabled.push(plain(module));
    }

    /// Whether no alias may load `module`.
    pub fn is_blacklisted(&self, module: &str) -> bool {
        let module = plain(module);
        self.blacklist.contains(&module)
    }

    /// Whether nothing may load `module`.
    pub fn is_disabled(&self, module: &str) -> bool {
        let module = plain(module);
        self.disabled.contains(&module)
    }

    /// The parameters of `module`, as the kernel takes them: separated by spaces, those given last at
    /// the end, where they win.
    pub fn parameters(&self, module: &str) -> String {
        let module = plain(module);
        let own = self.options.iter().filter(|(name, _)| *name == module);
        let texts: Vec<_> = own.map(|(_, parameters)| parameters.as_str()).collect();
        texts.join(" ")
    }

    /// What `module` asks for softly.
    pub fn softdeps(&self, module: &str) -> impl Iterator<Item = &SoftDep> {
        let module = plain(module);
        self.softdeps
            .iter()
            .filter(move |softdep| softdep.module == module)
    }

    /// Forgets the soft wishes that `there` says are fulfilled already.
    pub(super) fn grant(&mut self, there: impl Fn(&str) -> bool) {
        for softdep in &mut self.softdeps {
            softdep.pre.retain(|wish| !there(wish));
        }
        self.softdeps
            .retain(|softdep| !softdep.pre.is_empty() || !softdep.post.is_empty());
    }

    /// Whether any module asks for others softly.
    pub fn has_softdeps(&self) -> bool {
        !self.softdeps.is_empty()
    }

    /// The modules that `name`, with `_` for `-`, is an alias of. `off` is how people write that it
    /// is of none; there is no such module.
    pub(super) fn aliased<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.aliases
            .iter()
            .filter(move |(pattern, _)| fnmatch::matches(pattern, name))
            .map(|(_, module)| module.as_str())
    }

    /// `softdep MODULE pre: a b post: c`.
    fn softdep(&mut self, module: &str, wishes: &[&str]) {
        let mut softdep = SoftDep {
            module: plain(module),
            ..SoftDep::default()
        };
        let mut list = None;
        for wish in wishes {
            match (*wish, &mut list) {
                ("pre:", _) => list = Some(true),
                ("post:", _) => list = Some(false),
                (wish, Some(true)) => softdep.pre.push(wish.into()),
                (wish, Some(false)) => softdep.post.push(wish.into()),
                // Words before a colon say nothing.
                (_, None) => {}
            }
        }
        self.softdeps.push(softdep);
    }
}
