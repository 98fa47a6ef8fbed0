//! Long work told as numbered steps: one line a step, with its time; the child's output in a log.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use dbwarden_tests::place;

use crate::interrupt;

/// How many lines of a failed child's output are shown.
const TAIL_LINES: usize = 60;

/// A numbered series of steps.
pub struct Steps {
    total: usize,
    begun: usize,
    logs: PathBuf,
}

impl Steps {
    /// A series of `total` steps.
    pub fn new(total: usize) -> Result<Steps> {
        let logs = place::target_dir()?.join("xtask-log");
        fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
        Ok(Steps { total, begun: 0, logs })
    }

    /// Does one step. `work` returns what to say about it, as in `already there`.
    pub fn step(
        &mut self,
        name: &str,
        work: impl FnOnce(&mut Step) -> Result<String>,
    ) -> Result<()> {
        self.begun += 1;
        let slug: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let mut step = Step {
            head: format!("[{}/{}] {name} …", self.begun, self.total),
            begun: Instant::now(),
            log: self.logs.join(format!("{slug}.log")),
            terminal: io::stdout().is_terminal(),
        };
        let _ = fs::remove_file(&step.log);
        print!("{}", step.head);
        let _ = io::stdout().flush();

        let done = work(&mut step);
        let took = match step.begun.elapsed() {
            short if short < Duration::from_secs(1) => String::new(),
            long => format!(" in {}", seconds(long)),
        };
        let said = match &done {
            Ok(outcome) => format!("{outcome}{took}"),
            Err(_) => format!("failed{took}"),
        };
        step.rewrite_head();
        println!(" {said}");
        done.map(|_| ()).with_context(|| name.to_owned())
    }
}

/// A step that is being done.
pub struct Step {
    head: String,
    begun: Instant,
    log: PathBuf,
    terminal: bool,
}

impl Step {
    /// Runs `command` to its end with its output in the step's log; an exit code other than 0 is an
    /// error that shows the end of the log.
    pub fn run(&mut self, command: &mut Command) -> Result<()> {
        let status = self.status(command)?;
        if !status.success() {
            bail!(
                "`{}` ended with {status}; the end of {}:\n{}",
                shown(command),
                self.log.display(),
                tail(&self.log, TAIL_LINES)
            );
        }
        Ok(())
    }

    /// Runs `command` to its end with its output in the step's log.
    pub fn status(&mut self, command: &mut Command) -> Result<ExitStatus> {
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening the log {}", self.log.display()))?;
        writeln!(log, "$ {}", shown(command))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting `{}`", shown(command)))?;
        let mut told = 0;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
            if let Err(interrupted) = interrupt::check() {
                child.kill()?;
                child.wait()?;
                return Err(interrupted);
            }
            let elapsed = self.begun.elapsed().as_secs();
            if self.terminal && elapsed > told {
                told = elapsed;
                self.rewrite_head();
                print!(" {}", seconds(self.begun.elapsed()));
                let _ = io::stdout().flush();
            }
        }
    }

    /// As [`Self::run`] for `cargo test`: an error shows the tests that failed, whole.
    pub fn run_tests(&mut self, command: &mut Command) -> Result<()> {
        if self.status(command)?.success() {
            return Ok(());
        }
        match failures(&self.log()) {
            failures if failures.is_empty() => bail!("{}", tail(&self.log, TAIL_LINES)),
            failures => bail!("all of it is in {}\n{failures}", self.log.display()),
        }
    }

    /// Everything that the step's children have said so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    fn rewrite_head(&self) {
        if self.terminal {
            print!("\r\x1b[K{}", self.head);
        }
    }
}

/// `command` as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Seconds or minutes, as one would say them.
pub fn seconds(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..=119 => format!("{s} s"),
        s => format!("{} min {} s", s / 60, s % 60),
    }
}

/// What libtest says of each test that failed: from `failures:` to the result.
fn failures(log: &str) -> String {
    let mut inside = false;
    let lines = log.lines().filter(|line| {
        inside = (inside || *line == "failures:") && !line.starts_with("test result:");
        inside
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
