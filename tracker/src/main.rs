//! The tracker's program: parse, open, serve, stop.

mod cli;
mod socket;

use clap::Parser;
use cli::{Arguments, Settings};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Group};
use sd_notify::NotifyState;
use std::error::Error as _;
use std::io::IsTerminal;
use std::process::ExitCode;
use towline_tracker::control::serve::{self, Access, Served};
use towline_tracker::engine;
use towline_tracker::error::{Error, Kind};
use towline_tracker::sidecar;
use tracing::{error, info, warn};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    abort_on_panic();
    match arguments.check().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // One line, cause included where the message does not tell it yet.
            let told = problem.to_string();
            match problem.source().map(ToString::to_string) {
                Some(cause) if !told.contains(&cause) => eprintln!("towline-tracker: {told}: {cause}"),
                _ => eprintln!("towline-tracker: {told}"),
            }
            ExitCode::from(problem.kind().exit_code())
        }
    }
}

/// A thread that is lost is a tracker that no longer keeps its promises: die whole, and recover (S5).
fn abort_on_panic() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        hook(panic);
        std::process::abort();
    }));
}

fn run(settings: Settings) -> Result<(), Error> {
    let Settings { config, nbd, control, control_group } = settings;
    // Before any thread is made, so that all inherit it: only the thread that waits for them gets these.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|error| Error::caused(Kind::Other, "signals can't be blocked", error))?;
    raise_descriptor_limit();
    // What is wrong with the sockets is found before a disk is touched.
    let control_group = control_group.map(|name| group_id(&name)).transpose()?;
    socket::check(&nbd)?;
    control.iter().try_for_each(|path| socket::check(path))?;

    let opening = sidecar::open(&config)?;
    if let (None, Some(group), false) = (&control, control_group, config.read_only) {
        socket::let_through(&opening.sidecar, group)?;
    }
    // Serving reads only makes nothing beside the disk, not even the folder that a control socket would be in.
    let nowhere = config.read_only && !opening.sidecar.is_dir();
    let control = control.or_else(|| (!nowhere).then(|| opening.sidecar.join("control.sock")));
    let shippers = control
        .as_deref()
        .map(|path| socket::listen(path, socket::Access::Private(control_group)))
        .transpose()?;
    // The last to appear: who sees it finds everything ready.
    let (clients, nbd_file) = socket::listen(&nbd, socket::Access::Umask)?;

    let handout = opening.handout.clone();
    let (shippers, control_file) = shippers.unzip();
    let mut names: Vec<Box<dyn engine::Guard>> = vec![Box::new(nbd_file)];
    names.extend(control_file.map(|file| Box::new(file) as Box<dyn engine::Guard>));
    let options = engine::Options {
        nbd: vec![clients],
        nbd_address: format!("unix:{}", nbd.display()),
        read_only: config.read_only,
        names,
        ..Default::default()
    };
    let engine = engine::spawn(opening, options)?;
    let served = Served { asker: engine.asker(), handout };
    let access = Access { group: control_group };
    let server = shippers.map(|shippers| serve::serve(shippers, served, access)).transpose()?;

    let stop = engine.stopper();
    std::thread::Builder::new()
        .name("towline-signals".into())
        .spawn(move || {
            while let Ok(signal) = signals.wait() {
                info!(%signal, "asked to stop");
                notify(NotifyState::Stopping);
                stop();
            }
        })
        .map_err(|error| Error::caused(Kind::Other, "the signals' thread can't be made", error))?;
    let shown = control.as_deref().unwrap_or("none".as_ref()).display();
    info!(group = config.group, nbd = %nbd.display(), control = %shown, "serving");
    notify(NotifyState::Ready);

    let ended = engine.join();
    if let Err(problem) = &ended {
        error!(%problem, "the event loop has ended");
    }
    // Nobody can connect any more; now nobody is answered any more.
    if let Some(server) = server {
        server.stop();
    }
    ended
}

/// Tells a service manager, if there is one.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager can't be told");
    }
}

/// Many disks, clients and handed-out files need more descriptors than the usual soft limit.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard.min(1 << 16), hard));
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}

fn group_id(name: &str) -> Result<Gid, Error> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(Error::new(Kind::Usage, format!("--control-group {name}: there is no such group"))),
        Err(error) => {
            Err(Error::caused(Kind::Other, format!("--control-group {name} can't be looked up"), error))
        }
    }
}
