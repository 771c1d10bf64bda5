//! The kernel's announcements of devices, on a netlink socket.
//!
//! Source: lib/kobject_uevent.c, and Documentation/ABI/testing/sysfs-uevent for the names.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use crate::error::{Context, Result};

/// The multicast group of the kernel's own messages; udev repeats them in group 2.
const KERNEL: u32 = 1;

/// Bytes of messages that wait to be read. Coldplug of a large machine is some thousand messages
/// at a time, and a message that does not fit is lost.
const BUFFER: usize = 1 << 20;

/// UEVENT_BUFFER_SIZE of include/linux/kobject.h, with room for the header.
const MESSAGE_MAX: usize = 4096;

/// A device came, went or changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `add`, `change`, `remove`, `bind` and others.
    pub action: String,
    /// Path below /sys.
    pub devpath: String,
    /// `block`, `pci`, `usb` and so on.
    pub subsystem: String,
    /// Path below /dev, of a device that has a node.
    pub devname: Option<String>,
    /// What a driver's aliases match, of a device that wants a driver.
    pub modalias: Option<String>,
}

impl Event {
    /// Reads a message: `action@devpath`, and `NAME=value` strings, each ended by a NUL. `None` for
    /// anything else, such as what udev sends.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut strings = message.split(|byte| *byte == 0);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let header = text(strings.next()?);
        let (action, devpath) = header.split_once('@')?;
        let mut event = Self {
            action: action.into(),
            devpath: devpath.into(),
            ..Self::default()
        };
        for string in strings {
            let mut halves = string.splitn(2, |byte| *byte == b'=');
            let (Some(name), Some(value)) = (halves.next(), halves.next()) else {
                continue;
            };
            match name {
                b"SUBSYSTEM" => event.subsystem = text(value),
                b"DEVNAME" => event.devname = Some(text(value)),
                b"MODALIAS" => event.modalias = Some(text(value)),
                _ => {}
            }
        }
        Some(event)
    }
}

/// What a wait brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The events, in order.
    pub events: Vec<Event>,
    /// More came than fitted: look at everything again.
    pub lost: bool,
}

/// A socket that receives every event from now on.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// Starts to listen. Fails on a kernel without CONFIG_NET.
    pub fn open() -> Result<Self> {
        const OBJECT: &str = "socket for uevents";
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(KOBJECT_UEVENT),
        )
        .during("open", OBJECT)?;
        // Without it (no CAP_NET_ADMIN) the default holds, and `News::lost` tells of the rest.
        let _ = set_socket_recv_buffer_size_force(&socket, BUFFER);
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL)).during("bind", OBJECT)?;
        Ok(Self { socket })
    }

    /// Waits until something comes, or until the time `until`, and returns all that has come.
    pub fn wait(&self, until: Instant) -> Result<News> {
        let mut descriptors = [PollFd::new(&self.socket, PollFlags::IN)];
        pause(&mut descriptors, until).during("wait for", "uevents")?;
        let mut news = News::default();
        let mut message = [0; MESSAGE_MAX];
        loop {
            match recv(&self.socket, &mut message[..], RecvFlags::empty()) {
                Ok((_, length)) => {
                    let message = message.get(..length).unwrap_or_default();
                    news.events.extend(Event::parse(message));
                }
                Err(Errno::AGAIN) => return Ok(news),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => news.lost = true,
                Err(errno) => return Err(errno).during("receive", "uevents"),
            }
        }
    }
}

/// Waits for the descriptors or until the time `until`.
pub(crate) fn pause(descriptors: &mut [PollFd<'_>], until: Instant) -> rustix::io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(descriptors, timeout.as_ref()) {
            // A child has ended, say: PID 1 gets such signals.
            Err(Errno::INTR) => {}
            done => return done.map(|_| ()),
        }
    }
}
