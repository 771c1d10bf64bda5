//! The loopback interface, and the address from `ip=` on the kernel command line: most distribution kernels
//! are built without CONFIG_IP_PNP, and leave it to the initramfs.
//!
//! Source: Documentation/admin-guide/nfs/nfsroot.rst for `ip=`, rtnetlink(7) for the messages.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};

use crate::error::{Context, Error, Result};
use crate::text::Words;

/// The directory of the network interfaces.
const INTERFACES: &str = "/sys/class/net";

/// This file exists if the kernel reads `ip=` itself.
const KERNEL_READS_IT: &str = "/proc/net/pnp";

/// The index of the loopback interface (LOOPBACK_IFINDEX in include/net/flow.h).
const LOOPBACK: u32 = 1;

/// The value of `ip=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpSetting {
    /// Nothing.
    Off,
    /// DHCP, BOOTP or RARP.
    Automatic,
    /// These addresses.
    Static(Addresses),
    /// It is invalid, with the reason.
    Invalid(&'static str),
}

/// The fields of a static `ip=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The address of this machine.
    pub client: Ipv4Addr,
    /// The length of the network's prefix, in bits.
    pub prefix: u8,
    /// The default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// The name of the interface; empty: the first Ethernet interface.
    pub device: String,
    /// The name servers.
    pub nameservers: Vec<Ipv4Addr>,
}

/// Reads `ip=CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:AUTOCONF:DNS0:DNS1` of a kernel command line. The
/// last `ip=` counts.
pub fn setting(cmdline: &str) -> IpSetting {
    let words = Words::new(cmdline).filter(|(name, _)| *name == "ip");
    let Some(value) = words.last().and_then(|(_, value)| value) else {
        return IpSetting::Off;
    };
    match addresses(value) {
        Ok(Some(addresses)) => IpSetting::Static(addresses),
        Ok(None) if matches!(value, "off" | "none" | "") => IpSetting::Off,
        Ok(None) => IpSetting::Automatic,
        Err(what) => IpSetting::Invalid(what),
    }
}

fn addresses(value: &str) -> std::result::Result<Option<Addresses>, &'static str> {
    let fields: Vec<_> = value.split(':').collect();
    let field = |number: usize| fields.get(number).copied().unwrap_or_default();
    let address = |number: usize, what| match field(number) {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| what),
    };
    let first = field(0);
    if first.is_empty() || !first.contains('.') {
        return Ok(None);
    }
    let client: Ipv4Addr = first.parse().map_err(|_| "its first field is no address")?;
    let gateway = address(2, "its gateway is no address")?;
    let mask: Option<Ipv4Addr> = address(3, "its netmask is no address")?;
    let prefix = match mask.map(u32::from) {
        Some(mask) if mask.leading_ones().saturating_add(mask.trailing_zeros()) >= 32 => {
            u8::try_from(mask.leading_ones()).unwrap_or(32)
        }
        Some(_) => return Err("its netmask has gaps"),
        // By class, as the kernel does.
        None => match client.octets() {
            [0..=127, ..] => 8,
            [128..=191, ..] => 16,
            _ => 24,
        },
    };
    let nameservers = [7, 8].map(|number| address(number, "a name server is no address"));
    let nameservers: std::result::Result<Vec<_>, _> = nameservers.into_iter().collect();
    Ok(Some(Addresses {
        client,
        prefix,
        gateway,
        device: field(5).into(),
        nameservers: nameservers?.into_iter().flatten().collect(),
    }))
}

/// Applies `ip=` of the kernel command line, unless the kernel has done it.
///
/// # Errors
/// The word is invalid, there is no interface, or the kernel refuses an address.
pub fn configure() -> Result<()> {
    let cmdline = fs::read("/proc/cmdline").during("read", "/proc/cmdline")?;
    let fail = |what: &str| Err(Error::new("configure", "the network by ip=", what));
    match setting(&String::from_utf8_lossy(&cmdline)) {
        IpSetting::Off => Ok(()),
        IpSetting::Automatic if Path::new(KERNEL_READS_IT).exists() => Ok(()),
        IpSetting::Automatic => fail(
            "the kernel has no CONFIG_IP_PNP, so only addresses work, as in \
             ip=10.0.2.15::10.0.2.2:255.255.255.0",
        ),
        IpSetting::Invalid(what) => fail(what),
        IpSetting::Static(addresses) => {
            let Some(index) = interface(&addresses.device) else {
                return fail("there is no such interface; is its driver loaded (rd.driver.pre=)?");
            };
            set(&addresses, index)?;
            name_servers(&addresses.nameservers);
            Ok(())
        }
    }
}

