//! `dbwarden run`: the service, from its configuration to its last word to systemd.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread,
};

use anyhow::{Context, Result};
use clap::Args;
use sd_notify::NotifyState;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use tracing::{info, warn};

use super::Answer;
use crate::{
    approval::{Desk, Limits},
    config::{self, HookChoice, LogLevel},
    control::{self, Access, HOST_LOCK, HostLock, LedgerPlace, Listener, Service},
    enforce::Quarantine,
    inheritance::Inheritance,
    pipeline,
};

#[derive(Debug, Args)]
pub struct Run {
    /// Read this configuration; by default /etc/dbwarden/config.toml where there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show the configuration as it applies, and end
    #[arg(long)]
    print_config: bool,
    /// Log what the programs in the kernel have to say; for debugging them, not for production
    #[arg(long)]
    bpf_log: bool,
    /// Use these kernel hooks, whatever the configuration says
    #[arg(long, value_enum)]
    hooks: Option<HookChoice>,
}

pub fn run(arguments: &Run) -> Result<Answer> {
    let mut settings = config::load(arguments.config.as_deref())?;
    if let Some(hooks) = arguments.hooks {
        settings.capture.hooks = hooks;
    }
    if arguments.print_config {
        print!("{}", toml::to_string(&settings).context("can't write the configuration as TOML")?);
        return Ok(Answer::Done);
    }
    log_to_stderr(settings.log.level);

    let access = Access::new(settings.control.group.as_deref())?;
    let _only_one = HostLock::acquire(HOST_LOCK.as_ref())?;
    let listener = Listener::bind(&settings.control.socket, access)?;
    let mut service = Service::new().context("can't make what the threads share")?;
    service.ledger = settings.ledger.enabled.then(|| LedgerPlace {
        ledger: settings.ledger.directory.clone(),
        keys: settings.ledger.keys.clone(),
    });
    // Beside the ledger's folder.
    let book = settings.ledger.directory.with_file_name("quarantine.json");
    service.quarantine = Arc::new(Quarantine::open(&book)?);
    let inherited = book.with_file_name("inherited.json");
    service.inheritance = Arc::new(Inheritance::open(&inherited)?);
    let config::Approvals { ttl, hold, break_glass } = settings.approvals.clone();
    let limits = Limits { ttl: ttl.0, hold: hold.0, break_glass };
    let (open, host) = (book.with_file_name("approvals.json"), pipeline::host(&settings.host));
    let desk = Desk::open(limits, &open, &host, pipeline::wall_time());
    service.desk = Arc::new(desk.with_context(|| format!("can't use {}", open.display()))?);
    let service = Arc::new(service);
    let control = serve(listener, &settings.host.name, service.clone())?;

    info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "dbwarden starts");
    let ready = |summary: &str| {
        info!("{summary}");
        notify(&[NotifyState::Ready, NotifyState::Status(summary)]);
    };
    let source = config::source(arguments.config.as_deref());
    let outcome = pipeline::run(&settings, source, &service, arguments.bpf_log, &ready);
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    service.end(pipeline::wall_time());
    if control.join().is_err() {
        warn!("the control thread panicked");
    }
    info!("dbwarden has stopped");
    outcome.map(|()| Answer::Done)
}

/// Signals and control clients, in a thread that the pipeline never waits for.
fn serve(listener: Listener, host: &str, service: Arc<Service>) -> Result<thread::JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the control thread's runtime")?;
    let host = host.to_owned();
    // Registered here, so that no signal after this call ends the process the hard way.
    let signals = {
        let _context = runtime.enter();
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
            .map(signal)
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .context("can't listen for signals")?
    };
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            runtime.spawn(stop_on_signal(signals, service.clone()));
            if let Err(error) = runtime.block_on(control::serve(listener, &host, service)) {
                warn!(%error, "the control socket is closed: statements are still captured");
            }
        })
        .context("can't start the control thread")
}

async fn stop_on_signal(mut signals: Vec<tokio::signal::unix::Signal>, service: Arc<Service>) {
    let [terminate, interrupt, hangup] = signals.as_mut_slice() else { return };
    loop {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hangup.recv() => {
                info!("SIGHUP: the policies are read again");
                service.reload.store(true, Ordering::Relaxed);
                continue;
            }
        };
        if service.shutdown.requested() {
            // Somebody has asked twice. The kernel takes the probes off when their owner is gone.
            warn!(signal = name, "ending at once");
            std::process::exit(1);
        }
        info!(signal = name, "stopping");
        service.shutdown.request();
    }
}

/// Does nothing where systemd did not start us.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "can't tell systemd how things are");
    }
}

/// The journal has its own times and levels; a terminal wants them.
pub(super) fn log_to_stderr(level: LogLevel) {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_target(false)
        .with_ansi(super::terminal::wants_colour(&std::io::stderr()));
    // A second subscriber can only be there in tests, and then the first one is as good.
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().try_init()
    } else {
        log.try_init()
    };
}
