//! Names data that is neither cpio nor EROFS, for a message.

use crate::bytes::{Part, ReadAt};
use crate::format::superblock::partition::{self, Scheme};
use crate::format::superblock::volumes;

/// The offset of what is recognised, and a clause about it. `from` is the end of the last segment, `start`
/// the first byte after it that is not zero; the data may begin with zeros. Read errors count as not
/// recognised: the walk has read these bytes before.
pub(super) fn name(image: &dyn ReadAt, from: u64, start: u64) -> Option<(u64, String)> {
    let places = places(from, start);
    places.into_iter().find_map(|place| {
        let part = Part::new(image, place, u64::MAX);
        let what = tar(&part)
            .or_else(|| volume(&part))
            .or_else(|| disk(&part))?;
        Some((
            place,
            format!("{what}; layers are EROFS images and cpio archives"),
        ))
    })
}

/// The possible offsets of something whose first byte that is not zero is at `start`.
fn places(from: u64, start: u64) -> Vec<u64> {
    /// The number of zeros before the superblock or table of GPT, ext4, ISO 9660, btrfs.
    const ZEROS: [u64; 4] = [446, 1024, 32768, 65536];
    /// Possible alignments.
    const ALIGN: [u64; 4] = [1, 4, 512, 4096];
    // The first bytes of a superblock may be zero as well.
    let by_zeros = ZEROS.map(|zeros| Some(start.checked_sub(zeros)? & !3));
    let by_align = ALIGN.map(|align| from.checked_next_multiple_of(align));
    let places = by_zeros.into_iter().chain(by_align).flatten();
    let mut places: Vec<_> = places.filter(|place| *place >= from).collect();
    places.insert(0, start);
    places
}

fn volume(part: &dyn ReadAt) -> Option<String> {
    let volume = volumes(part).ok()?.into_iter().next()?;
    Some(format!("{volume}"))
}

fn disk(part: &dyn ReadAt) -> Option<String> {
    let sizes = [512, 4096];
    let mut tables = sizes.into_iter();
    let table = tables.find_map(|size| partition::table(part, size).ok()?)?;
    let kind = match table.scheme {
        Scheme::Gpt | Scheme::GptBackup => "GPT",
        Scheme::Mbr if table.partitions.is_empty() => return None,
        Scheme::Mbr => "MBR",
    };
    Some(format!(
        "the image of a disk with partitions ({kind}), which are not searched"
    ))
}

/// POSIX.1-1988 and GNU tar: the magic of the first member's header.
fn tar(part: &dyn ReadAt) -> Option<String> {
    const MAGIC: u64 = 257;
    let mut magic = [0; 5];
    part.read_exact_at(&mut magic, MAGIC).ok()?;
    (magic == *b"ustar")
        .then(|| "a tar archive (mkfs.erofs --tar=f makes an EROFS image of it)".into())
}
