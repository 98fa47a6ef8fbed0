//! Storage's events → entries and checkpoints.

use std::io;

use super::RootLog;
use crate::{
    event::WallTime,
    ledger::{
        Removal, SealedSegment, Witness, WitnessError,
        checkpoint::{Commit, OpenSegment},
        entry::Segment,
        layout::Layout,
        log::{HeaderError, ScanError, Scanner, Trust},
        trail::Trail,
    },
};

impl Witness for RootLog {
    fn committed(&mut self, open: &[OpenSegment], now: WallTime) -> Result<(), WitnessError> {
        if !self.is_compared {
            for signed in self.signed_open().to_vec() {
                self.admit_loss(signed, &self.commits(signed.number)?, now)?;
            }
            self.is_compared = true;
        }
        Ok(self.commit(open, now)?)
    }

    fn sealed(&mut self, sealed: &SealedSegment, now: WallTime) -> Result<(), WitnessError> {
        let number = sealed.number;
        if self.is_sealed(number) {
            return Ok(self.write_newest()?);
        }
        let commits = self.commits(number)?;
        let signed = self.signed_open().iter().find(|open| open.number == number).copied();
        if let Some(signed) = signed {
            self.admit_loss(signed, &commits, now)?;
        }
        let file = sealed.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let segment = Segment {
            number,
            file,
            bytes: sealed.file_size,
            sha256: sealed.file_sha256,
            rows: sealed.n_rows,
            first_us: sealed.first_time.0,
            last_us: sealed.last_time.0,
            root: sealed.root,
            chain: sealed.chain,
            trail_sha256: [0; 32],
        };
        Ok(self.seal(segment, &Trail { commits, blocks: sealed.blocks.clone() }, now)?)
    }

    fn is_sealed(&self, number: u64) -> bool {
        self.history.segment(number).is_some()
    }

    fn removed(&mut self, removal: &Removal, now: WallTime) -> Result<(), WitnessError> {
        Ok(self.remove(removal.number, removal.reason, now)?)
    }
}

impl RootLog {
    /// What was signed is among the commits of the log, or the log has lost it.
    fn admit_loss(
        &mut self,
        signed: OpenSegment,
        commits: &[Commit],
        now: WallTime,
    ) -> Result<(), WitnessError> {
        if !commits.contains(&signed.commit) {
            let OpenSegment { number, commit } = signed;
            tracing::error!(
                segment = number,
                rows_signed = commit.rows,
                "the ledger's open segment no longer holds the rows that were signed"
            );
            self.lose(number, commit.rows, now)?;
        }
        Ok(())
    }

    /// All points up to which a segment's log is whole; none if there is no such log.
    fn commits(&self, number: u64) -> Result<Vec<Commit>, WitnessError> {
        let ledger = self.folder.parent().unwrap_or(&self.folder);
        match commits_of(&Layout::new(ledger).log(number)) {
            Ok(commits) => Ok(commits),
            Err(ScanError::Header(HeaderError::Short)) => Ok(Vec::new()),
            Err(ScanError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

fn commits_of(log: &std::path::Path) -> Result<Vec<Commit>, ScanError> {
    let mut scanner = Scanner::open(log, Trust::Checksum)?;
    let mut commits = vec![Commit { rows: 0, chain: scanner.chain() }];
    while let Some((_, _)) = scanner.next_batch()? {
        commits.push(Commit { rows: scanner.next_row(), chain: scanner.chain() });
    }
    Ok(commits)
}
