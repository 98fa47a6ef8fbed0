//! Reads a log's rows in the order of their times, which is nearly that of the file.

use std::{fs::File, io, mem, os::unix::fs::FileExt, path::Path, vec};

use super::SealError;
use crate::event::WallTime;

/// Before a row's group: its origin, its facts and its length; before a definition's, its length.
const ROW_HEAD: usize = 12;
const LEN: usize = 4;
const WINDOW: usize = 1 << 20;

/// A row where it stands in the log.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub origin: u32,
    pub facts: u32,
    pub group: &'a [u8],
}

/// Gives each row once, by time.
pub struct RowSource {
    places: vec::IntoIter<(WallTime, u64)>,
    windows: Windows,
}

impl RowSource {
    pub fn open(log: &Path, places: Vec<(WallTime, u64)>) -> io::Result<Self> {
        Ok(Self { places: places.into_iter(), windows: Windows::open(log)? })
    }

    pub fn next_row(&mut self) -> io::Result<Option<Row<'_>>> {
        let Some((_, place)) = self.places.next() else { return Ok(None) };
        let head = self.windows.read(place - ROW_HEAD as u64, ROW_HEAD)?;
        let [origin, facts, len] = [0, 4, 8].map(|at| u32_at(head, at));
        let group = self.windows.read(place, len as usize)?;
        Ok(Some(Row { origin, facts, group }))
    }
}

/// Reads definitions of one sort, one by one: rows name few of them, or each only once.
pub struct DefinitionSource {
    file: File,
    places: Vec<u64>,
}

impl DefinitionSource {
    pub fn open(log: &Path, places: Vec<u64>) -> io::Result<Self> {
        Ok(Self { file: File::open(log)?, places })
    }

    /// The group's bytes.
    pub fn read(&self, number: u32) -> Result<Box<[u8]>, SealError> {
        let place = self.places.get(number as usize);
        let place = *place.ok_or(SealError::UnknownDefinition(number))?;
        let mut len = [0; LEN];
        self.file.read_exact_at(&mut len, place - LEN as u64)?;
        let mut group = vec![0; u32::from_le_bytes(len) as usize];
        self.file.read_exact_at(&mut group, place)?;
        Ok(group.into())
    }
}

/// Two stretches of the file: where rows are read now, and just before. A row that is elsewhere (it
/// took long, so it was appended late) is read by itself.
struct Windows {
    file: File,
    now: Window,
    before: Window,
    single: Vec<u8>,
}

#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Windows {
    fn open(log: &Path) -> io::Result<Self> {
        let (now, before) = (Window::default(), Window::default());
        Ok(Self { file: File::open(log)?, now, before, single: Vec::new() })
    }

    fn read(&mut self, start: u64, len: usize) -> io::Result<&[u8]> {
        let reach = self.now.start + (self.now.bytes.len() + WINDOW) as u64;
        let is_next = start >= self.now.start && start + len as u64 <= reach;
        if self.now.get(start, len).is_none() && is_next && len < WINDOW {
            mem::swap(&mut self.now, &mut self.before);
            self.now.fill(&self.file, start)?;
        }
        // Asked twice, because a borrow that is returned on one way lasts on all of them.
        if self.now.get(start, len).is_some() {
            return self.now.get(start, len).ok_or(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(bytes) = self.before.get(start, len) {
            return Ok(bytes);
        }
        self.single.resize(len, 0);
        self.file.read_exact_at(&mut self.single, start)?;
        Ok(&self.single)
    }
}

impl Window {
    fn get(&self, start: u64, len: usize) -> Option<&[u8]> {
        let from = usize::try_from(start.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..from.checked_add(len)?)
    }

    fn fill(&mut self, file: &File, start: u64) -> io::Result<()> {
        self.start = start;
        self.bytes.resize(WINDOW, 0);
        let mut len = 0;
        while len < WINDOW {
            match file.read_at(&mut self.bytes[len..], start + len as u64)? {
                0 => break,
                n => len += n,
            }
        }
        self.bytes.truncate(len);
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
