//! Receives the kernel's uevents on a netlink socket.
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

/// The multicast group of the kernel's messages. udev sends to group 2.
const KERNEL: u32 = 1;

/// Size of the receive buffer in bytes. A large machine sends some thousand messages at once, and the kernel
/// drops those that do not fit.
const BUFFER: usize = 1 << 20;

/// UEVENT_BUFFER_SIZE of include/linux/kobject.h, with room for the header.
const MESSAGE_MAX: usize = 4096;

/// A uevent: a device was added, removed or changed.
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
    /// The string that module aliases match, if the device needs a driver.
    pub modalias: Option<String>,
}

impl Event {
    /// Parses a message: `action@devpath`, then `NAME=value` strings, each terminated by a NUL. `None` for
    /// anything else, such as udev's messages.
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

/// The events that one wait received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventBatch {
    /// The events, in order.
    pub events: Vec<Event>,
    /// The kernel dropped events: enumerate all devices again.
    pub lost: bool,
}

/// A socket that receives every event from now on.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// Opens the socket.
    ///
    /// # Errors
    ///
    /// The kernel has no CONFIG_NET, or no memory.
    pub fn open() -> Result<Self> {
        const OBJECT: &str = "socket for uevents";
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(KOBJECT_UEVENT),
        )
        .during("open", OBJECT)?;
        // Without CAP_NET_ADMIN the default size remains, and `EventBatch::lost` reports dropped events.
        let _ = set_socket_recv_buffer_size_force(&socket, BUFFER);
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL)).during("bind", OBJECT)?;
        Ok(Self { socket })
    }

    /// Waits for events until `until`. Returns all that have arrived; none after a timeout.
    pub fn wait(&self, until: Instant) -> Result<EventBatch> {
        let mut descriptors = [PollFd::new(&self.socket, PollFlags::IN)];
        poll_until(&mut descriptors, until).during("wait for", "uevents")?;
        let mut batch = EventBatch::default();
        let mut message = [0; MESSAGE_MAX];
        loop {
            match recv(&self.socket, &mut message[..], RecvFlags::empty()) {
                Ok((_, length)) => {
                    let message = message.get(..length).unwrap_or_default();
                    batch.events.extend(Event::parse(message));
                }
                Err(Errno::AGAIN) => return Ok(batch),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => batch.lost = true,
                Err(errno) => return Err(errno).during("receive", "uevents"),
            }
        }
    }
}

/// Waits until a descriptor is ready or until `until`. Retries after a signal.
pub(super) fn poll_until(descriptors: &mut [PollFd<'_>], until: Instant) -> rustix::io::Result<()> {
    loop {
        let remaining = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remaining).ok();
        match poll(descriptors, timeout.as_ref()) {
            // PID 1 gets SIGCHLD, for example.
            Err(Errno::INTR) => {}
            done => return done.map(|_| ()),
        }
    }
}
