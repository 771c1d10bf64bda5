//! Bytes from outside: a bounds-checked cursor, and random access to an initrd.
//!
//! Only this module slices untrusted bytes. Parsers take their fields from a [`Cursor`] or a [`Reader`], and
//! neither reads beyond its input.

mod cursor;
mod source;

mod chain;
mod reader;

pub use chain::Chain;
pub use cursor::Cursor;
pub use reader::{Reader, Skip, fill, leading_zeros, skip_zeros};
pub use source::{Opened, Part, ReadAt};

/// A UUID as text: 8-4-4-4-12 hexadecimal digits.
pub fn dashed(bytes: [u8; 16]) -> String {
    let mut text = format!("{:032x}", u128::from_be_bytes(bytes));
    for dash in [20, 16, 12, 8] {
        text.insert(dash, '-');
    }
    text
}
