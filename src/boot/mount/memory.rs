//! The memory of layers that are written into one tmpfs, counted before anything is written.

use rustix::fs::statvfs;

use super::archive::available_memory;
use crate::boot::release;
use crate::error::{Context, Error, Result};
use crate::plan::Layer;

/// The space that the files of a layer take in a tmpfs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Bytes of content, in whole pages, which the size of the tmpfs limits.
    pub content: u64,
    /// Bytes of memory: the content, inodes and names.
    pub memory: u64,
    /// Files of any type, which nr_inodes= limits; 0 if they are not counted.
    pub files: u64,
}

/// The space that is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    memory: Option<u64>,
    content: u64,
    /// `None`: there is no limit.
    files: Option<u64>,
}

/// Refuses layers that do not fit into the memory, or into the tmpfs at `target`, each written over those
/// below it. A file that a later layer replaces counts in both.
///
/// # Errors
/// They do not fit.
pub fn check(target: &str, layers: &[(&Layer, Need)]) -> Result<()> {
    let tmpfs = statvfs(target).during("stat filesystem of", target)?;
    let room = Room {
        memory: available_memory()?,
        content: tmpfs.f_bavail.saturating_mul(tmpfs.f_frsize),
        files: (tmpfs.f_files > 0).then_some(tmpfs.f_ffree),
    };
    let needs = layers.iter().map(|(layer, need)| {
        let freed = match release::can_free(layer) {
            true => layer.length,
            false => 0,
        };
        (*need, freed)
    });
    let refused = refusal(needs.collect::<Vec<_>>().into_iter(), room);
    refused.map_or(Ok(()), |why| Err(Error::new("extract", "all layers", why)))
}

/// The most memory that layers take while they are written one after the other. `layers` has the bytes that
/// each needs, and those that are freed once it is written.
pub fn peak(layers: impl Iterator<Item = (u64, u64)>) -> u64 {
    let (mut peak, mut now) = (0u64, 0u64);
    for (needed, freed) in layers {
        now = now.saturating_add(needed);
        peak = peak.max(now);
        now = now.saturating_sub(freed);
    }
    peak
}

/// Why layers do not fit. `layers` has what each needs, and the bytes that are freed once it is written.
fn refusal(layers: impl Iterator<Item = (Need, u64)> + Clone, room: Room) -> Option<String> {
    let peak = peak(layers.clone().map(|(need, freed)| (need.memory, freed)));
    let (mut content, mut files) = (0u64, 0u64);
    for (need, _) in layers {
        content = content.saturating_add(need.content);
        files = files.saturating_add(need.files);
    }
    if let Some(available) = room.memory.filter(|available| *available < peak) {
        return Some(format!(
            "they take {peak} bytes of memory, of which {available} are available"
        ));
    }
    let tmpfs = "the tmpfs of the root (rd.overlay=tmpfs:...)";
    if content > room.content {
        let room = room.content;
        return Some(format!(
            "they take {content} bytes, and {tmpfs} has room for {room}"
        ));
    }
    let room = room.files.filter(|room| files > *room)?;
    Some(format!("they have {files} files, and {tmpfs} takes {room}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: Need = Need {
        content: 100,
        memory: 120,
        files: 5,
    };

    fn refused(layers: &[(Need, u64)], memory: u64, content: u64, files: u64) -> Option<String> {
        let room = Room {
            memory: Some(memory),
            content,
            files: Some(files),
        };
        refusal(layers.iter().copied(), room)
    }

    #[test]
    fn layers_are_refused_with_figures() {
        let two = [(LAYER, 0), (LAYER, 0)];
        assert_eq!(refused(&two, 240, 200, 10), None);
        assert_eq!(
            refused(&two, 239, 200, 10).unwrap(),
            "they take 240 bytes of memory, of which 239 are available"
        );
        assert_eq!(
            refused(&two, 240, 199, 10).unwrap(),
            "they take 200 bytes, and the tmpfs of the root (rd.overlay=tmpfs:...) has room for 199"
        );
        assert_eq!(
            refused(&two, 240, 200, 9).unwrap(),
            "they have 10 files, and the tmpfs of the root (rd.overlay=tmpfs:...) takes 9"
        );
    }

    #[test]
    fn a_layer_that_is_freed_makes_room_for_the_next_one() {
        assert_eq!(refused(&[(LAYER, 50), (LAYER, 50)], 190, 200, 10), None);
        assert!(refused(&[(LAYER, 50), (LAYER, 50)], 189, 200, 10).is_some());
    }
}
