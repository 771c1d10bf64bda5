//! `layerinit plan`: arguments and help.

use std::io::Write;

use clap::Args;

use super::image::{FromArgs, ImageArgs, images};
use crate::error::Result;
use crate::tool::image::boot::StandIns;
use crate::tool::plan;

/// Print the plan that /init makes for an image
#[derive(Args)]
#[command(after_help = concat!(images!(), "\
Plan:
  The plan comes from the same code as in /init. The image takes the place of /sys/firmware/initrd;
  the files in /layers come from the archives that the kernel unpacks. The errors that
  `layerinit check` finds follow the plan.

Exit status:
  1 if there is an error, 2 for wrong usage.

Examples:
  layerinit plan initrd.img
  layerinit plan --pad 4096 loader.cpio base.erofs
  layerinit plan initrd.img --cmdline 'rd.overlay.readonly rd.layers.backend=loop'
  layerinit plan initrd.img --cmdline 'rd.layers.from=LABEL=sys:/a' --from /mnt/sys"))]
pub(super) struct PlanArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Set the kernel command line [default: that of a unified kernel image]
    #[arg(long, value_name = "STRING")]
    cmdline: Option<String>,
    #[command(flatten)]
    from: FromArgs,
}

impl PlanArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<bool> {
        let stand_ins = StandIns::new(self.from.from);
        plan::print(
            &self.image.open()?,
            self.cmdline.as_deref(),
            &stand_ins,
            out,
        )
    }
}
