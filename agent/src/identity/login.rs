//! How much a login uid proves.

use crate::event::LoginStrength;

/// The kernel's "no login uid", `(uid_t)-1`.
const UNSET: u32 = u32::MAX;

/// Judges `login_uid` by the cgroup that the process stands in.
///
/// A process whose login uid is unset may set it to anybody's, without any right. Only logind puts
/// processes into a session scope, and that cgroup belongs to root: so a login uid is `Strong` only
/// with exactly `/user.slice/user-<the same uid>.slice/session-<id>.scope`.
pub fn strength(login_uid: Option<u32>, cgroup: Option<&str>) -> LoginStrength {
    match login_uid {
        None | Some(UNSET) => LoginStrength::Unset,
        Some(uid) if cgroup.and_then(session_owner) == Some(uid) => LoginStrength::Strong,
        Some(_) => LoginStrength::Weak,
    }
}

/// The uid whose login session this cgroup is.
fn session_owner(cgroup: &str) -> Option<u32> {
    let (slice, scope) = cgroup.strip_prefix("/user.slice/user-")?.split_once('/')?;
    let session = scope.strip_prefix("session-")?.strip_suffix(".scope")?;
    if session.is_empty() || !session.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    super::cgroup::decimal_uid(slice.strip_suffix(".slice")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use LoginStrength::*;

    #[test]
    fn strength_of_a_login_uid() {
        let cases: &[(Option<u32>, Option<&str>, LoginStrength)] = &[
            (None, Some("/user.slice/user-1000.slice/session-3.scope"), Unset),
            (Some(u32::MAX), Some("/user.slice/user-1000.slice/session-3.scope"), Unset),
            (Some(1000), Some("/user.slice/user-1000.slice/session-3.scope"), Strong),
            (Some(1000), Some("/user.slice/user-1000.slice/session-c12.scope"), Strong),
            (Some(0), Some("/user.slice/user-0.slice/session-1.scope"), Strong),
            (Some(1000), None, Weak),
            (Some(1000), Some("/"), Weak),
            (Some(1000), Some("/user.slice/user-1001.slice/session-3.scope"), Weak),
            (Some(1000), Some("/user.slice/user-01000.slice/session-3.scope"), Weak),
            (Some(1000), Some("/user.slice/user-+1000.slice/session-3.scope"), Weak),
            (Some(1000), Some("/user.slice/user-1000.slice/session-.scope"), Weak),
            (Some(1000), Some("/user.slice/user-1000.slice/session-3.scope/deeper"), Weak),
            (Some(1000), Some("user.slice/user-1000.slice/session-3.scope"), Weak),
            (Some(1000), Some("/a/user.slice/user-1000.slice/session-3.scope"), Weak),
            (Some(1000), Some("/user.slice/user-1000.slice/user@1000.service/app.slice"), Weak),
            (
                Some(1000),
                Some("/user.slice/user-1000.slice/user@1000.service/session-3.scope"),
                Weak,
            ),
            (Some(1000), Some("/system.slice/cron.service"), Weak),
        ];
        for (uid, cgroup, expected) in cases {
            assert_eq!(strength(*uid, *cgroup), *expected, "{uid:?} in {cgroup:?}");
        }
    }
}
