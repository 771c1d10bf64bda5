//! The user of the program, looked up in the image's passwd(5) and group(5). Pure.
//!
//! As runc does it (OCI image specification, config.md, "User"): a name, or a number that need not be in the
//! files. Without a group, the one in passwd counts, and the groups that list the user are the supplementary
//! ones.

use crate::error::{Error, Result};
use crate::text::shown;

/// User and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// The home directory, if passwd has the user.
    pub home: Option<Vec<u8>>,
}

/// The credentials of `USER[:GROUP]`; empty: those of root. `passwd` and `group` are the content of the files.
///
/// # Errors
/// A user or group is not in the files and not a number.
pub fn find(user: &[u8], passwd: &[u8], group: &[u8]) -> Result<Credentials> {
    let mut parts = user.splitn(2, |byte| *byte == b':');
    let name = parts.next().filter(|name| !name.is_empty()).unwrap_or(b"0");
    let wanted_group = parts.next().filter(|name| !name.is_empty());
    let missing = |what: &str, name: &[u8], file: &str| {
        Error::new(
            "find",
            format_args!("{what} {}", shown(name)),
            format!("not in {file}, and not a number"),
        )
    };

    let mut found = entries(passwd).filter_map(|fields| {
        let id = number(fields.get(2)?)?;
        Some((id, fields))
    });
    let id = number(name);
    let entry = found.find(|(uid, fields)| fields.first() == Some(&name) || id == Some(*uid));
    let mut credentials = Credentials::default();
    let mut user_name = None;
    match (entry, id) {
        (Some((uid, fields)), _) => {
            credentials.uid = uid;
            credentials.gid = fields.get(3).and_then(|field| number(field)).unwrap_or(0);
            credentials.home = fields.get(5).map(|home| home.to_vec());
            user_name = fields.first().copied();
        }
        (None, Some(uid)) => credentials.uid = uid,
        (None, None) => return Err(missing("the user", name, "/etc/passwd")),
    }
    match wanted_group {
        Some(name) => {
            let id = number(name);
            let by_name = entries(group).find(|fields| fields.first() == Some(&name));
            let gid = by_name.and_then(|fields| number(fields.get(2)?)).or(id);
            credentials.gid = gid.ok_or_else(|| missing("the group", name, "/etc/group"))?;
        }
        None => {
            let listed = entries(group).filter(|fields| {
                let members = fields.get(3).copied().unwrap_or_default();
                let mut members = members.split(|byte| *byte == b',');
                user_name.is_some() && members.any(|member| Some(member) == user_name)
            });
            credentials.groups = listed.filter_map(|fields| number(fields.get(2)?)).collect();
        }
    }
    Ok(credentials)
}

/// The lines of a file, split at colons.
fn entries(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let lines = file.split(|byte| *byte == b'\n');
    lines.map(|line| line.split(|byte| *byte == b':').collect())
}

/// A user or group ID. The largest number stands for "no change" in system calls.
fn number(digits: &[u8]) -> Option<u32> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number != u32::MAX).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# a comment\nbad:x:y:z\n\nwww:x:33:34:www:/var/www:/bin/false\n77:x:5:6::/five:\nlast:x:9:9::/l:";
    const GROUP: &[u8] =
        b"root:x:0:\nadm:x:4:x,www\nwww:x:34:\ntty:x:5:www,root,y\nwwww:x:7:wwww\n:::\n";

    fn credentials(uid: u32, gid: u32, groups: &[u32], home: Option<&str>) -> Credentials {
        Credentials {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.map(|home| home.as_bytes().to_vec()),
        }
    }

    #[test]
    fn users_and_groups_are_names_or_numbers() {
        for (user, expected) in [
            ("", credentials(0, 0, &[5], Some("/root"))),
            ("www", credentials(33, 34, &[4, 5], Some("/var/www"))),
            ("33", credentials(33, 34, &[4, 5], Some("/var/www"))),
            ("www:adm", credentials(33, 4, &[], Some("/var/www"))),
            ("www:", credentials(33, 34, &[4, 5], Some("/var/www"))),
            ("33:99", credentials(33, 99, &[], Some("/var/www"))),
            ("1234", credentials(1234, 0, &[], None)),
            ("1234:tty", credentials(1234, 5, &[], None)),
            (":4", credentials(0, 4, &[], Some("/root"))),
            // A name takes precedence over a number.
            ("77", credentials(5, 6, &[], Some("/five"))),
            ("last", credentials(9, 9, &[], Some("/l"))),
        ] {
            assert_eq!(
                find(user.as_bytes(), PASSWD, GROUP).unwrap(),
                expected,
                "{user}"
            );
        }
        assert_eq!(find(b"", b"", b"").unwrap(), credentials(0, 0, &[], None));
    }

    #[test]
    fn who_is_not_there_is_named() {
        for (user, what) in [
            (
                "nobody",
                "find the user nobody: not in /etc/passwd, and not a number",
            ),
            (
                "bad",
                "find the user bad: not in /etc/passwd, and not a number",
            ),
            (
                "4294967295",
                "find the user 4294967295: not in /etc/passwd, and not a number",
            ),
            (
                "-1",
                "find the user -1: not in /etc/passwd, and not a number",
            ),
            (
                "www:cdrom",
                "find the group cdrom: not in /etc/group, and not a number",
            ),
        ] {
            assert_eq!(
                find(user.as_bytes(), PASSWD, GROUP)
                    .unwrap_err()
                    .to_string(),
                what
            );
        }
    }
}
