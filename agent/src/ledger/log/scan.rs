//! Reads a log batch by batch, as far as it is whole.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use thiserror::Error;

use super::{Batch, BatchHead, HEAD_LEN, Header, HeaderError, MAX_PAYLOAD};
use crate::ledger::merkle::Hash;

/// How much of a batch is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The checksum: enough for whoever only wants to read.
    Checksum,
    /// The chain too.
    Nothing,
}

#[derive(Debug, Error)]
pub enum ScanError {
    #[error("can't read the log")]
    Io(#[from] io::Error),
    #[error("the log has no header")]
    Header(#[from] HeaderError),
}

/// Stands at a batch's start, or at the end; may be asked again when the log has grown.
#[derive(Debug)]
pub struct Scanner {
    file: File,
    header: Header,
    trust: Trust,
    /// Where the next batch begins.
    position: u64,
    next_row: u64,
    chain: Hash,
    buffer: Vec<u8>,
}

impl Scanner {
    pub fn open(path: &Path, trust: Trust) -> Result<Self, ScanError> {
        let file = File::open(path)?;
        let mut start = vec![0; Header::MAX_LEN];
        let len = read_at_most(&file, &mut start, 0)?;
        let (header, header_len, chain) = Header::decode(&start[..len])?;
        let position = header_len as u64;
        Ok(Self { file, header, trust, position, next_row: 0, chain, buffer: Vec::new() })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the next batch begins: everything before it was whole.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many rows were before that.
    pub fn next_row(&self) -> u64 {
        self.next_row
    }

    /// The chain's head there.
    pub fn chain(&self) -> Hash {
        self.chain
    }

    /// The next batch, with the place of its payload in the file; `None` where the log ends or isn't
    /// whole. Memory: one batch.
    pub fn next_batch(&mut self) -> io::Result<Option<(Batch<'_>, u64)>> {
        let Some(head) = self.read()? else {
            self.buffer.clear();
            return Ok(None);
        };
        let previous = (self.trust == Trust::Nothing).then_some(&self.chain);
        let whole = Batch::check(head, &self.buffer, previous).map(|batch| batch.chain);
        let Some(chain) = whole else {
            self.buffer.clear();
            return Ok(None);
        };
        let payload_at = self.position + HEAD_LEN as u64;
        self.position += head.total_len() as u64;
        self.next_row += u64::from(head.n_rows);
        self.chain = chain;
        Ok(Some((Batch { head, payload: self.payload(), chain }, payload_at)))
    }

    /// Where the log isn't whole: whether a whole batch stands behind what should have been the next one.
    pub fn is_followed(&mut self) -> io::Result<bool> {
        let Some(bad) = self.head_at(self.position)? else { return Ok(false) };
        let behind = self.position + bad.total_len() as u64;
        let Some(head) = self.head_at(behind)? else { return Ok(false) };
        self.buffer.resize(head.total_len(), 0);
        let len = read_at_most(&self.file, &mut self.buffer, behind)?;
        let is_whole = Batch::check(head, &self.buffer[..len], None).is_some();
        self.buffer.clear();
        Ok(is_whole)
    }

    /// Reads what claims to be the next batch into the buffer.
    fn read(&mut self) -> io::Result<Option<BatchHead>> {
        let head = self.head_at(self.position)?;
        let Some(head) = head.filter(|head| head.first_row == self.next_row) else {
            return Ok(None);
        };
        self.buffer.resize(head.total_len(), 0);
        if read_at_most(&self.file, &mut self.buffer, self.position)? < self.buffer.len() {
            return Ok(None);
        }
        Ok(Some(head))
    }

    fn head_at(&self, position: u64) -> io::Result<Option<BatchHead>> {
        let mut head = [0; HEAD_LEN];
        if read_at_most(&self.file, &mut head, position)? < HEAD_LEN {
            return Ok(None);
        }
        Ok(Some(BatchHead::decode(&head)).filter(|head| head.payload_len <= MAX_PAYLOAD))
    }

    /// The payload of the batch that was read last; empty after `None`.
    pub fn payload(&self) -> &[u8] {
        let payload = self.buffer.len().checked_sub(super::CHAIN_LEN);
        payload.and_then(|end| self.buffer.get(HEAD_LEN..end)).unwrap_or_default()
    }
}

/// Less than the buffer's length only where the file ends.
fn read_at_most(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], position + len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