/// Brings the loopback interface up; the kernel then adds its addresses.
///
/// # Errors
/// The kernel has no networking.
pub fn loopback_up() -> Result<()> {
    exchange(&[link_up(LOOPBACK)], "the loopback interface")
}

/// The index of an interface by its name, or of the first Ethernet interface.
fn interface(name: &str) -> Option<u32> {
    let number = |name: &str, file: &str| -> Option<u32> {
        let path = Path::new(INTERFACES).join(name).join(file);
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    if !name.is_empty() {
        return number(name, "ifindex");
    }
    let entries = fs::read_dir(INTERFACES).ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_ethernet = |name: &String| number(name, "type") == Some(libc::ARPHRD_ETHER.into());
    let indices = names.filter(is_ethernet);
    indices.filter_map(|name| number(&name, "ifindex")).min()
}

/// Sets address and route, and brings the interface up.
fn set(addresses: &Addresses, index: u32) -> Result<()> {
    let object = format!("the address {}", addresses.client);
    exchange(&messages(addresses, index), &object)
}

/// Sends messages to rtnetlink, and waits for the answer to each.
fn exchange(messages: &[Vec<u8>], object: &str) -> Result<()> {
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None).during("set", object)?;
    for message in messages {
        let mut answer = [0; 128];
        let exchange = send(&socket, message, SendFlags::empty())
            .and_then(|_| recv(&socket, &mut answer, RecvFlags::empty()));
        let (received, _) = exchange.during("set", object)?;
        match refusal(answer.get(..received).unwrap_or_default()) {
            // The kernel has read `ip=` itself.
            None | Some(Errno::EXIST) => {}
            Some(errno) => return Err(errno).during("set", object),
        }
    }
    Ok(())
}

/// The message that brings an interface up.
fn link_up(index: u32) -> Vec<u8> {
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    // struct ifinfomsg: family, padding, type, index, flags, mask of the flags to change.
    let header = [&[0; 4], &index.to_ne_bytes()[..], &up, &up].concat();
    message(libc::RTM_NEWLINK, 0, &header, &[])
}

/// The messages for rtnetlink, in order: the route needs an interface that is up.
fn messages(addresses: &Addresses, index: u32) -> Vec<Vec<u8>> {
    const FAMILY: u8 = libc::AF_INET as u8;
    const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    let client = addresses.client.octets();
    let link = link_up(index);
    let index = index.to_ne_bytes();
    // struct ifaddrmsg: family, length of the prefix, flags, scope, index.
    let header = [&[FAMILY, addresses.prefix, 0, 0], &index[..]].concat();
    let attributes = [(libc::IFA_LOCAL, client), (libc::IFA_ADDRESS, client)];
    let mut messages = vec![
        message(libc::RTM_NEWADDR, CREATE, &header, &attributes),
        link,
    ];
    if let Some(gateway) = addresses.gateway {
        // struct rtmsg: family, length of destination and source, TOS, table, protocol, scope, type, flags.
        let header = [
            [FAMILY, 0, 0, 0],
            [
                libc::RT_TABLE_MAIN,
                libc::RTPROT_BOOT,
                libc::RT_SCOPE_UNIVERSE,
                libc::RTN_UNICAST,
            ],
            [0; 4],
        ]
        .concat();
        let attributes = [
            (libc::RTA_GATEWAY, gateway.octets()),
            (libc::RTA_OIF, index),
        ];
        messages.push(message(libc::RTM_NEWROUTE, CREATE, &header, &attributes));
    }
    messages
}

