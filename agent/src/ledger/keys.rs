//! The ledger's secrets: the key that signs checkpoints, and the one that hides key values.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use siphasher::sip128::{Hasher128, SipHasher24};

use super::{
    durable,
    note::{PublicKey, SecretKey},
};

const SIGNING: &str = "log.key";
const PUBLIC: &str = "log.pub";
const NEXT: &str = "next.key";
const LOOKUP: &str = "lookup.key";
const MASK: &str = "mask.key";

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("can't use the key file {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} holds no key: restore it from a copy", path.display())]
    Malformed { path: PathBuf },
    #[error(
        "others than its owner may open {}: rotate the key if somebody may have read it, then chmod go= it",
        path.display()
    )]
    Exposed { path: PathBuf },
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    #[error("{} is there already: a rotation is under way", path.display())]
    Rotating { path: PathBuf },
}

/// All keys of one ledger.
#[derive(Debug)]
pub struct Keys {
    folder: PathBuf,
    signing: SecretKey,
    lookup: LookupKey,
}

impl Keys {
    /// Reads the keys, and makes those that are absent: a signing key under the name
    /// `dbwarden/<host>`, which later becomes the origin line of all checkpoints.
    pub fn open_or_create(folder: &Path, host: &str) -> Result<Self, KeysError> {
        durable::create_private_folder(folder).map_err(at(folder))?;
        check_private(folder)?;
        let signing = match read(&folder.join(SIGNING))? {
            Some(key) => key,
            None => {
                let key = SecretKey::new(&format!("dbwarden/{host}"), random()?);
                write(&folder.join(SIGNING), &key)?;
                key
            }
        };
        let keys = Self { folder: folder.to_owned(), signing, lookup: lookup(folder)? };
        keys.publish()?;
        Ok(keys)
    }

    pub fn signing(&self) -> &SecretKey {
        &self.signing
    }

    pub fn lookup(&self) -> &LookupKey {
        &self.lookup
    }

    /// The key that [`prepare_rotation`] has made, if it waits for the root log to name it.
    pub(super) fn next(&self) -> Result<Option<SecretKey>, KeysError> {
        read(&self.folder.join(NEXT))
    }

    /// From now on the next key is the key. The old one is forgotten: nothing needs it any more.
    pub(super) fn take_next(&mut self) -> Result<(), KeysError> {
        let next = self.folder.join(NEXT);
        let Some(key) = read(&next)? else { return Ok(()) };
        fs::rename(&next, self.folder.join(SIGNING)).map_err(at(&next))?;
        durable::sync_folder_of(&next).map_err(at(&next))?;
        self.signing = key;
        self.publish()
    }

    /// `log.pub` is for whoever verifies, and for copying to where it is kept.
    fn publish(&self) -> Result<(), KeysError> {
        let path = self.folder.join(PUBLIC);
        let text = format!("{}\n", self.signing.public());
        if fs::read_to_string(&path).is_ok_and(|known| known == text) {
            return Ok(());
        }
        durable::replace(&path, text.as_bytes()).map_err(at(&path))
    }
}

/// What hides key values, for whoever looks for one; `None` where there is no such file.
pub fn lookup_key(folder: &Path) -> Result<Option<LookupKey>, KeysError> {
    Ok(secret(&folder.join(LOOKUP))?.map(LookupKey))
}

/// Bytes that were random once; `None` where there is no such file.
fn secret<const N: usize>(path: &Path) -> Result<Option<[u8; N]>, KeysError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(at(path)(source)),
    };
    check_private(path)?;
    let mut key = [0; N];
    let decoded = hex::decode_to_slice(text.trim_end(), &mut key);
    decoded.map_err(|_| KeysError::Malformed { path: path.to_owned() })?;
    Ok(Some(key))
}

fn make_secret<const N: usize>(path: &Path) -> Result<[u8; N], KeysError> {
    let key = random()?;
    let text = format!("{}\n", hex::encode(key));
    durable::replace(path, text.as_bytes()).map_err(at(path))?;
    Ok(key)
}

/// What masks are made with; made where there is none.
pub fn mask_key(folder: &Path) -> Result<[u8; 32], KeysError> {
    durable::create_private_folder(folder).map_err(at(folder))?;
    check_private(folder)?;
    let path = folder.join(MASK);
    match secret(&path)? {
        Some(key) => Ok(key),
        None => make_secret(&path),
    }
}

/// The public half of the key in use; `None` where there is no such file.
pub fn public_key(folder: &Path) -> Result<Option<PublicKey>, KeysError> {
    let path = folder.join(PUBLIC);
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim_end().parse() {
            Ok(key) => Ok(Some(key)),
            Err(_) => Err(KeysError::Malformed { path }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeysError::Io { path, source }),
    }
}

/// Makes the key that follows the present one; the root log's next writer takes it.
pub fn prepare_rotation(folder: &Path) -> Result<PublicKey, KeysError> {
    let path = folder.join(SIGNING);
    let missing = || at(&path)(io::ErrorKind::NotFound.into());
    let name = read(&path)?.ok_or_else(missing)?.public().name().to_owned();
    let next = SecretKey::new(&name, random()?);
    let path = folder.join(NEXT);
    if path.exists() {
        return Err(KeysError::Rotating { path });
    }
    write(&path, &next)?;
    Ok(next.public().clone())
}

/// Whether the key that was prepared has been taken.
pub fn is_rotated(folder: &Path) -> bool {
    !folder.join(NEXT).exists()
}

/// Hides the values of keys in the ledger, and finds them again.
#[derive(Clone)]
pub struct LookupKey([u8; 16]);

