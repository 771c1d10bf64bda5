//! The ELF note that tells layerinit's `/init` from other programs of that name (`readelf -n` shows it).
//!
//! Source: elf(5), "Notes (Nhdr)".

/// The name of the note's owner.
pub const NAME: &[u8; 10] = b"layerinit\0";

/// The note's type, in the namespace of its owner: the description is the version.
pub const VERSION: u32 = 1;

/// A note with room for a version, each part padded to a multiple of 4.
#[repr(C)]
pub struct Note {
    n_namesz: u32,
    n_descsz: u32,
    n_type: u32,
    name: [u8; 12],
    description: [u8; 16],
}

const _: () = assert!(size_of::<Note>() == 40);

impl Note {
    /// The note of this build: the version of the package, padded with zeros.
    pub const OWN: Self = Self {
        n_namesz: NAME.len() as u32,
        n_descsz: 16,
        n_type: VERSION,
        name: padded(NAME),
        description: padded(env!("CARGO_PKG_VERSION").as_bytes()),
    };
}

/// `text`, padded with zeros. A longer text fails the build.
const fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    let mut i = 0;
    while i < text.len() {
        field[i] = text[i];
        i += 1;
    }
    field
}
