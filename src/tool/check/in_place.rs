//! Files that a kernel with the memback patches serves in place.

use super::context::Check;
use crate::plan::Content;
use crate::plan::backend::Backend;
use crate::tool::finding::Findings;
use crate::tool::image::in_place::{self, InPlace};
use crate::tool::kernel_config::KernelConfig;

/// Notes how much of each uncompressed layer is served in place, unless its files fill no page.
pub fn in_place(check: &Check, findings: &mut Findings) {
    let without = |config: &_| !KernelConfig::built_in(config, "EROFS_FS_MEMBACK");
    let Some(plan) = check.plan().filter(|_| !check.config.is_some_and(without)) else {
        return;
    };
    let page = check.page_size();
    for (index, layer) in plan.layers.iter().enumerate() {
        let Content::Erofs {
            superblock,
            backends,
        } = &layer.content
        else {
            continue;
        };
        if !superblock.algorithms().is_empty() || !backends.contains(&Backend::Memback) {
            continue;
        }
        // A damaged image has been reported by the check "layers".
        if let Some(image) = check.layers.image(index)
            && let Ok(sum) = InPlace::of(image, layer.offset, page)
            && sum.bytes >= in_place::PAGE
        {
            findings.note(format!("{layer}: memback maps {sum}"));
        }
    }
}
