//! The wait for a device that the command line names.

use std::fmt;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::contents::Contents;
use super::matching::{Found, Look};
use super::media::Polling;
use super::uevent::{Event, Listener, News, pause};
use super::{Device, enumerate};
use crate::error::{Error, Result};
use crate::module::sysfs;
use crate::plan;
use crate::plan::cmdline::{Options, Wait};
use crate::plan::device_spec::Spec;

/// How long a device may take where the command line does not say. USB disks and slow controllers
/// come within a few seconds; after that somebody should see a message.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(10);

/// How often a wait says what it waits for.
const REPORT: Duration = Duration::from_secs(5);

/// How often the devices are looked at on a kernel that announces none (without CONFIG_NET).
const BLIND: Duration = Duration::from_millis(250);

/// How long to wait for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// `rootdelay=`: no look before that.
    pub delay: Duration,
    /// After the delay; `None` is for ever.
    pub limit: Option<Duration>,
}

impl Patience {
    /// What the command line asks for: `rootwait=N`, else `rd.timeout=N`, else `rootwait` for ever,
    /// else [`DEFAULT_WAIT`]. `rd.timeout=0` is for ever, too, as in dracut, whose word it is.
    pub fn of(options: &Options) -> Self {
        let limit = match (options.rootwait, options.timeout) {
            (Wait::Seconds(seconds), _) => Some(Duration::from_secs(seconds)),
            (_, Some(0)) | (Wait::Forever, None) => None,
            (_, Some(seconds)) => Some(Duration::from_secs(seconds)),
            (Wait::Default, None) => Some(DEFAULT_WAIT),
        };
        Self {
            delay: Duration::from_secs(options.rootdelay),
            limit,
        }
    }
}

/// A device to find. Displayed as on the command line, such as `root=UUID=1-2`.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The word that asks for it.
    pub word: &'static str,
    /// Which device.
    pub spec: &'a Spec,
    /// Whether a filesystem of several devices will do with those that are there in time: the mount
    /// option `degraded` of btrfs.
    pub degraded: bool,
}

impl<'a> Wanted<'a> {
    /// The device of a plan that `word` asks for.
    pub fn of(word: &'static str, device: &'a plan::Device) -> Self {
        Self {
            word,
            spec: &device.spec,
            degraded: device.degraded(),
        }
    }
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.word, self.spec)
    }
}

/// A search for devices. Events count from its start, so that it starts before drivers are loaded.
#[derive(Debug)]
pub struct Search {
    listener: Option<Listener>,
    contents: Contents,
    /// What has been handed over to be loaded.
    modaliases: Vec<String>,
}

impl Search {
    /// Starts to listen for devices. Without uevents it looks now and then.
    pub fn new() -> Self {
        let listener = Listener::open().inspect_err(|error| {
            warn!("{error}; looking for devices every quarter of a second instead");
        });
        Self {
            listener: listener.ok(),
            contents: Contents::default(),
            modaliases: Vec::new(),
        }
    }

    /// Hands over what devices that are there want loaded, as far as it has not been: at the start of a
    /// search, and when it may have missed some that came. Whether there was any.
    pub fn coldplug(&mut self, modaliases: &mut dyn FnMut(&[String])) -> bool {
        let mut wanted = sysfs::modaliases();
        wanted.retain(|modalias| !self.modaliases.contains(modalias));
        if wanted.is_empty() {
            return false;
        }
        modaliases(&wanted);
        self.modaliases.extend(wanted);
        true
    }

    /// Hands over what devices want loaded that have come by the time `until`, as [`find`](Self::find)
    /// does.
    pub fn hotplug(&mut self, until: Instant, modaliases: &mut dyn FnMut(&[String])) -> Result<()> {
        let news = self.wait(until)?;
        self.follow(&news, modaliases);
        Ok(())
    }