/// A message that the kernel acknowledges, with attributes of four bytes.
fn message(kind: u16, flags: u16, header: &[u8], attributes: &[(u16, [u8; 4])]) -> Vec<u8> {
    const BASE: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut body = header.to_vec();
    for (kind, value) in attributes {
        body.extend(8u16.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
    }
    // struct nlmsghdr: length, type, flags, sequence number, port.
    let length = u32::try_from(body.len().saturating_add(16)).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((BASE | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The error of the kernel's answer, struct nlmsgerr after struct nlmsghdr; `None`: success.
fn refusal(answer: &[u8]) -> Option<Errno> {
    let Some(error) = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()) else {
        return Some(Errno::BADMSG);
    };
    match i32::from_ne_bytes(error) {
        0 => None,
        error => Some(Errno::from_raw_os_error(error.saturating_neg())),
    }
}

/// Writes /etc/resolv.conf, unless the image has one. An error is ignored: the program may not need it.
fn name_servers(addresses: &[Ipv4Addr]) {
    const FILE: &str = "/etc/resolv.conf";
    if addresses.is_empty() || fs::metadata(FILE).is_ok_and(|metadata| metadata.len() > 0) {
        return;
    }
    let written = fs::File::create(FILE).and_then(|mut file| {
        addresses
            .iter()
            .try_for_each(|address| writeln!(file, "nameserver {address}"))
    });
    let _ = written;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_read_as_the_kernel_reads_it() {
        let addresses = |prefix, gateway, device: &str, nameservers: &[[u8; 4]]| {
            IpSetting::Static(Addresses {
                client: Ipv4Addr::new(10, 0, 2, 15),
                prefix,
                gateway,
                device: device.into(),
                nameservers: nameservers.iter().copied().map(Ipv4Addr::from).collect(),
            })
        };
        let gateway = Some(Ipv4Addr::new(10, 0, 2, 2));
        for (cmdline, expected) in [
            ("quiet", IpSetting::Off),
            ("ip=off", IpSetting::Off),
            ("ip=none", IpSetting::Off),
            ("ip=", IpSetting::Off),
            ("ip=dhcp", IpSetting::Automatic),
            ("ip=on", IpSetting::Automatic),
            ("ip=:::::eth0:dhcp", IpSetting::Automatic),
            ("ip=10.0.2.15", addresses(8, None, "", &[])),
            (
                "ip=dhcp ip=10.0.2.15::10.0.2.2:255.255.255.0:name:eth1:off:10.0.2.3:8.8.8.8",
                addresses(24, gateway, "eth1", &[[10, 0, 2, 3], [8, 8, 8, 8]]),
            ),
            (
                "ip=10.0.2.15::10.0.2.2:255.255.255.255",
                addresses(32, gateway, "", &[]),
            ),
            ("ip=10.0.2.15:::0.0.0.0", addresses(0, None, "", &[])),
            (
                "ip=10.0.2.15:::255.0.255.0",
                IpSetting::Invalid("its netmask has gaps"),
            ),
            (
                "ip=10.0.2.256",
                IpSetting::Invalid("its first field is no address"),
            ),
            (
                "ip=10.0.2.15::x",
                IpSetting::Invalid("its gateway is no address"),
            ),
            (
                "ip=10.0.2.15:::24",
                IpSetting::Invalid("its netmask is no address"),
            ),
        ] {
            assert_eq!(setting(cmdline), expected, "{cmdline}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_messages_are_exact() {
        let IpSetting::Static(addresses) = setting("ip=10.0.2.15::10.0.2.2:255.255.255.0") else {
            panic!("not static");
        };
        assert_eq!(
            messages(&addresses, 2),
            [
                &b"\x28\0\0\0\x14\0\x05\x06\0\0\0\0\0\0\0\0\x02\x18\0\0\x02\0\0\0\
                   \x08\0\x02\0\x0a\0\x02\x0f\x08\0\x01\0\x0a\0\x02\x0f"[..],
                b"\x20\0\0\0\x10\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x01\0\0\0\x01\0\0\0",
                b"\x2c\0\0\0\x18\0\x05\x06\0\0\0\0\0\0\0\0\x02\0\0\0\xfe\x03\0\x01\0\0\0\0\
                  \x08\0\x05\0\x0a\0\x02\x02\x08\0\x04\0\x02\0\0\0",
            ]
        );
    }

    #[test]
    fn answers_are_read() {
        let answer = |error: i32| [&[0; 16][..], &error.to_ne_bytes()].concat();
        assert_eq!(refusal(&answer(0)), None);
        assert_eq!(refusal(&answer(-17)), Some(Errno::EXIST));
        assert_eq!(refusal(b""), Some(Errno::BADMSG));
    }
}
