//! Command lines of live processes, read where it harms nobody that the reading may hang.
//!
//! `/proc/PID/cmdline` is the process's own memory. Its owner can lay that on a FUSE file and never
//! answer, and whoever reads it then waits for ever. So a thread of its own reads, and one that does
//! not come back is given up.

use std::{
    fs::File,
    io::Read,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

/// Longest command line kept, the same as in kernel records.
const MAX_LEN: u64 = 512;
/// A read of memory that is there takes microseconds.
const PATIENCE: Duration = Duration::from_millis(50);
/// Threads that may be stuck before no command line is read any more.
const MAX_STUCK: u32 = 4;

/// Reads command lines, each within a bounded time.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    reader: Option<Reader>,
    stuck: u32,
}

#[derive(Debug)]
struct Reader {
    ask: SyncSender<File>,
    answers: Receiver<Vec<u8>>,
}

impl Arguments {
    /// The content of an open `cmdline`; empty if it can't be had in time.
    pub fn read(&mut self, cmdline: File) -> Vec<u8> {
        if self.stuck >= MAX_STUCK {
            return Vec::new();
        }
        if self.reader.is_none() {
            self.reader = Reader::start();
        }
        let answer = self.reader.as_ref().and_then(|reader| {
            reader.ask.send(cmdline).ok()?;
            reader.answers.recv_timeout(PATIENCE).ok()
        });
        answer.unwrap_or_else(|| {
            // It ends by itself if it ever comes back: nobody listens to it any more.
            self.reader = None;
            self.stuck += 1;
            Vec::new()
        })
    }

    /// How many readers have not come back.
    pub fn stuck(&self) -> u32 {
        self.stuck
    }
}

impl Reader {
    fn start() -> Option<Reader> {
        let (ask, asked) = sync_channel::<File>(1);
        let (answer, answers) = sync_channel(1);
        thread::Builder::new()
            .name("command-lines".into())
            .spawn(move || {
                for file in asked {
                    let mut content = Vec::new();
                    // Of a process that ends meanwhile there is nothing.
                    let _ = file.take(MAX_LEN).read_to_end(&mut content);
                    if answer.send(content).is_err() {
                        return;
                    }
                }
            })
            .ok()?;
        Some(Reader { ask, answers })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_reader_that_hangs_is_given_up() {
        let mut arguments = Arguments::default();
        let own = || File::open("/proc/self/cmdline").unwrap();
        // Nothing is ever written to these, and they are not closed before the end.
        let (ends, writers): (Vec<_>, Vec<_>) =
            (0..MAX_STUCK).map(|_| std::io::pipe().unwrap()).unzip();
        for (n, end) in ends.into_iter().enumerate() {
            assert!(!arguments.read(own()).is_empty(), "after {n} hung");
            assert!(arguments.read(File::from(OwnedFd::from(end))).is_empty());
        }
        assert!(arguments.read(own()).is_empty());
        assert_eq!(arguments.stuck(), MAX_STUCK);
        drop(writers);
    }
}
