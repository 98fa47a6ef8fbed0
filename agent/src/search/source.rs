//! Where a ledger is read from: its own folder, or an object store with copies of many hosts' ledgers.

use std::{
    convert::Infallible,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use datafusion::object_store::{ObjectStore, local::LocalFileSystem, path::Path as Location};
use futures_util::TryStreamExt;

use super::{
    SearchError,
    snapshot::{Segment, Snapshot},
};
use crate::ledger::{
    copies::{CopyOptions, open_store},
    layout::SegmentFile,
};

/// As somebody writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Folder(PathBuf),
    /// `s3://BUCKET/PATH`, `gs://…`, `az://…` or `file:///…`, as in `[ledger.copy]`.
    Bucket(String),
}

/// A place that can be read.
#[derive(Debug)]
pub(super) struct Source {
    pub store: Arc<dyn ObjectStore>,
    at: At,
}

#[derive(Debug)]
enum At {
    Folder(PathBuf),
    Bucket(Location),
}

impl Source {
    /// What logs in to a store is taken from the environment, by the names that its own tools use.
    pub fn open(place: &Place) -> Result<Self, SearchError> {
        match place {
            Place::Folder(folder) => {
                let store = LocalFileSystem::new_with_prefix(folder).map_err(|source| {
                    SearchError::Unreadable { path: folder.clone(), source: source.into() }
                })?;
                Ok(Self { store: Arc::new(store), at: At::Folder(folder.clone()) })
            }
            Place::Bucket(url) => {
                let options = CopyOptions::of_environment();
                let (store, root) = open_store(url, &options)?;
                Ok(Self { store: store.into(), at: At::Bucket(root) })
            }
        }
    }

    pub async fn snapshot(&self) -> Result<Snapshot, SearchError> {
        match &self.at {
            At::Folder(folder) => Snapshot::take(folder),
            At::Bucket(root) => self.copies(root).await,
        }
    }

    /// Sealed segments of all hosts. In front of them is whatever a host has not copied yet.
    async fn copies(&self, root: &Location) -> Result<Snapshot, SearchError> {
        let mut segments = Vec::new();
        let mut objects = self.store.list(Some(root));
        while let Some(object) = objects.try_next().await.map_err(SearchError::Store)? {
            let location = object.location.as_ref();
            if let Some(file) = SegmentFile::parse(Path::new(location)) {
                segments.push(Segment {
                    file,
                    location: location.to_owned(),
                    bytes: object.size,
                    sealed: object.last_modified.into(),
                });
            }
        }
        segments.sort_by_key(|segment| (segment.file.last_time, segment.file.number));
        Ok(Snapshot::of_copies(segments))
    }
}

impl FromStr for Place {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.contains("://") {
            true => Self::Bucket(text.to_owned()),
            false => Self::Folder(text.into()),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Bucket(url) => url.fmt(f),
        }
    }
}
