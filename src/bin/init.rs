//! PID 1: the boot on one screen. The library describes each step.

#![no_main]

use std::convert::Infallible;
use std::ffi::CString;
use std::time::Duration;

use layerinit::boot::mount::{DeviceFinder, Mounter, SYSROOT};
use layerinit::boot::priority::raise_priority;
use layerinit::boot::release::Later;
use layerinit::boot::report::{BootReport, StepTimes};
use layerinit::boot::systemd::{self, Timestamp};
use layerinit::boot::trust::Trust;
use layerinit::boot::{
    console, fault, filesystem, kmsg, media, mount, release, rescue, setup, source, switch_root,
    verify_init, watchdog,
};
use layerinit::error::{Error, Result};
use layerinit::module::loader::Loader;
use layerinit::plan;
use layerinit::plan::cmdline::{Break, Options};
use log::{debug, info, warn};

layerinit::entry!(start);

const VERSION: &str = concat!("layerinit ", env!("CARGO_PKG_VERSION"));

fn start(arguments: Vec<CString>) -> i32 {
    let started = Timestamp::now();
    let wants_version = arguments.len() == 2
        && arguments
            .last()
            .is_some_and(|word| word.as_c_str() == c"--version");
    // As PID 1 of a boot, where nothing is mounted yet, `--version` is meant for the real init.
    if wants_version && std::path::Path::new("/proc/self").exists() {
        println!("{VERSION}");
        return 0;
    }
    if !rustix::process::getpid().is_init() {
        eprintln!(
            "{VERSION}: the /init of an initramfs. It mounts the EROFS layers of the initrd and starts the \
             system in them.\nOnly the kernel can start it, as PID 1. README.md describes how to build an \
             image."
        );
        return 1;
    }
    rescue::catch_panics();
    fault::install_handler();
    let Err(mut failure) = boot(&arguments, started);
    loop {
        // Returns only if the rescue shell has left a root at /sysroot.
        rescue::fail(&failure);
        let Err(next) = boot_rescued(&arguments, started);
        failure = next;
    }
}

/// The boot: streams, options, sources, plan, modules, layers, root, init, switch, exec. Returns only an
/// error.
fn boot(arguments: &[CString], started: Timestamp) -> Result<Infallible> {
    let mut times = StepTimes::start();
    raise_priority();
    let early_errors = [setup::mount_dev(), console::open_streams().err()];
    kmsg::install();
    setup::mount_filesystems()?;
    let mut options = Options::parse(&setup::read_cmdline()?);
    let trust = Trust::restrict(&mut options);
    rescue::set_options(&options);
    kmsg::set_verbosity(options.verbosity);
    let kernel = setup::kernel_release();
    info!("{VERSION} on Linux {kernel}");
    early_errors
        .iter()
        .flatten()
        .for_each(|error| warn!("{error}"));
    let mut trust = trust?;
    times.end("setup");

    let mut loader = Loader::new(&kernel, &options);
    loader.load_pre();
    if let Some(device) = &options.watchdog
        && let Err(error) = watchdog::start(device)
    {
        warn!("{error}");
    }
    let mut finder = DeviceFinder::new(&options);
    let assembled = filesystem::root_is_overlay()?;
    trust.check_assembled(assembled)?;
    let (mut media, mut sources) = (Vec::new(), Vec::new());
    if !assembled {
        let wanted = plan::medium::media(&options)?;
        (media, sources) = media::open(wanted, &mut finder, &mut loader)?;
        sources.extend(source::find(&options.rdinit)?);
    }
    let lists = media.iter().filter_map(|medium| medium.list.as_ref());
    trust.find_list(&mut sources, lists)?;
    mount::secure(&trust, &mut sources, &mut loader)?;
    times.end("discover");

    let plan = match assembled {
        true => plan::assembled(&options)?,
        false => plan::plan(&sources, &options)?,
    };
    plan.warnings().for_each(|warning| warn!("{warning}"));
    plan.urgent_warnings()
        .for_each(|warning| kmsg::warn_on_console(warning));
    debug!("{plan}");
    rescue::break_at(Break::Plan, &options);
    times.end("plan");

    loader.begin(&plan.modules);
    let verified = trust.verify(&plan, &sources, &options)?;
    if verified.is_some() {
        times.end("verify");
    }
    let mut mounter = Mounter::new(&plan, &sources, finder, loader);
    mounter.mount_layers()?;
    times.end("layers");

    let new_root = mounter.mount_root()?;
    let (mounted, loader) = mounter.finish();
    let released = release::release(&plan, &sources, &mounted.images());
    media::release(&mut media, &mounted.images());
    let mut freed = mounted.freed.saturating_add(released.bytes);
    times.end("root");
    rescue::break_at(Break::Mount, &options);

    let init = verify_init::find_init(new_root, &plan.inits)?;
    times.end("proof");
    rescue::break_at(Break::Switch, &options);

    systemd::keep_stub_files(new_root);
    if new_root != "/" {
        freed = freed.saturating_add(switch_root::switch(new_root, released.later)?);
        info!("switched to the new root, {freed} bytes freed");
    }
    times.end("switch");
    let report = BootReport {
        kernel: &kernel,
        media: &media,
        sources: &sources,
        plan: &plan,
        verified: verified.as_ref(),
        mounted: &mounted,
        modules: &loader.finish(),
        warnings: &kmsg::warnings(),
        init,
        freed,
        times: &times,
    };
    if let Err(error) = report.write() {
        warn!("{error}");
    }
    let started = (new_root != "/" && options.timestamps).then_some(started);
    Err(exec(init, started, arguments, &options))
}

/// Boots the root that the rescue shell has left at /sysroot.
fn boot_rescued(arguments: &[CString], started: Timestamp) -> Result<Infallible> {
    let options = match rescue::options() {
        Some(options) => options.clone(),
        None => Options::parse(&setup::read_cmdline()?),
    };
    let inits = options.inits();
    let init = verify_init::find_init(SYSROOT, &inits)?;
    systemd::keep_stub_files(SYSROOT);
    switch_root::switch(SYSROOT, Later::default())?;
    let started = options.timestamps.then_some(started);
    Err(exec(init, started, arguments, &options))
}

/// Executes the real init. systemd also gets the time when `/init` started, and the place of its credentials.
fn exec(init: &str, started: Option<Timestamp>, arguments: &[CString], options: &Options) -> Error {
    kmsg::restore_limit();
    // Only a module of rd.driver.pre= can be the driver of a console that is worth waiting for.
    console::reopen_streams(match options.driver_pre.is_empty() {
        true => Duration::ZERO,
        false => console::DRIVER_WAIT,
    });
    let more = started.map_or(Vec::new(), |started| systemd::arguments(init, started));
    switch_root::exec(init, more, systemd::environment(init), arguments)
}
