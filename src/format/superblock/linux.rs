//! The filesystems of Linux: ext2, ext3, ext4, XFS, btrfs, F2FS, squashfs.
//!
//! Constants named after a structure's field are offsets in it.

use std::io;

use super::{Share, Volume, VolumeKind, block, field, label, le_units, uuid, wide_label};
use crate::bytes::ReadAt;
use crate::format::squashfs::SquashfsSuperblock;

/// `struct ext4_super_block` of fs/ext4/ext4.h, 1024 bytes into the device. The three are told
/// apart by their features, as blkid does.
pub(super) fn ext(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    const S_MAGIC: usize = 0x38;
    const S_FEATURE_COMPAT: usize = 0x5c;
    const S_UUID: usize = 0x68;
    const EXT4_SUPER_MAGIC: u16 = 0xef53;

    const COMPAT_HAS_JOURNAL: u32 = 0x4;
    const INCOMPAT_RECOVER: u32 = 0x4;
    const INCOMPAT_JOURNAL_DEV: u32 = 0x8;
    /// filetype and meta_bg; what ext2 knows. ext3 knows needs_recovery besides.
    const EXT2_INCOMPAT: u32 = 0x2 | 0x10;
    /// sparse_super, large_file and btree_dir: ext2 and ext3 both.
    const EXT3_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;

    let Some(superblock) = block::<1024>(device, 1024)? else {
        return Ok(None);
    };
    if field(&superblock, S_MAGIC).le16() != Some(EXT4_SUPER_MAGIC) {
        return Ok(None);
    }
    let mut features = field(&superblock, S_FEATURE_COMPAT);
    let mut names = field(&superblock, S_UUID);
    let (Some(compat), Some(incompat), Some(ro_compat), Some(s_uuid), Some(s_volume_name)) = (
        features.le32(),
        features.le32(),
        features.le32(),
        names.array(),
        names.take(16),
    ) else {
        return Ok(None);
    };
    let old = ro_compat & !EXT3_RO_COMPAT == 0;
    let kind = if incompat & INCOMPAT_JOURNAL_DEV != 0 {
        VolumeKind::Journal
    } else if !old || incompat & !(EXT2_INCOMPAT | INCOMPAT_RECOVER) != 0 {
        VolumeKind::Ext4
    } else if compat & COMPAT_HAS_JOURNAL != 0 {
        VolumeKind::Ext3
    } else {
        VolumeKind::Ext2
    };
    Ok(Some(Volume::new(kind, uuid(s_uuid), label(s_volume_name))))
}

/// `struct xfs_dsb` of fs/xfs/libxfs/xfs_format.h; big endian.
pub(super) fn xfs(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    const SB_UUID: usize = 32;
    const SB_AGCOUNT: usize = 88;
    const SB_FNAME: usize = 108;
    const SB_BLOCKLOG: usize = 120;

    let Some(superblock) = block::<512>(device, 0)? else {
        return Ok(None);
    };
    let mut start = field(&superblock, 0);
    let (Some(magic), Some(blocksize)) = (start.array(), start.array().map(u32::from_be_bytes))
    else {
        return Ok(None);
    };
    let blocklog = field(&superblock, SB_BLOCKLOG).u8().unwrap_or(0);
    let sane = (9..=16).contains(&blocklog)
        && 1u32.checked_shl(blocklog.into()) == Some(blocksize)
        && field(&superblock, SB_AGCOUNT)
            .le32()
            .is_some_and(|agcount| agcount != 0);
    if magic != *b"XFSB" || !sane {
        return Ok(None);
    }
    Ok(Some(Volume::new(
        VolumeKind::Xfs,
        field(&superblock, SB_UUID).array().and_then(uuid),
        field(&superblock, SB_FNAME).take(12).and_then(label),
    )))
}

/// `struct btrfs_super_block` of include/uapi/linux/btrfs_tree.h, 64 KiB into the device.
pub(super) fn btrfs(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    const BTRFS_SUPER_INFO_OFFSET: u64 = 0x10000;
    const FSID: usize = 32;
    const BYTENR: usize = 48;
    const MAGIC: usize = 64;
    const NUM_DEVICES: usize = 136;
    /// Its first field is the device's id.
    const DEV_ITEM: usize = 201;
    const LABEL: usize = 299;
    const LABEL_LEN: usize = 256;

    let Some(superblock) = block::<1024>(device, BTRFS_SUPER_INFO_OFFSET)? else {
        return Ok(None);
    };
    if field(&superblock, MAGIC).array() != Some(*b"_BHRfS_M")
        || field(&superblock, BYTENR).le64() != Some(BTRFS_SUPER_INFO_OFFSET)
    {
        return Ok(None);
    }
    let share = field(&superblock, DEV_ITEM)
        .le64()
        .zip(field(&superblock, NUM_DEVICES).le64())
        .map(|(member, of)| Share { member, of })
        .filter(|share| share.of > 1);
    Ok(Some(Volume {
        share,
        ..Volume::new(
            VolumeKind::Btrfs,
            field(&superblock, FSID).array().and_then(uuid),
            field(&superblock, LABEL).take(LABEL_LEN).and_then(label),
        )
    }))
}

/// `struct f2fs_super_block` of include/linux/f2fs_fs.h, 1024 bytes into the device.
pub(super) fn f2fs(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    const F2FS_SUPER_MAGIC: u32 = 0xf2f5_2010;
    const UUID: usize = 108;
    const VOLUME_NAME_LEN: usize = 1024;

    let Some(superblock) = block::<1280>(device, 1024)? else {
        return Ok(None);
    };
    let mut start = field(&superblock, 0);
    let (Some(F2FS_SUPER_MAGIC), Some(major), Some(minor)) =
        (start.le32(), start.le16(), start.le16())
    else {
        return Ok(None);
    };
    // blkid: versions before 1.1 have another structure.
    if (major, minor) == (1, 0) {
        return Ok(Some(Volume::new(VolumeKind::F2fs, None, None)));
    }
    let mut names = field(&superblock, UUID);
    let uuid = names.array().and_then(uuid);
    let label = names
        .take(VOLUME_NAME_LEN)
        .and_then(|name| wide_label(le_units(name)));
    Ok(Some(Volume::new(VolumeKind::F2fs, uuid, label)))
}

/// SquashFS has neither UUID nor label.
pub(super) fn squashfs(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    let superblock = SquashfsSuperblock::read(device, 0)?;
    Ok(superblock.map(|_| Volume::new(VolumeKind::Squashfs, None, None)))
}
