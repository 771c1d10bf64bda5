//! The program that the kernel starts (`rdinit=`).

use super::context::Check;
use super::options::LoaderLocation;
use super::real_init::is_program;
use crate::initrd::{Kind, Walk};
use crate::text::shown;
use crate::tool::finding::Findings;
use crate::tool::image::boot::Boot;
use crate::tool::image::rdinit::check_is_layerinit;

/// Reports a program that the kernel cannot start, and one that is not layerinit's `/init`.
pub fn rdinit(check: &Check, findings: &mut Findings) {
    let boot = check.boot;
    let rdinit = &boot.options.rdinit;
    let required = match check.options.loader {
        LoaderLocation::InImage => true,
        LoaderLocation::BuiltIn => false,
        LoaderLocation::Either => boot.image().is_some_and(Walk::holds_init),
    };
    let interpreter = match interpreter(check) {
        Ok(interpreter) => interpreter,
        Err(what) if required => return findings.error(rdinit, what),
        Err(_) => None,
    };
    // A program in the image replaces one that is built in. The needs of a program other than /init do not
    // matter.
    if let Err(error) = check_is_layerinit(boot, check.image) {
        return findings.error("loader", error.to_string());
    }
    if let Some(path) = interpreter.filter(|path| boot.rootfs.find(path.as_bytes()).is_none()) {
        let what = format!(
            "it needs {}, which no archive that the kernel unpacks has (a static /init needs nothing)",
            shown(path.as_bytes())
        );
        findings.error(rdinit, what);
    }
}

/// The interpreter that the program needs, or why the kernel does not start it.
fn interpreter(check: &Check) -> std::result::Result<Option<String>, String> {
    let boot = check.boot;
    let Some((_, node)) = boot.rootfs.find(boot.options.rdinit.as_bytes()) else {
        return Err(why_missing(boot));
    };
    is_program(node.mode)?;
    if node.size() == 0 {
        return Err("it is empty".into());
    }
    let file = boot.content(check.image, node);
    let file = file.map_err(|error| error.to_string())?;
    check.machine.interpreter(&*file)
}

/// Why the rootfs has no such program.
fn why_missing(boot: &Boot) -> String {
    let segments = boot.image().into_iter().flat_map(|walk| &walk.segments);
    let archives = segments.filter_map(|segment| match &segment.kind {
        Kind::Cpio(cpio) => Some((segment.offset, cpio)),
        _ => None,
    });
    let refused = archives
        .clone()
        .find_map(|(at, cpio)| Some((at, cpio.refused?)));
    let late = archives
        .clone()
        .find(|(_, cpio)| !cpio.by_kernel && cpio.holds_init);
    match (late, refused) {
        (Some((late, _)), Some((at, why))) if at <= late => format!(
            "it is in the archive at {late:#x}, and the kernel cannot unpack that at {at:#x}: {why}"
        ),
        (Some((late, _)), _) => format!(
            "it is in the archive at {late:#x}, where the kernel has stopped unpacking: the loader must come first"
        ),
        (None, _) => "no archive that the kernel unpacks has it (a kernel with the loader built in needs none: \
                      --loader-built-in)"
            .into(),
    }
}