    /// Waits for the device that is `wanted`. `modaliases` gets what came and wants a driver, as
    /// it comes, from the start of the search on.
    ///
    /// It is an error when two devices fit, at once, and when none does in time; both name the
    /// devices that are there.
    pub fn find(
        &mut self,
        wanted: Wanted<'_>,
        patience: Patience,
        modaliases: &mut dyn FnMut(&[String]),
    ) -> Result<Found> {
        let started = Instant::now();
        // A delay that does not fit into an Instant is none, and such a limit is for ever.
        let first = later(started, patience.delay);
        let limit = patience.limit.and_then(|limit| first.checked_add(limit));
        let mut report = later(started, REPORT);
        let mut look = patience.delay.is_zero();
        let mut polling = None;
        if !look {
            info!(
                "rootdelay: looking for {wanted} in {} s",
                patience.delay.as_secs()
            );
        }
        loop {
            let now = Instant::now();
            let timed_out = limit.is_some_and(|limit| now >= limit);
            let due = now >= report;
            // Without a limit, somebody who is content with half a mirror does not wait for ever.
            let enough = limit.is_none() && now >= later(first, DEFAULT_WAIT);
            if now >= first && (look || due || timed_out) {
                let devices = enumerate()?;
                let missing = match self.contents.look(wanted, &devices)? {
                    Look::There(found) => {
                        debug!(
                            "{wanted} is {}, after {} ms",
                            found.device,
                            started.elapsed().as_millis()
                        );
                        return Ok(*found);
                    }
                    Look::NotYet => None,
                    Look::Incomplete(found, of) if wanted.degraded && (timed_out || enough) => {
                        warn!(
                            "{wanted}: going on with {} of the {of} devices of its filesystem (degraded)",
                            found.devices()
                        );
                        return Ok(*found);
                    }
                    Look::Incomplete(found, of) => Some((found.devices(), of)),
                };
                let state = State {
                    missing,
                    waited: started.elapsed(),
                };
                if timed_out || due {
                    let list = self.contents.list(&devices);
                    let so_far = format!("{state}; there are: {list}{}", hint(wanted.spec));
                    if timed_out {
                        return Err(Error::new("find", wanted, so_far));
                    }
                    info!("waiting for {wanted}: {so_far}");
                }
            }
            if due {
                report = later(now, REPORT);
            }
            let mut until = report;
            if let Some(limit) = limit {
                until = until.min(limit);
            }
            if now < first {
                until = first;
            }
            polling.get_or_insert_with(Polling::start);
            let news = self.wait(until)?;
            look = self.follow(&news, modaliases) || now < first;
        }
    }

    /// What has come by `until`.
    fn wait(&self, until: Instant) -> Result<News> {
        if let Some(listener) = &self.listener {
            return listener.wait(until);
        }
        // Nothing to wait on but time; an error could only come from the descriptors.
        let _ = pause(&mut [], until.min(later(Instant::now(), BLIND)));
        Ok(News {
            lost: true,
            ..News::default()
        })
    }

    /// Takes note of what has come. Whether a look at the devices may find more than before.
    fn follow(&mut self, news: &News, modaliases: &mut dyn FnMut(&[String])) -> bool {
        let wanted: Vec<_> = news
            .events
            .iter()
            .filter(|event| event.action == "add")
            .filter_map(|event| event.modalias.clone())
            .collect();
        if !wanted.is_empty() {
            modaliases(&wanted);
        }
        if news.lost {
            self.coldplug(modaliases);
            if self.listener.is_some() {
                self.contents.forget(None);
            }
        }
        let is_block = |event: &&Event| event.subsystem == "block";
        let mut any = news.lost;
        for event in news.events.iter().filter(is_block) {
            any = true;
            if let Some(node) = &event.devname {
                self.contents.forget(Some(node));
            }
            let (_, name) = event.devpath.rsplit_once('/').unwrap_or_default();
            if event.action == "change"
                && let Some(drive) = Device::by_name(name).filter(Device::is_removable)
            {
                drive.revalidate();
            }
        }
        any
    }
}

impl Default for Search {
    fn default() -> Self {
        Self::new()
    }
}

/// How far a wait has come, as a clause.
struct State {
    missing: Option<(usize, u64)>,
    waited: Duration,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.waited.as_secs();
        match self.missing {
            None => write!(f, "no such device after {seconds} s"),
            Some((there, of)) => write!(
                f,
                "{there} of the {of} devices of its filesystem after {seconds} s"
            ),
        }
    }
}

/// What to add where the name is one of those that LVM, LUKS or RAID give (`mapper/root`, `vg/root`, `md0`,
/// `md/root`): waiting does not help.
fn hint(spec: &Spec) -> &'static str {
    match spec {
        Spec::Name(name)
            if name.contains('/') || name.starts_with("md") || name.starts_with("dm-") =>
        {
            "; nothing here assembles LVM, LUKS or RAID"
        }
        _ => "",
    }
}

fn later(now: Instant, by: Duration) -> Instant {
    now.checked_add(by).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_unnoticed_is_handed_over_once() {
        let mut search = Search::new();
        let mut heard = Vec::new();
        let lost = News {
            lost: true,
            ..News::default()
        };
        for _ in 0..2 {
            search.follow(&lost, &mut |wanted| heard.extend(wanted.to_vec()));
            assert_eq!(heard, sysfs::modaliases());
        }
    }
}
