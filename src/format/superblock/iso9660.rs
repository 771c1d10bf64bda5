//! ISO 9660. Source: ECMA-119 and fs/isofs; the label and the date that stands for a UUID are
//! chosen as libblkid does.

use std::io;

use super::{Volume, VolumeKind, block, field, label, wide_label};
use crate::bytes::ReadAt;

/// Volume descriptors start at the sixteenth sector.
const DESCRIPTORS: u64 = 0x8000;
const SECTOR: u64 = 2048;

/// The most descriptors that are read; a terminator ends the list.
const DESCRIPTORS_MAX: u64 = 16;

const STANDARD_ID: usize = 1;
const VOLUME_ID: usize = 40;
const VOLUME_ID_LEN: usize = 32;
const ESCAPE_SEQUENCES: usize = 88;
const CREATED: usize = 813;
const MODIFIED: usize = 830;

const SUPPLEMENTARY: u8 = 2;
const TERMINATOR: u8 = 255;

pub(super) fn iso9660(device: &dyn ReadAt) -> io::Result<Option<Volume>> {
    let Some(primary) = block::<1024>(device, DESCRIPTORS)? else {
        return Ok(None);
    };
    if field(&primary, STANDARD_ID).array() != Some(*b"CD001") {
        return Ok(None);
    }
    let name = field(&primary, VOLUME_ID)
        .take(VOLUME_ID_LEN)
        .unwrap_or_default();
    let uuid = date(&primary, MODIFIED).or_else(|| date(&primary, CREATED));
    let label = match joliet(device, name)? {
        Some(label) => Some(label),
        None => label(name),
    };
    Ok(Some(Volume::new(VolumeKind::Iso9660, uuid, label)))
}

/// A date as `2026-11-21-09-36-00-00`; digits that are all zero are none.
fn date(descriptor: &[u8], at: usize) -> Option<String> {
    let mut cursor = field(descriptor, at);
    let digits = cursor.take(16)?;
    let zone = cursor.u8()?;
    let unset = digits.iter().all(|digit| *digit == b'0') && zone == 0;
    if unset || digits.iter().all(|digit| *digit == 0) {
        return None;
    }
    let mut text: String = digits.iter().map(|digit| char::from(*digit)).collect();
    // Digits are ASCII; anything else makes no date.
    if !text.is_ascii() {
        return None;
    }
    for dash in [14, 12, 10, 8, 6, 4] {
        text.insert(dash, '-');
    }
    Some(text)
}

/// The label of a Joliet descriptor, in big-endian UTF-16: half as many characters as `primary`, but of all
/// alphabets. `None` where `primary` starts with it.
fn joliet(device: &dyn ReadAt, primary: &[u8]) -> io::Result<Option<String>> {
    for number in 1..=DESCRIPTORS_MAX {
        let at = number.saturating_mul(SECTOR).saturating_add(DESCRIPTORS);
        let Some(descriptor) = block::<128>(device, at)? else {
            break;
        };
        match descriptor.first() {
            Some(&SUPPLEMENTARY) => {}
            None | Some(&TERMINATOR) => break,
            Some(_) => continue,
        }
        let escape = field(&descriptor, ESCAPE_SEQUENCES).array();
        if !matches!(escape, Some([b'%', b'/', b'@' | b'C' | b'E'])) {
            continue;
        }
        let name = field(&descriptor, VOLUME_ID)
            .take(VOLUME_ID_LEN)
            .unwrap_or_default();
        let (pairs, _) = name.as_chunks();
        let units = pairs.iter().map(|pair| u16::from_be_bytes(*pair));
        let same = units
            .clone()
            .zip(primary)
            .all(|(unit, byte)| unit == u16::from(*byte));
        return Ok(if same { None } else { wide_label(units) });
    }
    Ok(None)
}
