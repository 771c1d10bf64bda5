//! Resolves names, aliases and soft dependencies to modules. Pure.
//!
//! Sources: modules.alias and modules.softdep as depmod writes them, modprobe.d(5), and libkmod for the order
//! of lookup: an alias in modprobe.d, a module of that name, modules.alias.

use super::fnmatch;
use std::borrow::Cow;

use super::dep::{Index, name, underscored};

pub use super::modprobe_d::{ModprobeConfig, SoftDep};

/// Limit for chains of soft dependencies. Chains of four exist.
const DEPTH_MAX: usize = 16;

/// The modules of a kernel, their aliases and soft dependencies.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// Names of all modules, `-` as `_`, sorted.
    modules: Vec<String>,
    /// modules.dep.
    dep: String,
    /// modules.alias.
    aliases: String,
    /// modules.softdep and modprobe.d.
    pub config: ModprobeConfig,
}

impl Database {
    /// Creates a database from the texts of `modules.dep`, `modules.alias` and `modules.softdep` (each empty if
    /// there is no such file), and from modprobe.d.
    pub fn new(dep: &str, aliases: String, softdep: &str, mut config: ModprobeConfig) -> Self {
        let mut modules: Vec<_> = dep
            .lines()
            .filter_map(|line| Some(underscored(name(line.split_once(':')?.0))))
            .collect();
        modules.sort_unstable();
        config.read(softdep, "modules.softdep");
        Self {
            modules,
            dep: dep.into(),
            aliases,
            config,
        }
    }

    /// Drops soft dependencies on algorithms that the kernel has. `crypto` is the text of /proc/crypto.
    ///
    /// A module that asks for `crc32c` works with any implementation, and another one takes time to load.
    pub fn drop_satisfied_softdeps(&mut self, crypto: &str) {
        let has = |softdep: &str| {
            let name = softdep.strip_prefix("crypto-").unwrap_or(softdep);
            let mut fields = crypto.lines().filter_map(|line| line.split_once(':'));
            fields.any(|(field, value)| field.trim() == "name" && value.trim() == name)
        };
        self.config.drop_softdeps(has);
    }

    /// Whether there is a file for `module`.
    pub fn has(&self, module: &str) -> bool {
        self.modules.binary_search(&underscored(module)).is_ok()
    }

    /// Resolves `names` (module names, aliases such as `fs-ext4`, MODALIAS of devices) to the modules to
    /// load, in order, each once, with `_` for `-`.
    ///
    /// Includes the soft dependencies of each module and of the modules that it depends on, `pre` before and
    /// `post` after it. Leaves out modules without a file, and those that modprobe.d or the command line forbid.
    pub fn resolve<S: AsRef<str>>(&self, names: &[S]) -> Vec<String> {
        let mut order = Order::default();
        for modules in self.lookup(names) {
            for module in modules {
                self.add(&module, 0, &mut order);
            }
        }
        order.modules
    }

    fn add(&self, module: &str, depth: usize, order: &mut Order) {
        if order.seen.iter().any(|seen| seen == module)
            || depth > DEPTH_MAX
            || !self.has(module)
            || self.config.is_disabled(module)
        {
            return;
        }
        // Marked first: soft dependencies can be circular.
        order.seen.push(module.into());
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for member in self.with_dependencies(module) {
            for softdep in self.config.softdeps(&member) {
                before.extend(self.lookup(&softdep.pre).into_iter().flatten());
                after.extend(self.lookup(&softdep.post).into_iter().flatten());
            }
        }
        for other in before {
            self.add(&other, depth.saturating_add(1), order);
        }
        order.modules.push(module.into());
        for other in after {
            self.add(&other, depth.saturating_add(1), order);
        }
    }

    /// A module and its dependencies; empty if there are no soft dependencies at all.
    fn with_dependencies(&self, module: &str) -> Vec<String> {
        if !self.config.has_softdeps() {
            return Vec::new();
        }
        let files = Index::new(&self.dep, "").files(module).unwrap_or_default();
        files
            .into_iter()
            .map(|file| underscored(name(file)))
            .collect()
    }

    /// The modules of each of `names`.
    fn lookup<S: AsRef<str>>(&self, names: &[S]) -> Vec<Vec<String>> {
        let mut found = vec![Vec::new(); names.len()];
        let mut rest = Vec::new();
        for (index, (name, found)) in names.iter().zip(&mut found).enumerate() {
            let name = underscored(name.as_ref());
            let configured: Vec<_> = self.config.aliased(&name).map(underscored).collect();
            if !configured.is_empty() {
                *found = configured;
            } else if self.has(&name) {
                found.push(name);
            } else {
                rest.push((name, index));
            }
        }
        rest.sort_unstable();
        for (index, module) in matches(&self.aliases, &rest) {
            // The blacklist applies to aliases only, not to names of modules (modprobe.d(5)).
            if !self.config.is_blacklisted(module)
                && let Some(found) = found.get_mut(index)
            {
                let module = underscored(module);
                if !found.contains(&module) {
                    found.push(module);
                }
            }
        }
        found
    }
}

#[derive(Default)]
struct Order {
    seen: Vec<String>,
    modules: Vec<String>,
}

/// Matches modules.alias against `names`, which are sorted. For each match: the index of the name, and the
/// module.
///
/// A distribution has 30,000 lines and a machine 100 devices. Since the names are sorted, the prefix of a
/// pattern before its first wildcard leaves few of them to match, usually none.
fn matches<'a>(aliases: &'a str, names: &[(String, usize)]) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    if names.is_empty() {
        return found;
    }
    for line in aliases.lines() {
        let Some((pattern, module)) = line
            .strip_prefix("alias ")
            .and_then(|line| line.rsplit_once(' '))
        else {
            continue;
        };
        let literal = underscores(fnmatch::literal(pattern));
        let literal: &str = &literal;
        let below = |(name, _): &(String, usize)| name.as_bytes() < literal.as_bytes();
        let candidates = names
            .get(names.partition_point(below)..)
            .unwrap_or_default();
        for (name, index) in candidates {
            if !name.starts_with(literal) {
                break;
            }
            if fnmatch::matches(pattern, name) {
                found.push((*index, module));
            }
        }
    }
    found
}

/// Replaces `-` by `_`.
fn underscores(text: &str) -> Cow<'_, str> {
    match text.contains('-') {
        true => Cow::Owned(underscored(text)),
        false => Cow::Borrowed(text),
    }
}
