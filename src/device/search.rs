//! Waits for the device that the command line names.

use std::fmt;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::contents::ContentCache;
use super::matching::{MatchResult, MatchedDevice};
use super::media::MediaPolling;
use super::uevent::{Event, EventBatch, Listener, poll_until};
use super::{Device, enumerate};
use crate::error::{Error, Result};
use crate::module::sysfs;
use crate::plan;
use crate::plan::cmdline::{Options, Wait};
use crate::plan::device_spec::Spec;

/// How long to wait for a device by default. USB disks and slow controllers appear within a few seconds.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(10);

/// Interval of the messages while waiting.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Interval of enumerations on a kernel without uevents (without CONFIG_NET).
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long to wait for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitPolicy {
    /// Delay before the first enumeration (`rootdelay=`).
    pub delay: Duration,
    /// Limit after the delay; `None`: no limit.
    pub limit: Option<Duration>,
}

impl WaitPolicy {
    /// Reads the policy from the command line. The limit is that of `rootwait=N`, else of `rd.timeout=N` (0:
    /// none, as in dracut), else none with `rootwait`, else [`DEFAULT_WAIT`].
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

/// A device to search for. Displayed as on the command line, such as `root=UUID=1-2`.
#[derive(Clone, Copy, Debug)]
pub struct DeviceQuery<'a> {
    /// The word of the command line.
    pub word: &'static str,
    /// The device.
    pub spec: &'a Spec,
    /// Whether a filesystem may miss some of its devices (mount option `degraded` of btrfs).
    pub degraded: bool,
}

impl<'a> DeviceQuery<'a> {
    /// The query for the device of `word`.
    pub fn of(word: &'static str, device: &'a plan::MountSpec) -> Self {
        Self {
            word,
            spec: &device.spec,
            degraded: device.degraded(),
        }
    }
}

impl fmt::Display for DeviceQuery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.word, self.spec)
    }
}

/// A search for devices. Create it before drivers are loaded: it receives the events from then on.
#[derive(Debug)]
pub struct Search {
    listener: Option<Listener>,
    contents: ContentCache,
    /// The MODALIAS that were passed to be loaded.
    modaliases: Vec<String>,
}

impl Search {
    /// Starts listening for uevents. Without them the search polls.
    pub fn new() -> Self {
        let listener = Listener::open().inspect_err(|error| {
            warn!("{error}; polling for devices every 250 ms");
        });
        Self {
            listener: listener.ok(),
            contents: ContentCache::default(),
            modaliases: Vec::new(),
        }
    }

    /// Passes the MODALIAS of existing devices without a driver to `modaliases`, each only once. Call it at
    /// the start of a search. Returns whether there were any.
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

    /// Passes the MODALIAS of devices that appear until `until` to `modaliases`. Returns after the first
    /// batch of events.
    pub fn hotplug(&mut self, until: Instant, modaliases: &mut dyn FnMut(&[String])) -> Result<()> {
        let batch = self.wait(until)?;
        self.handle_events(&batch, modaliases);
        Ok(())
    }

    /// The device that `wanted` names if it is there now.
    ///
    /// # Errors
    ///
    /// Two devices match, or the devices cannot be enumerated.
    pub fn look(&mut self, wanted: DeviceQuery<'_>) -> Result<Option<MatchedDevice>> {
        let found = self.find_among(&enumerate()?, wanted, false)?;
        Ok(found.ok())
    }

