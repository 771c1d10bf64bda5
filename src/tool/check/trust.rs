//! The list of layers and the policy in the loader.

use super::context::Check;
use crate::error::Result;
use crate::tool::finding::Findings;
use crate::tool::verify;
use crate::verify::policy::{self, Policy};
use crate::verify::{list, read_list};

/// Reports layers that are not in their place in the loader's list, and words of the command line that the loader's
/// policy does not allow: `/init` refuses to boot with either.
pub fn trust(check: &Check, findings: &mut Findings) {
    for result in [layers(check), words(check)] {
        if let Err(error) = result {
            findings.error("verification", error.to_string());
        }
    }
}

fn layers(check: &Check) -> Result<()> {
    match verify::file(check.boot, check.image, list::PATH)? {
        Some(text) => verify::compare(check.boot, check.image, &read_list(&text)?, |_, _| Ok(())),
        None => Ok(()),
    }
}

fn words(check: &Check) -> Result<()> {
    let [list, policy] =
        [list::PATH, policy::PATH].map(|path| verify::file(check.boot, check.image, path));
    let policy = match (list?, policy?) {
        (None, None) => return Ok(()),
        (_, Some(text)) => Policy::parse(&text)?,
        (Some(_), None) => Policy::default(),
    };
    policy.check(&check.boot.options.text)
}
