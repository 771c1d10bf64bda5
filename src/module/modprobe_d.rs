//! Configuration of modules: modprobe.d files, and the words of the kernel command line that modprobe(8) reads.

use super::dep::underscored;
use super::fnmatch;
use crate::text::Words;

/// The soft dependencies of a module: modules to load before and after it if they exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SoftDep {
    /// The module, with `_` for `-`.
    module: String,
    /// Names or aliases to load before it.
    pub pre: Vec<String>,
    /// Names or aliases to load after it.
    pub post: Vec<String>,
}

/// The administrator's configuration of modules. Each text read adds to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModprobeConfig {
    /// Pattern and module.
    aliases: Vec<(String, String)>,
    /// Module and parameters.
    options: Vec<(String, String)>,
    blacklist: Vec<String>,
    disabled: Vec<String>,
    softdeps: Vec<SoftDep>,
    /// Warnings about lines that are unknown or not supported, one sentence each.
    pub problems: Vec<String>,
}

impl ModprobeConfig {
    /// Reads the text of a file of modprobe.d, or of modules.softdep. `source` is its name in messages.
    pub fn read(&mut self, text: &str, source: &str) {
        // A backslash at the end of a line joins it with the next.
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
                    self.aliases.push(((*pattern).into(), underscored(module)));
                }
                ("options", [module, parameters @ ..]) => {
                    self.options.push((underscored(module), parameters.join(" ")));
                }
                ("blacklist", [module]) => self.blacklist(module),
                ("softdep", [module, list @ ..]) => self.softdep(module, list),
                // The usual way to forbid a module.
                (
                    "install",
                    [module, "/bin/true" | "/bin/false" | "/usr/bin/true" | "/usr/bin/false" | ":", ..],
                ) => self.disable(module),
                ("install", [module, ..]) => self.problems.push(format!(
                    "{source}: install {module}: /init runs no commands; it loads the module like any other"
                )),
                // For unloading, and for tools that build images.
                ("remove" | "weakdep", _) => {}
                _ => self.problems.push(format!("{source}: unknown line: {line}")),
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
                    // The kernel needs quotes around a value with spaces.
                    let text = match value {
                        Some(value) if value.contains(char::is_whitespace) => {
                            format!("{parameter}=\"{value}\"")
                        }
                        Some(value) => format!("{parameter}={value}"),
                        None => parameter.into(),
                    };
                    self.options.push((underscored(module), text));
                }
                _ => {}
            }
        }
    }

    /// Forbids loading `module` by an alias.
    pub fn blacklist(&mut self, module: &str) {
        self.blacklist.push(underscored(module));
    }

    /// Forbids loading `module`.
    pub fn disable(&mut self, module: &str) {
        self.disabled.push(underscored(module));
    }

    /// Whether loading `module` by an alias is forbidden.
    pub fn is_blacklisted(&self, module: &str) -> bool {
        let module = underscored(module);
        self.blacklist.contains(&module)
    }

    /// Whether loading `module` is forbidden.
    pub fn is_disabled(&self, module: &str) -> bool {
        let module = underscored(module);
        self.disabled.contains(&module)
    }

    /// The parameters of `module` for the kernel: separated by spaces, in the order given. The last one wins.
    pub fn parameters(&self, module: &str) -> String {
        let module = underscored(module);
        let own = self.options.iter().filter(|(name, _)| *name == module);
        let texts: Vec<_> = own.map(|(_, parameters)| parameters.as_str()).collect();
        texts.join(" ")
    }

    /// The soft dependencies of `module`.
    pub fn softdeps(&self, module: &str) -> impl Iterator<Item = &SoftDep> {
        let module = underscored(module);
        self.softdeps
            .iter()
            .filter(move |softdep| softdep.module == module)
    }

    /// Drops the `pre` dependencies that are `satisfied`.
    pub(super) fn drop_softdeps(&mut self, satisfied: impl Fn(&str) -> bool) {
        for softdep in &mut self.softdeps {
            softdep.pre.retain(|name| !satisfied(name));
        }
        self.softdeps
            .retain(|softdep| !softdep.pre.is_empty() || !softdep.post.is_empty());
    }

    /// Whether any module has soft dependencies.
    pub fn has_softdeps(&self) -> bool {
        !self.softdeps.is_empty()
    }

    /// The modules that the alias `name` (with `_` for `-`) stands for. `alias NAME off` disables an alias:
    /// there is no module `off`.
    pub(super) fn aliased<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.aliases
            .iter()
            .filter(move |(pattern, _)| fnmatch::matches(pattern, name))
            .map(|(_, module)| module.as_str())
    }

    /// `softdep MODULE pre: a b post: c`.
    fn softdep(&mut self, module: &str, words: &[&str]) {
        let mut softdep = SoftDep {
            module: underscored(module),
            ..SoftDep::default()
        };
        let mut list = None;
        for word in words {
            match (*word, &mut list) {
                ("pre:", _) => list = Some(true),
                ("post:", _) => list = Some(false),
                (name, Some(true)) => softdep.pre.push(name.into()),
                (name, Some(false)) => softdep.post.push(name.into()),
                // Words before the first pre: or post: have no meaning.
                (_, None) => {}
            }
        }
        self.softdeps.push(softdep);
    }
}
