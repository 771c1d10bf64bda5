//! The kernel modules in the loader.

use super::context::Check;
use super::kernel_options::without;
use crate::module::dep::Index;
use crate::plan::Module;
use crate::text::shown;
use crate::tool::finding::Findings;
use crate::tool::image::loader_modules::{has_module_name, is_module};

/// Reports the modules of each kernel that are for a different machine from the programs. They are all of one
/// build, so the first one is enough.
pub fn machine(check: &Check, findings: &mut Findings) {
    if check.plan().is_none() {
        return;
    }
    for release in check.modules.releases(None) {
        let mut modules = check.modules.paths(release).filter_map(|path| {
            let module = check.modules.decompressed(&path)?;
            Some((path, module))
        });
        if let Some((path, module)) = modules.next()
            && let Some(what) = check.machine.refuses_module(&module)
        {
            findings.error("loader", format!("{}: {what}", shown(&path)));
        }
    }
}

/// Reports modules without a signature that a kernel with this configuration may refuse: under Secure Boot,
/// or modules that no layer needs, such as drivers of disks.
pub fn unsigned(check: &Check, findings: &mut Findings) {
    const SECURE_BOOT: &str = "LOCK_DOWN_IN_EFI_SECURE_BOOT";
    let Some((plan, config)) = check.plan_and_config() else {
        return;
    };
    let modules = check.modules;
    let locked = config.built_in(SECURE_BOOT) && config.built_in("MODULE_SIG");
    let (why, when) = match &modules.signature_required {
        Some(why) => (why.clone(), ""),
        None if locked => (format!("CONFIG_{SECURE_BOOT}=y"), "under Secure Boot "),
        None => return,
    };
    for release in modules.releases(config.version) {
        // A module that a layer needs is a separate error.
        let unusable = |module: &Module| modules.problem(release, module.name()).is_some();
        if when.is_empty() && plan.modules.iter().any(unusable) {
            continue;
        }
        let mut paths = modules.paths(release);
        if let Some(path) = paths.find(|path| !modules.is_signed(path)) {
            let what = format!(
                "{} has no signature: {when}the kernel loads no module without one (build without \
                 --strip-module-signatures)",
                shown(&path)
            );
            findings.warning(&why, what);
        }
    }
}

/// Reports modules that the loader or its modules.dep has and that `/init` cannot load. The kernel is unknown:
/// all releases are checked. With its configuration, [`super::kernel_options::modular`] checks them.
pub fn loadable(check: &Check, findings: &mut Findings) {
    let Some(plan) = check.plan().filter(|_| check.config.is_none()) else {
        return;
    };
    let modules = check.modules;
    for release in modules.releases(None) {
        let has_file = |module: &Module| {
            let mut files = modules.files(release);
            files.any(|file| is_module(file, module.name()))
        };
        let Some(dep) = &release.dep else {
            let drivers = plan.devices().next().is_some();
            if plan.modules.iter().any(has_file)
                || drivers && modules.files(release).any(has_module_name)
            {
                let place = shown(&release.directory);
                let what =
                    format!("{place} has no modules.dep (depmod): /init finds no module there");
                findings.error("loader", what);
            }
            continue;
        };
        let index = Index::new(dep, "");
        for module in &plan.modules {
            // The kernel may have built in a module that is in neither.
            if index.files(module.name()).is_err() && !has_file(module) {
                continue;
            }
            let Some(problem) = modules.problem(release, module.name()) else {
                continue;
            };
            let (severity, without) = without(plan, *module);
            findings.report(severity, "loader", format!("{problem}: {without}"));
        }
    }
}
