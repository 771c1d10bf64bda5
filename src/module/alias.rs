//! Which modules a device, a filesystem or another module asks for. Pure.
//!
//! Sources: modules.alias and modules.softdep as depmod writes them, modprobe.d(5), and libkmod for
//! what comes first: an alias in modprobe.d, then a module of that name, then modules.alias.

use super::fnmatch;
use std::borrow::Cow;

use super::dep::{Index, name, plain};

pub use super::modprobe_d::{Config, SoftDep};

/// How deep modules may ask for others softly: a chain of four exists.
const DEPTH_MAX: usize = 16;

/// What there is to load, and what asks for it.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// Names of all modules, `-` as `_`, sorted.
    modules: Vec<String>,
    /// modules.dep.
    dep: String,
    /// modules.alias.
    aliases: String,
    /// modules.softdep and modprobe.d.
    pub config: Config,
}

impl Database {
    /// A database of the texts of `modules.dep`, `modules.alias` and `modules.softdep` (each empty
    /// where there is none), and of what modprobe.d says.
    pub fn new(dep: &str, aliases: String, softdep: &str, mut config: Config) -> Self {
        let mut modules: Vec<_> = dep
            .lines()
            .filter_map(|line| Some(plain(name(line.split_once(':')?.0))))
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

    /// Forgets soft wishes for algorithms that the kernel has, by the text of /proc/crypto: who wants
    /// `crc32c` can work with any that is there, and a second one takes time to load.
    pub fn grant_algorithms(&mut self, crypto: &str) {
        let has = |wish: &str| {
            let name = wish.strip_prefix("crypto-").unwrap_or(wish);
            let mut fields = crypto.lines().filter_map(|line| line.split_once(':'));
            fields.any(|(field, value)| field.trim() == "name" && value.trim() == name)
        };
        self.config.grant(has);
    }

    /// Whether there is a file for `module`.
    pub fn has(&self, module: &str) -> bool {
        self.modules.binary_search(&plain(module)).is_ok()
    }

    /// The modules to load for `names`, in order, each once: names of modules, aliases such as
    /// `fs-ext4`, or the MODALIAS of devices. Before each come the modules that it, or a module that
    /// it depends on, wants softly before it, and after it those after it. Names have `_` for `-`.
    ///
    /// Left out: what there is no file for, and what modprobe.d or the command line forbid.
    pub fn wanted<S: AsRef<str>>(&self, names: &[S]) -> Vec<String> {
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
        // Marked first: softly, modules may well ask for each other.
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

    /// A module and those that it depends on, where any module wants another softly.
    fn with_dependencies(&self, module: &str) -> Vec<String> {
        if !self.config.has_softdeps() {
            return Vec::new();
        }
        let files = Index::new(&self.dep, "").files(module).unwrap_or_default();
        files.into_iter().map(|file| plain(name(file))).collect()
    }

    /// What each of `names` stands for.
    fn lookup<S: AsRef<str>>(&self, names: &[S]) -> Vec<Vec<String>> {
        let mut found = vec![Vec::new(); names.len()];
        let mut rest = Vec::new();
        for (index, (name, found)) in names.iter().zip(&mut found).enumerate() {
            let name = plain(name.as_ref());
            let configured: Vec<_> = self.config.aliased(&name).map(plain).collect();
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
            // The blacklist is for what is found by an alias; a name given is a wish.
            if !self.config.is_blacklisted(module)
                && let Some(found) = found.get_mut(index)
            {
                let module = plain(module);
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

/// The lines of modules.alias that match one of `names`, sorted: the name's index, and the module.
///
/// A distribution has 30,000 lines and a machine 100 devices. The names are sorted, so that the
/// letters before a pattern's first wildcard leave a few of them to match, most often none.
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

/// `text` with `-` as `_` where it has any.
fn underscores(text: &str) -> Cow<'_, str> {
    match text.contains('-') {
        true => Cow::Owned(plain(text)),
        false => Cow::Borrowed(text),
    }
}
