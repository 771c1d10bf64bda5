//! The list of layers and the policy in the loader.

use super::context::Check;
use crate::error::Result;
use crate::tool::finding::Findings;
use crate::tool::verify;
use crate::verify::policy::{self, Policy};
use crate::verify::{list, signature};

/// Reports layers that differ from the loader's list, and words of the command line that the loader's policy
/// does not allow: `/init` refuses to boot with either.
pub fn trust(check: &Check, findings: &mut Findings) {
    for result in [layers(check), words(check)] {
        if let Err(error) = result {
            findings.error("verification", error.to_string());
        }
    }
}

fn layers(check: &Check) -> Result<()> {
    match verify::entries(check.boot, check.image, None)? {
        Some(entries) => verify::compare(check.boot, check.image, &entries, |_, _| Ok(())),
        None => Ok(()),
    }
}

fn words(check: &Check) -> Result<()> {
    let mut files = [list::PATH, signature::KEYS].into_iter();
    let policy = match verify::file(check.boot, check.image, policy::PATH)? {
        Some(text) => Policy::parse(&text)?,
        None if files.any(|path| check.boot.rootfs.find(path.as_bytes()).is_some()) => {
            Policy::default()
        }
        None => return Ok(()),
    };
    policy.check(&check.boot.options.text)
}
