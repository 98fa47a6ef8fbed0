//! Who the guard asks servers as: the service reads the passwords, which are for root alone.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, time::SystemTime};

use super::Gate;
use crate::{config::Catalog, guard::wire::Account};

/// No password is longer.
const MAX_BYTES: u64 = 4 << 10;

/// When the files were written that were read.
#[derive(Default)]
pub(super) struct Accounts {
    looks: Vec<Look>,
}

type Look = (PathBuf, Option<SystemTime>);

impl Accounts {
    /// By the servers' places in the settings.
    pub(super) fn read(&mut self, gate: &Gate) -> Vec<Option<Result<Account, String>>> {
        self.looks = looks(gate);
        gate.servers.iter().map(|server| server.catalog.as_ref().map(account)).collect()
    }

    pub(super) fn have_changed(&self, gate: &Gate) -> bool {
        !self.looks.is_empty() && looks(gate) != self.looks
    }
}

fn looks(gate: &Gate) -> Vec<Look> {
    let catalogs = gate.servers.iter().filter_map(|server| server.catalog.as_ref());
    let files = catalogs.filter_map(|catalog| catalog.password_file.clone());
    files.map(|path| (path.clone(), fs::metadata(path).and_then(|it| it.modified()).ok())).collect()
}

/// With the file's last line end left out.
fn account(catalog: &Catalog) -> Result<Account, String> {
    let user = catalog.user.clone();
    let Some(path) = &catalog.password_file else { return Ok(Account { user, password: None }) };
    let because = |why: String| format!("password_file {}: {why}", path.display());
    let metadata = fs::metadata(path).map_err(|error| because(error.to_string()))?;
    if metadata.mode() & 0o007 != 0 {
        return Err(because("everybody may read it: chmod 600".to_owned()));
    }
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(because(format!("it must be a file of at most {MAX_BYTES} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|error| because(error.to_string()))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() || password.contains('\n') {
        return Err(because("it must hold the password alone, in one line".to_owned()));
    }
    Ok(Account { user, password: Some(password.to_owned()) })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::account;
    use crate::config::Catalog;

    #[test]
    fn a_password_stands_alone_in_a_file_that_is_not_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let catalog = Catalog { user: "a".into(), password_file: Some(path.clone()) };
        for (text, mode, expected) in [
            ("secret\n", 0o600, Ok("secret")),
            (" se cret\r\n", 0o640, Ok(" se cret")),
            ("secret", 0o644, Err("everybody may read it")),
            ("\n", 0o600, Err("the password alone")),
            ("one\ntwo\n", 0o600, Err("the password alone")),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match (account(&catalog), expected) {
                (Ok(account), Ok(password)) => {
                    assert_eq!(account.password.as_deref(), Some(password));
                    assert!(!format!("{account:?}").contains("secret"));
                }
                (Err(why), Err(expected)) => {
                    assert!(why.contains(expected) && !why.contains("secret"), "{why}");
                }
                (got, _) => panic!("{text:?}: {got:?}"),
            }
        }
        fs::remove_file(&path).unwrap();
        assert!(account(&catalog).unwrap_err().contains("No such file"));
    }
}
