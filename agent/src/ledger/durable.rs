//! Writes that a crash can't tear: appended and synced, or replaced as a whole.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::Path,
};

use serde::de::DeserializeOwned;

/// Creates the folder for root alone where it is absent, and its parents for all to pass.
pub fn create_private_folder(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The file holds `bytes` afterwards, or what it held before, whenever the host stops.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_folder_of(path)
}

/// What [`replace`] has put there as JSON, of so many bytes at most; nothing where there is no file.
pub fn read_json<T: DeserializeOwned + Default>(path: &Path, most_bytes: u64) -> io::Result<T> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(error),
        Ok(about) if about.len() > most_bytes => {
            Err(io::Error::other(format!("it has {} bytes", about.len())))
        }
        Ok(_) => Ok(serde_json::from_slice(&fs::read(path)?)?),
    }
}

/// Makes a file's name as durable as its content.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// A file that only grows. What a failed append has left behind is overwritten by the next one.
#[derive(Debug)]
pub struct Appended {
    file: File,
    len: u64,
}

impl Appended {
    /// Keeps the first `len` bytes of the file, which is created where it is absent.
    pub fn open(path: &Path, len: u64) -> io::Result<Self> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() != len {
            file.set_len(len)?;
        }
        file.sync_all()?;
        sync_folder_of(path)?;
        Ok(Self { file, len })
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// The bytes are durable afterwards; after an error they aren't there.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all_at(bytes, self.len).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.len += bytes.len() as u64,
            Err(_) => self.forget_after(self.len),
        }
        written
    }

    /// What follows doesn't count, even if it can't be cut off just now.
    pub fn forget_after(&mut self, len: u64) {
        self.len = len;
        let _ = self.file.set_len(len);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::{Appended, create_private_folder, replace};

    #[test]
    fn files_hold_what_was_written_and_nobody_else_reads_them() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a/b");
        for _ in 0..2 {
            create_private_folder(&folder).unwrap();
        }
        let file = folder.join("file");
        for text in ["long text", "text"] {
            replace(&file, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        let log = folder.join("log");
        fs::write(&log, "kept, torn").unwrap();
        let mut appended = Appended::open(&log, 4).unwrap();
        appended.append(b"-1").unwrap();
        appended.append(b"-2").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "kept-1-2");
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "no temporary file is left");
    }
}
