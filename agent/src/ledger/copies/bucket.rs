//! The other end: an object store, and where things are in it.
//!
//! ```text
//! host=db1/date=2026-11-24/0000000011-….parquet   sealed segments, by the day of their first row
//! _log/host=db1/entries.jsonl, checkpoint, …      what verification needs, where no engine looks
//! ```
//!
//! Engines read `host=…/date=…` as columns, and pass over what begins with `_`.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek},
    path::Path as FilePath,
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart, path::Path};
use url::Url;

use crate::{
    event::WallTime,
    ledger::{entry::Segment, merkle::Hash, verify::file_sha256},
};

/// Of a part of a large file. The smallest that all stores take is 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way at a time: with the one being read, they are what copying costs in memory.
const PARTS: usize = 2;

#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("`{url}` is no place for copies: it takes s3://, gs://, az:// or file:/// and a path")]
    Url { url: String },
    #[error("the place for copies can't be used")]
    Store(#[from] object_store::Error),
    #[error("can't read {path}")]
    File {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} isn't what was sealed, and isn't copied (`dbwarden verify` tells more)")]
    Altered { path: String },
    #[error("can't start the thread that copies")]
    Thread(#[source] io::Error),
}

pub(super) struct Bucket {
    store: Box<dyn ObjectStore>,
    root: Path,
    host: String,
}

/// The store that a URL names, and the place in it. `options` are those of the store, by the names that
/// its own tools use (`AWS_ENDPOINT_URL`, …).
pub fn open_store(
    url: &str,
    options: &[(String, String)],
) -> Result<(Box<dyn ObjectStore>, Path), CopyError> {
    let refused = || CopyError::Url { url: url.to_owned() };
    let parsed: Url = url.parse().map_err(|_| refused())?;
    if !["s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "file"].contains(&parsed.scheme()) {
        return Err(refused());
    }
    let options = options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Ok(object_store::parse_url_opts(&parsed, options)?)
}

impl Bucket {
    /// `options` are those of [`open_store`].
    pub(super) fn open(
        url: &str,
        host: &str,
        options: &[(String, String)],
    ) -> Result<Self, CopyError> {
        let (store, root) = open_store(url, options)?;
        Ok(Self { store, root, host: host.to_owned() })
    }

    fn segments(&self) -> Path {
        self.root.clone().join(format!("host={}", self.host))
    }

    pub(super) fn segment(&self, segment: &Segment) -> Path {
        let day = WallTime(segment.first_us).to_utc().date();
        self.segments().join(format!("date={day}")).join(segment.file.as_str())
    }

    fn logs(&self) -> Path {
        self.root.clone().join("_log").join(format!("host={}", self.host))
    }

    pub(super) fn log(&self, name: &str) -> Path {
        self.logs().join(name)
    }

    /// Sizes of all copies of this host.
    pub(super) async fn list(&self) -> Result<HashMap<Path, u64>, CopyError> {
        let mut found = HashMap::new();
        for prefix in [self.segments(), self.logs()] {
            let mut objects = self.store.list(Some(&prefix));
            while let Some(object) = objects.try_next().await? {
                found.insert(object.location, object.size);
            }
        }
        Ok(found)
    }

    /// Copies a file that must have that hash. Readers see all of it or nothing.
    pub(super) async fn put_file(
        &self,
        file: &FilePath,
        sha256: Hash,
        to: &Path,
    ) -> Result<u64, CopyError> {
        let at = |source| CopyError::File { path: file.display().to_string(), source };
        let mut source = File::open(file).map_err(at)?;
        if file_sha256(&mut source, &mut |_| {}).map_err(at)? != sha256 {
            return Err(CopyError::Altered { path: file.display().to_string() });
        }
        source.rewind().map_err(at)?;
        let first = part(&mut source).map_err(at)?;
        let mut len = first.len() as u64;
        if first.len() < PART_BYTES {
            self.store.put(to, PutPayload::from(first)).await?;
            return Ok(len);
        }
        let upload = self.store.put_multipart(to).await?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut next = first;
        while !next.is_empty() {
            writer.wait_for_capacity(PARTS).await?;
            writer.put(next);
            next = part(&mut source).map_err(at)?;
            len += next.len() as u64;
        }
        writer.finish().await?;
        Ok(len)
    }

    pub(super) async fn put(&self, bytes: Vec<u8>, to: &Path) -> Result<(), CopyError> {
        self.store.put(to, PutPayload::from(bytes)).await?;
        Ok(())
    }
}

fn part(file: &mut File) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(PART_BYTES);
    file.take(PART_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}
