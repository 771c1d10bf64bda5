//! The records of a pax extended header (POSIX.1-2024, pax, "pax Extended Header"): `LENGTH KEY=VALUE\n`. Pure.
//!
//! The tar crate splits records at newlines, which are valid in values: a file capability may hold one.

/// A key and its value, which may be any bytes.
pub type PaxRecord<'a> = (&'a [u8], &'a [u8]);

/// The records of a header; `None` if it is malformed.
pub fn records(mut header: &[u8]) -> Option<Vec<PaxRecord<'_>>> {
    let mut records = Vec::new();
    while !header.is_empty() {
        let space = header.iter().position(|byte| *byte == b' ')?;
        let length = usize::try_from(number(header.get(..space)?)?).ok()?;
        let (record, rest) = header.split_at_checked(length)?;
        header = rest;
        let record = record.strip_suffix(b"\n")?.get(space.checked_add(1)?..)?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = record.split_at_checked(equals)?;
        records.push((key, value.get(1..)?));
    }
    Some(records)
}

/// A decimal number.
pub fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The whole seconds of a time since 1970, such as `1700000000.5`; an earlier time is 0.
pub fn seconds(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let whole = text.split('.').next().unwrap_or_default();
    let seconds: i64 = whole.parse().ok()?;
    Some(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_newlines_and_equals_signs() {
        let header = b"12 path=a/b\n19 SCHILY.x=a\n=b\0c\n";
        let expected: Vec<PaxRecord> = vec![(b"path", b"a/b"), (b"SCHILY.x", b"a\n=b\0c")];
        assert_eq!(records(header), Some(expected));
        assert_eq!(records(b""), Some(vec![]));
    }

    #[test]
    fn malformed_records_are_refused() {
        for header in [
            &b"12 path=a/b"[..],
            b"13 path=a/b\n",
            b"9 path=a/b\n",
            b"x path=a/b\n",
            b"3 \n",
            b"7 path\n",
            b"99999999999999999999 a=b\n",
        ] {
            assert_eq!(records(header), None, "{}", header.escape_ascii());
        }
    }

    #[test]
    fn times_before_1970_are_0() {
        for (text, time) in [
            ("12.9", Some(12)),
            ("-1.5", Some(0)),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(seconds(text.as_bytes()), time, "{text}");
        }
    }
}