    /// Waits for the device that `wanted` names. Passes the MODALIAS of devices that appear meanwhile to
    /// `modaliases`.
    ///
    /// # Errors
    ///
    /// Two devices match (immediately), or none does within the limit. Both errors list the devices that exist.
    pub fn find(
        &mut self,
        wanted: DeviceQuery<'_>,
        policy: WaitPolicy,
        modaliases: &mut dyn FnMut(&[String]),
    ) -> Result<MatchedDevice> {
        let started = Instant::now();
        // A delay that overflows an Instant means none, and such a limit no limit.
        let first = later(started, policy.delay);
        let limit = policy.limit.and_then(|limit| first.checked_add(limit));
        let mut next_report = later(started, REPORT_INTERVAL);
        let mut changed = policy.delay.is_zero();
        let mut polling = None;
        if !changed {
            let seconds = policy.delay.as_secs();
            info!("rootdelay: searching for {wanted} in {seconds} s");
        }
        loop {
            let now = Instant::now();
            let timed_out = limit.is_some_and(|limit| now >= limit);
            let due = now >= next_report;
            // Without a limit, a degraded mount must not wait forever.
            let degrade = timed_out || limit.is_none() && now >= later(first, DEFAULT_WAIT);
            if now >= first && (changed || due || timed_out) {
                let devices = enumerate()?;
                let missing = match self.find_among(&devices, wanted, degrade)? {
                    Ok(found) => {
                        let waited = started.elapsed().as_millis();
                        debug!("{wanted} is {}, after {waited} ms", found.device);
                        return Ok(found);
                    }
                    Err(missing) => missing,
                };
                if timed_out || due {
                    let state = State {
                        missing,
                        waited: started.elapsed(),
                    };
                    let list = self.contents.list(&devices);
                    let state = format!("{state}; devices: {list}{}", hint(wanted.spec));
                    if timed_out {
                        return Err(Error::new("find", wanted, state));
                    }
                    info!("waiting for {wanted}: {state}");
                }
            }
            if due {
                next_report = later(now, REPORT_INTERVAL);
            }
            let until = match limit {
                _ if now < first => first,
                Some(limit) => next_report.min(limit),
                None => next_report,
            };
            polling.get_or_insert_with(MediaPolling::start);
            let batch = self.wait(until)?;
            changed = self.handle_events(&batch, modaliases) || now < first;
        }
    }

    /// Searches `devices`. The inner error is [`State::missing`]; `degrade` accepts a filesystem without all
    /// of its devices if the query does.
    fn find_among(
        &mut self,
        devices: &[Device],
        wanted: DeviceQuery<'_>,
        degrade: bool,
    ) -> Result<std::result::Result<MatchedDevice, Option<(usize, u64)>>> {
        Ok(match self.contents.find(wanted, devices)? {
            MatchResult::Complete(found) => Ok(*found),
            MatchResult::NotFound => Err(None),
            MatchResult::Incomplete(found, of) if wanted.degraded && degrade => {
                let there = found.devices();
                warn!(
                    "{wanted}: mounting {there} of the {of} devices of its filesystem (degraded)"
                );
                Ok(*found)
            }
            MatchResult::Incomplete(found, of) => Err(Some((found.devices(), of))),
        })
    }

    /// Waits for events until `until`.
    fn wait(&self, until: Instant) -> Result<EventBatch> {
        if let Some(listener) = &self.listener {
            return listener.wait(until);
        }
        // poll(2) without descriptors only sleeps, and cannot fail.
        let _ = poll_until(&mut [], until.min(later(Instant::now(), POLL_INTERVAL)));
        Ok(EventBatch {
            lost: true,
            ..EventBatch::default()
        })
    }

    /// Handles events. Returns whether the block devices may have changed.
    fn handle_events(&mut self, batch: &EventBatch, modaliases: &mut dyn FnMut(&[String])) -> bool {
        let wanted: Vec<_> = batch
            .events
            .iter()
            .filter(|event| event.action == "add")
            .filter_map(|event| event.modalias.clone())
            .collect();
        if !wanted.is_empty() {
            modaliases(&wanted);
        }
        if batch.lost {
            self.coldplug(modaliases);
            if self.listener.is_some() {
                self.contents.invalidate(None);
            }
        }
        let is_block = |event: &&Event| event.subsystem == "block";
        let mut any = batch.lost;
        for event in batch.events.iter().filter(is_block) {
            any = true;
            if let Some(node) = &event.devname {
                self.contents.invalidate(Some(node));
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

/// The state of the search, displayed as a clause.
struct State {
    /// Of a filesystem with several devices: how many were found, and how many it has.
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

/// A hint for names that LVM, LUKS or RAID create (`mapper/root`, `vg/root`, `md0`, `md/root`): waiting does
/// not help.
fn hint(spec: &Spec) -> &'static str {
    match spec {
        Spec::Name(name)
            if name.contains('/') || name.starts_with("md") || name.starts_with("dm-") =>
        {
            "; /init does not set up LVM, LUKS or RAID"
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
    fn after_lost_events_each_modalias_is_passed_once() {
        let mut search = Search::new();
        let mut passed = Vec::new();
        let lost = EventBatch {
            lost: true,
            ..EventBatch::default()
        };
        for _ in 0..2 {
            search.handle_events(&lost, &mut |wanted| passed.extend(wanted.to_vec()));
            assert_eq!(passed, sysfs::modaliases());
        }
    }
}
