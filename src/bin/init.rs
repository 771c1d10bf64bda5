//! PID 1: the boot on one screen. What each step does is told in the library.

#![no_main]

use std::convert::Infallible;
use std::ffi::CString;
use std::time::Duration;

use layerinit::boot::mount::{DeviceFinder, Mounter, SYSROOT};
use layerinit::boot::report::{Facts, Report};
use layerinit::boot::systemd::{self, Moment};
use layerinit::boot::{fault, kmsg, rescue, setup, source, switch_root, verify_init, watchdog};
use layerinit::device::WaitPolicy;
use layerinit::error::{Error, Result};
use layerinit::module::loader::Loader;
use layerinit::plan;
use layerinit::plan::cmdline::{Break, Options};
use log::{debug, info, warn};

layerinit::entry!(start);

const VERSION: &str = concat!("layerinit ", env!("CARGO_PKG_VERSION"));

fn start(arguments: Vec<CString>) -> i32 {
    let started = Moment::now();
    let asked = arguments.len() == 2
        && arguments
            .last()
            .is_some_and(|word| word.as_c_str() == c"--version");
    // Before anything is mounted this is a boot, and `--version` is for the real init.
    if asked && std::path::Path::new("/proc/self").exists() {
        println!("{VERSION}");
        return 0;
    }
    if !rustix::process::getpid().is_init() {
        eprintln!(
            "{VERSION}: the /init of an initramfs. It mounts the EROFS layers of the initrd and starts the \
             system in them.\nThe kernel starts it as PID 1; started by hand it does nothing. \
             README.md tells how to build an image."
        );
        return 1;
    }
    rescue::catch_panics();
    fault::catch();
    let Err(mut failure) = boot(&arguments, started);
    loop {
        // The policy returns only where the rescue shell has left a root.
        rescue::fail(&failure);
        let Err(again) = by_hand(&arguments, started);
        failure = again;
    }
}

/// The boot: streams, options, sources, plan, modules, layers, root, proof, switch, exec.
fn boot(arguments: &[CString], started: Moment) -> Result<Infallible> {
    let mut report = Report::new();
    setup::hurry();
    let no_console = setup::console();
    kmsg::start();
    setup::filesystems()?;
    let options = Options::parse(&setup::cmdline()?);
    rescue::follow(&options);
    kmsg::follow(options.verbosity);
    let kernel = setup::release();
    info!("{VERSION} on Linux {kernel}");
    no_console.iter().for_each(|error| warn!("{error}"));
    report.ended("setup");

    let assembled = setup::root_is_overlay()?;
    let sources = match assembled {
        true => Vec::new(),
        false => source::find(&options.rdinit)?,
    };
    report.ended("discover");

    let plan = match assembled {
        true => plan::assembled(&options)?,
        false => plan::plan(&sources, &options)?,
    };
    plan.warnings().for_each(|warning| warn!("{warning}"));
    plan.urgent_warnings().for_each(|alarm| kmsg::say(alarm));
    debug!("{plan}");
    rescue::pause(Break::Plan, &options);
    report.ended("plan");

    let mut loader = Loader::new(&kernel, &options);
    loader.load_pre();
    if let Some(device) = &options.watchdog
        && let Err(error) = watchdog::start(device)
    {
        warn!("{error}");
    }
    loader.begin(&plan.modules);
    let finder = DeviceFinder::new(WaitPolicy::of(&options));
    let mut mounter = Mounter::new(&plan, &sources, finder, loader);
    mounter.mount_layers()?;
    report.ended("layers");

    let new_root = mounter.mount_root()?;
    let (mounted, loader) = mounter.finish();
    let released = source::release_image(&plan, &mounted.images());
    let mut freed = released.unwrap_or(0);
    report.ended("root");
    rescue::pause(Break::Mount, &options);

    let init = verify_init::init(new_root, &plan.inits)?;
    report.ended("proof");
    rescue::pause(Break::Switch, &options);

    if new_root != "/" {
        freed = freed.saturating_add(switch_root::root(new_root, released.is_none())?);
        info!("switched to the new root, {freed} bytes freed");
    }
    report.ended("switch");
    let facts = Facts {
        kernel: &kernel,
        sources: &sources,
        plan: &plan,
        mounted: &mounted,
        modules: &loader.finish(),
        warnings: &kmsg::warnings(),
        init,
        freed,
    };
    if let Err(error) = report.write(&facts) {
        warn!("{error}");
    }
    let told = (new_root != "/" && options.timestamps).then_some(started);
    Err(hand_over(init, told, arguments, &options))
}

/// Goes on with what the rescue shell has left at /sysroot.
fn by_hand(arguments: &[CString], started: Moment) -> Result<Infallible> {
    let options = match rescue::options() {
        Some(options) => options.clone(),
        None => Options::parse(&setup::cmdline()?),
    };
    let inits = options.inits();
    let init = verify_init::init(SYSROOT, &inits)?;
    switch_root::root(SYSROOT, false)?;
    let told = options.timestamps.then_some(started);
    Err(hand_over(init, told, arguments, &options))
}

/// Starts the real init. If it is systemd, it is told when this program began.
fn hand_over(
    init: &str,
    started: Option<Moment>,
    arguments: &[CString],
    options: &Options,
) -> Error {
    kmsg::end();
    // Only a driver that was asked for can be a console's, and keep a boot without one waiting.
    setup::take_up_console(match options.driver_pre.is_empty() {
        true => Duration::ZERO,
        false => setup::CONSOLE_WAIT,
    });
    let more = started.map_or(Vec::new(), |started| systemd::arguments(init, started));
    switch_root::exec(init, more, arguments)
}