impl LookupKey {
    /// SipHash-2-4-128, under this host's secret, of a value that `table.column` is compared with.
    pub fn key_hash(&self, table_column: &str, value: &[u8]) -> [u8; 16] {
        use std::hash::Hasher;
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&(table_column.len() as u64).to_le_bytes());
        hasher.write(table_column.as_bytes());
        hasher.write(value);
        hasher.finish128().as_bytes()
    }
}

impl LookupKey {
    /// As it stands in the `keys` column.
    pub fn tag(&self, table_column: &str, value: &str) -> String {
        format!("{table_column}={}", self.hash_text(table_column, value))
    }

    /// What stands behind the `=` there.
    pub fn hash_text(&self, table_column: &str, value: &str) -> String {
        hex::encode(self.key_hash(table_column, value.as_bytes()))
    }
}

/// Secrets don't get into logs by accident.
impl std::fmt::Debug for LookupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LookupKey")
    }
}

fn lookup(folder: &Path) -> Result<LookupKey, KeysError> {
    if let Some(key) = lookup_key(folder)? {
        return Ok(key);
    }
    make_secret(&folder.join(LOOKUP)).map(LookupKey)
}

fn read(path: &Path) -> Result<Option<SecretKey>, KeysError> {
    match fs::read_to_string(path) {
        Ok(text) => {
            check_private(path)?;
            let key = SecretKey::from_secret_text(text.trim_end());
            key.map(Some).map_err(|_| KeysError::Malformed { path: path.to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(at(path)(source)),
    }
}

fn write(path: &Path, key: &SecretKey) -> Result<(), KeysError> {
    durable::replace(path, format!("{}\n", key.to_secret_text()).as_bytes()).map_err(at(path))
}

fn check_private(path: &Path) -> Result<(), KeysError> {
    let mode = fs::metadata(path).map_err(at(path))?.permissions().mode();
    if mode & 0o077 == 0 { Ok(()) } else { Err(KeysError::Exposed { path: path.to_owned() }) }
}

fn random<const N: usize>() -> Result<[u8; N], KeysError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(KeysError::Random)?;
    Ok(bytes)
}

fn at(path: &Path) -> impl Fn(io::Error) -> KeysError {
    |source| KeysError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
    };

    use super::{Keys, KeysError, LookupKey, is_rotated, mask_key, prepare_rotation, public_key};

    #[test]
    fn keys_are_made_once_for_their_owner_alone() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("keys");
        assert!(public_key(&folder).unwrap().is_none());
        let first = Keys::open_or_create(&folder, "db1").unwrap();
        let second = Keys::open_or_create(&folder, "renamed").unwrap();
        assert_eq!(first.signing().public(), second.signing().public());
        assert_eq!(first.signing().public().name(), "dbwarden/db1");
        assert_eq!(first.lookup().0, second.lookup().0);
        assert_eq!(public_key(&folder).unwrap().as_ref(), Some(first.signing().public()));
        for (file, mode) in [("", 0o700), ("log.key", 0o600), ("lookup.key", 0o600)] {
            let found = fs::metadata(folder.join(file)).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{file}");
        }
        assert!(!format!("{first:?}").contains("PRIVATE"));
        let masks = mask_key(&folder).unwrap();
        assert_eq!(mask_key(&folder).unwrap(), masks);
        assert_eq!(
            fs::metadata(folder.join("mask.key")).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_key_that_others_may_read_or_nobody_can_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("keys");
        Keys::open_or_create(&folder, "db1").unwrap();
        for file in ["", "log.key", "lookup.key"] {
            let path = folder.join(file);
            let private = fs::metadata(&path).unwrap().permissions();
            fs::set_permissions(&path, Permissions::from_mode(private.mode() | 0o040)).unwrap();
            let error = Keys::open_or_create(&folder, "db1").unwrap_err();
            assert!(matches!(error, KeysError::Exposed { .. }), "{error}");
            fs::set_permissions(&path, private).unwrap();
        }
        for file in ["log.key", "lookup.key"] {
            let kept = fs::read(folder.join(file)).unwrap();
            fs::write(folder.join(file), &kept[1..]).unwrap();
            let error = Keys::open_or_create(&folder, "db1").unwrap_err();
            assert!(matches!(error, KeysError::Malformed { .. }), "{error}");
            fs::write(folder.join(file), kept).unwrap();
        }
        Keys::open_or_create(&folder, "db1").unwrap();
    }

    #[test]
    fn a_prepared_key_waits_until_it_is_taken() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("keys");
        assert!(prepare_rotation(&folder).is_err(), "there is nothing to rotate");
        let mut keys = Keys::open_or_create(&folder, "db1").unwrap();
        let old = keys.signing().public().clone();
        keys.take_next().unwrap();
        assert_eq!(keys.signing().public(), &old);
        let next = prepare_rotation(&folder).unwrap();
        assert!(matches!(prepare_rotation(&folder), Err(KeysError::Rotating { .. })));
        assert_eq!(keys.next().unwrap().unwrap().public(), &next);
        assert!(!is_rotated(&folder));
        keys.take_next().unwrap();
        assert!(is_rotated(&folder));
        assert_eq!(keys.signing().public(), &next);
        assert_eq!(public_key(&folder).unwrap(), Some(next));
    }

    #[test]
    fn key_hashes_differ_by_column_value_and_host() {
        let key = LookupKey(*b"0123456789abcdef");
        let hash = key.key_hash("songs.id", b"5");
        // An index of a value must find it again after an upgrade.
        assert_eq!(hex::encode(hash), "90f4c4b70268ffca3ff3ea469e4533fc");
        for (other, column, value) in [
            (&key, "songs.id", "6"),
            (&key, "songs.i", "d5"),
            (&key, "artists.id", "5"),
            (&LookupKey([0; 16]), "songs.id", "5"),
        ] {
            assert_ne!(other.key_hash(column, value.as_bytes()), hash, "{column} {value}");
        }
    }
}
