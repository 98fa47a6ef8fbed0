//! Child processes: started by us, waited for with a deadline, ended by their own pid.

use std::{
    path::Path,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::place;

/// How long something that should happen at once may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that can't be waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// A child that doesn't outlive this value.
pub struct Running {
    child: Child,
    name: String,
    /// How it is asked to end.
    goodbye: Signal,
}

impl Running {
    /// Starts `command`; `goodbye` is the signal that asks it to end.
    pub fn start(name: &str, command: &mut Command, goodbye: Signal) -> Result<Running> {
        let child = command.spawn().with_context(|| format!("starting {name} ({command:?})"))?;
        Ok(Running { child, name: name.to_owned(), goodbye })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("waiting for {}", self.name))
    }

    /// Sends a signal; an error if the child has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} has ended already ({status})", self.name);
        }
        // Not waited for, so the pid can't be somebody else's.
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal)
            .with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Asks it to end and waits until it has.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(self.goodbye)?;
        self.wait()
    }

    /// Waits for its end; one that takes too long is killed, and that is an error.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            std::thread::sleep(PAUSE);
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!("{} did not end within {} s and was killed", self.name, PATIENCE.as_secs());
    }

    /// Its input and output, where both are pipes that nobody has taken.
    pub fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.child.stdin.take()?, self.child.stdout.take()?))
    }

    /// Its standard error, where that is a pipe that nobody has taken.
    pub fn errors(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A stopped process doesn't hear its goodbye.
        let _ = self.signal(Signal::SIGCONT);
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

/// Runs `command` to its end and returns its standard output; a failure has its standard error.
pub fn said(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A Python with the database drivers.
pub fn python() -> Result<Command> {
    let python = place::python()?;
    if !python.is_file() {
        bail!("{} is not there: cargo xtask setup", python.display());
    }
    Ok(Command::new(python))
}

/// Looks again and again until `look` finds something; an error names `what` did not come.
pub fn await_until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > until {
            bail!("{what} did not come within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Lets every user pass through a folder of ours.
pub(crate) fn open_to_all(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("opening {} to other users", folder.display()))
}
