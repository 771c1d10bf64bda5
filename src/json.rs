//! Writes JSON (RFC 8259) into a string, on one line.
//!
//! `/init` writes /run/initramfs/layerinit.json with it, and the host tool its `--json` output. An
//! [`Object`] or [`Array`] closes its bracket when it is dropped, so the output is well formed.

/// Writes an object, up to its drop.
pub struct Object<'a> {
    out: &'a mut String,
    empty: bool,
}

/// Writes an array, up to its drop.
pub struct Array<'a> {
    out: &'a mut String,
    empty: bool,
}

impl<'a> Object<'a> {
    /// An object at the end of `out`.
    pub fn new(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, empty: true }
    }

    fn name(&mut self, name: &str) -> &mut String {
        separate(self.out, &mut self.empty);
        quote(self.out, name);
        self.out.push(':');
        self.out
    }

    /// A string.
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        quote(self.name(name), value);
        self
    }

    /// A number. Readers that use doubles are exact up to 2^53.
    pub fn number(&mut self, name: &str, value: impl Into<u64>) -> &mut Self {
        let digits = value.into().to_string();
        self.name(name).push_str(&digits);
        self
    }

    /// A number that may be negative.
    pub fn signed(&mut self, name: &str, value: i64) -> &mut Self {
        self.name(name).push_str(&value.to_string());
        self
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, name: &str, value: bool) -> &mut Self {
        self.name(name)
            .push_str(if value { "true" } else { "false" });
        self
    }

    /// `null`.
    pub fn null(&mut self, name: &str) -> &mut Self {
        self.name(name).push_str("null");
        self
    }

    /// An object inside this one.
    pub fn object(&mut self, name: &str) -> Object<'_> {
        Object::new(self.name(name))
    }

    /// An array inside this object.
    pub fn array(&mut self, name: &str) -> Array<'_> {
        Array::new(self.name(name))
    }
}

impl<'a> Array<'a> {
    /// An array at the end of `out`.
    pub fn new(out: &'a mut String) -> Self {
        out.push('[');
        Self { out, empty: true }
    }

    fn next(&mut self) -> &mut String {
        separate(self.out, &mut self.empty);
        self.out
    }

    /// A string.
    pub fn text(&mut self, value: &str) -> &mut Self {
        quote(self.next(), value);
        self
    }

    /// A number.
    pub fn number(&mut self, value: impl Into<u64>) -> &mut Self {
        let digits = value.into().to_string();
        self.next().push_str(&digits);
        self
    }

    /// An object inside this array.
    pub fn object(&mut self) -> Object<'_> {
        Object::new(self.next())
    }

    /// An array inside this one.
    pub fn array(&mut self) -> Array<'_> {
        Array::new(self.next())
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        self.out.push('}');
    }
}

impl Drop for Array<'_> {
    fn drop(&mut self) {
        self.out.push(']');
    }
}

fn separate(out: &mut String, empty: &mut bool) {
    if !std::mem::replace(empty, false) {
        out.push(',');
    }
}

fn quote(out: &mut String, text: &str) {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    out.push('"');
    let plain = |byte: u8| matches!(byte, b' '..=b'~' if byte != b'"' && byte != b'\\');
    if text.bytes().all(plain) {
        out.push_str(text);
        out.push('"');
        return;
    }
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // RFC 8259 requires this of C0. A terminal would also act on DEL and C1.
            '\0'..' ' | '\x7f'..='\u{9f}' => {
                let code = c as usize;
                let digit = |shift: u32| HEX.get((code >> shift) & 15).copied().unwrap_or('0');
                out.push_str("\\u00");
                out.extend([digit(4), digit(0)]);
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_arrays_nest_and_close() {
        let mut out = String::new();
        {
            let mut object = Object::new(&mut out);
            object
                .text("a", "b")
                .number("n", u64::MAX)
                .boolean("t", true)
                .null("z");
            object.object("empty");
            {
                let mut list = object.array("list");
                list.text("x").number(7u32);
                list.object().boolean("f", false);
                list.array();
            }
            object.number("last", 0u8);
        }
        assert_eq!(
            out,
            r#"{"a":"b","n":18446744073709551615,"t":true,"z":null,"empty":{},"list":["x",7,{"f":false},[]],"last":0}"#
        );
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        Array::new(&mut out).text("\"\\/\n\t\r\0\x1b\x7f\u{9b}é\u{1f600}");
        assert_eq!(
            out,
            "[\"\\\"\\\\/\\n\\t\\u000d\\u0000\\u001b\\u007f\\u009bé\u{1f600}\"]"
        );
    }
}
