//! The mount options of `rootflags=`: attributes of the mount, parameters of the filesystem, and those of mount(8).

use rustix::mount::MountAttrFlags;

/// The flags that select how atime is updated; fsmount(2) takes only one of them.
const ATIME: MountAttrFlags = MountAttrFlags::MOUNT_ATTR__ATIME;

/// Mount options that are attributes of the mount and not parameters of the filesystem: name, attributes to
/// clear, attributes to set. The last one of several wins. Source: linux_flags_map in libmount/src/optmap.c of
/// util-linux, mount(8). relatime is the kernel's default, and `norelatime` does not change that.
const ATTRIBUTES: [(&str, MountAttrFlags, MountAttrFlags); 17] = {
    use MountAttrFlags as Flags;
    const NONE: MountAttrFlags = MountAttrFlags::empty();
    [
        ("nosuid", NONE, Flags::MOUNT_ATTR_NOSUID),
        ("suid", Flags::MOUNT_ATTR_NOSUID, NONE),
        ("nodev", NONE, Flags::MOUNT_ATTR_NODEV),
        ("dev", Flags::MOUNT_ATTR_NODEV, NONE),
        ("noexec", NONE, Flags::MOUNT_ATTR_NOEXEC),
        ("exec", Flags::MOUNT_ATTR_NOEXEC, NONE),
        ("noatime", ATIME, Flags::MOUNT_ATTR_NOATIME),
        ("atime", Flags::MOUNT_ATTR_NOATIME, NONE),
        ("strictatime", ATIME, Flags::MOUNT_ATTR_STRICTATIME),
        ("nostrictatime", Flags::MOUNT_ATTR_STRICTATIME, NONE),
        ("relatime", ATIME, NONE),
        ("norelatime", NONE, NONE),
        ("nodiratime", NONE, Flags::MOUNT_ATTR_NODIRATIME),
        ("diratime", Flags::MOUNT_ATTR_NODIRATIME, NONE),
        // From Linux 5.14 on (fsmount(2)).
        ("nosymfollow", NONE, Flags::MOUNT_ATTR_NOSYMFOLLOW),
        ("symfollow", Flags::MOUNT_ATTR_NOSYMFOLLOW, NONE),
        ("defaults", NONE, NONE),
    ]
};

/// Options that mount(8) interprets itself and does not pass to the kernel (userspace_opts_map in
/// libmount/src/optmap.c). They do not apply to a mount by root at boot. The last four are flags of mount(2)
/// that fsconfig(2) does not know, and that have no effect on a root filesystem.
const USERSPACE: [&str; 16] = [
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "silent",
    "loud",
    "iversion",
    "noiversion",
];

/// Prefixes of further options of this kind.
const USERSPACE_PREFIXES: [&str; 4] = ["user=", "comment=", "x-", "X-"];

/// Splits mount options into attributes of the mount and parameters of the filesystem.
pub fn split_options(flags: &[String]) -> (MountAttrFlags, Vec<&String>) {
    let mut attributes = MountAttrFlags::empty();
    let mut rest = Vec::new();
    for flag in flags {
        if let Some((_, clear, set)) = ATTRIBUTES.iter().find(|(name, ..)| name == flag) {
            attributes = attributes.difference(*clear).union(*set);
        } else if !USERSPACE.contains(&flag.as_str())
            && !USERSPACE_PREFIXES
                .iter()
                .any(|prefix| flag.starts_with(prefix))
        {
            rest.push(flag);
        }
    }
    (attributes, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_are_split_as_mount_8_does() {
        for (text, attributes, rest) in [
            (
                "defaults,errors=remount-ro,commit=30",
                MountAttrFlags::empty(),
                "errors=remount-ro,commit=30",
            ),
            (
                "noatime,nodiratime,nosuid,nodev,noexec,nosymfollow",
                MountAttrFlags::MOUNT_ATTR_NOATIME
                    | MountAttrFlags::MOUNT_ATTR_NODIRATIME
                    | MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_NODEV
                    | MountAttrFlags::MOUNT_ATTR_NOEXEC
                    | MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
                "",
            ),
            // The last one wins; both together fail with EINVAL.
            (
                "noatime,strictatime",
                MountAttrFlags::MOUNT_ATTR_STRICTATIME,
                "",
            ),
            (
                "strictatime,noatime,norelatime",
                MountAttrFlags::MOUNT_ATTR_NOATIME,
                "",
            ),
            (
                "noatime,atime,nodiratime,diratime,noexec,exec,nosuid,suid,nodev,dev",
                MountAttrFlags::empty(),
                "",
            ),
            (
                "strictatime,nostrictatime,nosymfollow,symfollow,noatime,relatime",
                MountAttrFlags::empty(),
                "",
            ),
            (
                "nofail,_netdev,noauto,auto,user,user=joe,nouser,users,owner,group,silent,\
                 x-systemd.growfs,X-mount.mkdir,comment=root,lazytime,group_id=1",
                MountAttrFlags::empty(),
                "lazytime,group_id=1",
            ),
        ] {
            let flags = crate::text::items(text);
            let (got, left) = split_options(&flags);
            assert_eq!(got, attributes, "{text}");
            assert_eq!(
                left,
                crate::text::items(rest).iter().collect::<Vec<_>>(),
                "{text}"
            );
        }
    }
}
