//! Whether the kernel's unpacker stops at a wrong sum. It does not if it could not create the file.

use std::io;

use super::contents::{Contents, under};
use super::{Kind, Segment, open_archive};
use crate::bytes::{Part, ReadAt, Skip};
use crate::format::compress::Codec;
use crate::format::cpio::{Archive, Member, Next};

/// The archive that is walked.
pub(super) struct ArchivePlace<'a> {
    pub image: &'a dyn ReadAt,
    /// The segments before it.
    pub before: &'a [Segment],
    /// Its offset.
    pub start: u64,
    pub codec: Option<Codec>,
}

/// Checks whether the kernel stops at this member, whose body is next in the archive. Only this part of the
/// walk reads bodies.
pub(super) fn look<I: Skip>(
    member: &Member,
    archive: &mut Archive<I>,
    place: &ArchivePlace,
    contents: &mut Contents,
) -> io::Result<()> {
    // `is_made` walks all archives again, so hostile images get a limit.
    if contents.is_wrong(member, archive)?
        && (contents.too_many_doubts() || is_made(place, member)?)
    {
        contents.stop(member);
    }
    Ok(())
}

/// Whether the kernel can have created the file of this member: whether an earlier member makes its
/// directory.
fn is_made(place: &ArchivePlace, member: &Member) -> io::Result<bool> {
    let ArchivePlace {
        image,
        before,
        start,
        codec,
    } = *place;
    let path = member.path();
    let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else {
        return Ok(true);
    };
    let parent = path.get(..slash).unwrap_or_default();
    // Every kernel has these built in (usr/default_cpio_list). `..` is not resolved here.
    let climbs = parent.split(|byte| *byte == b'/').any(|name| name == b"..");
    if climbs || parent == b"dev" || parent == b"root" {
        return Ok(true);
    }
    for segment in before {
        if let Kind::Cpio(cpio) = &segment.kind
            && makes(
                image,
                segment.offset,
                segment.length,
                cpio.codec,
                parent,
                u64::MAX,
            )?
        {
            return Ok(true);
        }
    }
    let length = image.size().saturating_sub(start);
    makes(image, start, length, codec, parent, member.offset)
}

/// Whether a member before `end` is this directory, or a symbolic link on the path to it, which may lead
/// there.
fn makes(
    image: &dyn ReadAt,
    offset: u64,
    length: u64,
    codec: Option<Codec>,
    directory: &[u8],
    end: u64,
) -> io::Result<bool> {
    let part = Part::new(image, 0, image.size());
    let mut archive = open_archive(&part, offset, length, codec)?;
    loop {
        // The walk reports the error.
        let Ok(next) = archive.next_member() else {
            return Ok(false);
        };
        match next {
            Next::Member(member) if member.offset >= end => return Ok(false),
            Next::Member(member) if !member.counts() => {}
            Next::Member(member) => {
                let path = member.path();
                match member.header.file_type() {
                    libc::S_IFDIR if path == directory => return Ok(true),
                    libc::S_IFLNK if under(directory, &path) => return Ok(true),
                    _ => {}
                }
            }
            // A plain archive ends here. A compressed one goes on.
            Next::Trailer if codec.is_none() => return Ok(false),
            Next::Trailer => {}
            Next::End => return Ok(false),
        }
    }
}
