//! What a cgroup path says: systemd unit, container, pod; read from the root, never by substring.
//!
//! Who may make a cgroup decides what its name proves. Everything outside a delegated subtree was
//! named by root (systemd, a container engine, the kubelet). Below `user@UID.service` the user names
//! what he likes, so whatever is found there carries that user's mark: the unit reads
//! `user@1000.service/foo.service`, and since no unit name holds a `/`, it can never equal a system
//! unit. A container found there (rootless podman and docker are just that) is reported, because
//! otherwise nobody would see it, but only that user vouches for it: a rule that trusts a container
//! id must look at [`Placement::owner`] or at the unit too. Pods are never believed there. Inside a
//! container, names are the container's: a `foo.service` below a container is no unit of this host.

/// What the path says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The systemd unit: `foo.service`, `session-3.scope`, or `user@1000.service/foo.service` for a
    /// unit of that user's own manager.
    pub unit: Option<String>,
    /// The container's id (64 hex digits) or, for LXC, its name.
    pub container: Option<String>,
    /// The pod's uid, in its dashed form.
    pub pod: Option<String>,
    /// The user who controls this part of the tree and so chose the names in it; root if none.
    pub owner: Option<u32>,
}

/// Reads a cgroup path that begins at the hierarchy's root.
pub fn placement(path: &str) -> Placement {
    read(path).unwrap_or_default()
}

fn read(path: &str) -> Option<Placement> {
    let parts = components(path)?;
    let (first, rest) = parts.split_first()?;
    match (*first, rest) {
        ("docker", [id, ..]) => return container_id(id).map(in_container),
        ("lxc", [name, ..]) => return lxc_name(name).map(in_container),
        ("kubepods", rest) => return kubepods(rest),
        _ => {}
    }
    if let Some(name) = first.strip_prefix("lxc.payload.") {
        return lxc_name(name).map(in_container);
    }

    let (slices, rest) = split_slices(&parts)?;
    let Some((unit, below)) = rest.split_first() else {
        return Some(Placement::default());
    };
    if !is_unit(unit) {
        return None;
    }
    if let ["user.slice", user] = slices
        && let Some(uid) = user_slice_uid(user)
        && *unit == format!("user@{uid}.service")
    {
        return Some(user_unit(uid, unit, below));
    }
    Some(Placement {
        unit: Some((*unit).to_owned()),
        container: scope_container(unit),
        pod: slices.last().and_then(|slice| pod_slice(slice)),
        owner: None,
    })
}

/// A place below `user@UID.service`: the same slices and units again, under that user's hand.
fn user_unit(uid: u32, manager: &str, below: &[&str]) -> Placement {
    let unit = split_slices_below(below).1.first().filter(|name| is_unit(name));
    Placement {
        unit: Some(match unit {
            Some(unit) => format!("{manager}/{unit}"),
            None => manager.to_owned(),
        }),
        container: unit.and_then(|unit| scope_container(unit)),
        pod: None,
        owner: Some(uid),
    }
}

fn in_container(id: String) -> Placement {
    Placement { container: Some(id), ..Placement::default() }
}

/// `kubepods[/burstable|/besteffort]/pod<uid>/<id>`, as the kubelet's cgroupfs driver makes it.
fn kubepods(rest: &[&str]) -> Option<Placement> {
    let rest = match rest {
        ["burstable" | "besteffort", rest @ ..] => rest,
        rest => rest,
    };
    let (pod, rest) = rest.split_first()?;
    let pod = pod_uid(pod.strip_prefix("pod")?)?;
    let container = rest
        .first()
        .and_then(|id| container_id(id).or_else(|| container_id(id.strip_prefix("crio-")?)));
    Some(Placement { container, pod: Some(pod), ..Placement::default() })
}

/// Non-empty components of an absolute path without `.` and `..` (which procfs shows when the
/// reader's cgroup namespace is not the host's).
fn components(path: &str) -> Option<Vec<&str>> {
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let plain = |part: &&str| !part.is_empty() && *part != "." && *part != "..";
    parts.iter().all(plain).then_some(parts)
}

/// Parts into leading slices and the rest. A slice's name repeats its parents (`a-b.slice` stands in
/// `a.slice`): systemd makes it so, and a chain that doesn't fit was not made by it.
fn split_slices<'a, 'p>(parts: &'a [&'p str]) -> Option<(&'a [&'p str], &'a [&'p str])> {
    let (slices, rest) = split_slices_below(parts);
    let leaf_only = matches!(rest, [unit, ..] if *unit == "init.scope");
    (!slices.is_empty() || leaf_only).then_some((slices, rest))
}

fn split_slices_below<'a, 'p>(parts: &'a [&'p str]) -> (&'a [&'p str], &'a [&'p str]) {
    let mut prefix = String::new();
    let mut n_slices = 0;
    for part in parts {
        let Some(own) = part.strip_suffix(".slice").and_then(|name| name.strip_prefix(&prefix))
        else {
            break;
        };
        if own.is_empty() || own.contains('-') {
            break;
        }
        prefix = format!("{prefix}{own}-");
        n_slices += 1;
    }
    parts.split_at(n_slices)
}

/// A unit that holds processes, by its name.
fn is_unit(name: &str) -> bool {
    const KINDS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
    KINDS.iter().any(|kind| name.strip_suffix(kind).is_some_and(|stem| !stem.is_empty()))
        && name.bytes().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.' | b'\\' | b'@')
        })
}

fn user_slice_uid(slice: &str) -> Option<u32> {
    decimal_uid(slice.strip_prefix("user-")?.strip_suffix(".slice")?)
}

/// A uid in plain decimal, exactly as systemd writes it.
pub(super) fn decimal_uid(text: &str) -> Option<u32> {
    let uid: u32 = text.parse().ok()?;
    (uid.to_string() == text).then_some(uid)
}

/// The container whose scope this is: `docker-<id>.scope` and the like. The engines' monitors
/// (`libpod-conmon-…`) stand outside of their containers and don't fit the shape.
fn scope_container(unit: &str) -> Option<String> {
    const ENGINES: [&str; 5] = ["docker-", "libpod-", "crio-", "cri-containerd-", "nerdctl-"];
    let name = unit.strip_suffix(".scope")?;
    ENGINES.iter().find_map(|engine| container_id(name.strip_prefix(engine)?))
}

fn container_id(text: &str) -> Option<String> {
    (text.len() == 64 && text.bytes().all(is_lower_hex)).then(|| text.to_owned())
}

fn lxc_name(text: &str) -> Option<String> {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        .then(|| text.to_owned())
}

/// `kubepods[-burstable|-besteffort]-pod<uid_with_underscores>.slice`, below `kubelet` for kind.
fn pod_slice(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice")?;
    let name = name.strip_prefix("kubelet-").unwrap_or(name).strip_prefix("kubepods-")?;
    let name =
        ["burstable-", "besteffort-"].iter().find_map(|q| name.strip_prefix(q)).unwrap_or(name);
    pod_uid(&name.strip_prefix("pod")?.replace('_', "-"))
}

/// A uid as the API server makes it (a UUID), or a static pod's hash (32 hex digits).
fn pod_uid(text: &str) -> Option<String> {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let fits = groups == [8, 4, 4, 4, 12] || groups == [32];
    (fits && text.bytes().all(|b| b == b'-' || is_lower_hex(b))).then(|| text.to_owned())
}

fn is_lower_hex(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'f')
}

/// The path to go by in the text of `/proc/PID/cgroup`.
///
/// systemd's own hierarchy first, then the unified one; where both say `/`, a container engine may
/// still have made a cgroup in a controller's hierarchy of version 1.
pub fn of_procfs(text: &str) -> Option<&str> {
    let lines = || {
        text.lines().filter_map(|line| {
            let (_id, rest) = line.split_once(':')?;
            rest.split_once(':')
        })
    };
    let named = |name: &str| lines().find(|(controllers, _)| *controllers == name).map(|(_, p)| p);
    let plain = [named("name=systemd"), named("")];
    plain
        .into_iter()
        .flatten()
        .find(|path| *path != "/")
        .or_else(|| lines().map(|(_, path)| path).find(|path| placement(path).container.is_some()))
        .or_else(|| plain.into_iter().flatten().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "c8f1a9e2-6f0b-4b7e-9d1c-0a1b2c3d4e5f";

    /// `{id}`, `{uid}` and `{_uid}` in a path stand for a container's id and a pod's uid.
    fn check(path: &str, unit: &str, container: bool, pod: bool, owner: Option<u32>) {
        let fill = |text: &str| {
            text.replace("{id}", ID).replace("{uid}", UID).replace("{_uid}", &UID.replace('-', "_"))
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let expected = Placement {
            unit: some(&fill(unit)),
            container: container.then(|| ID.to_owned()),
            pod: pod.then(|| UID.to_owned()),
            owner,
        };
        assert_eq!(placement(&fill(path)), expected, "{path}");
    }

    #[test]
    fn systemd_units() {
        for (path, unit, owner) in [
            ("/", "", None),
            ("/init.scope", "init.scope", None),
            ("/system.slice/cron.service", "cron.service", None),
            ("/system.slice/cron.service/sub/group", "cron.service", None),
            ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", None),
            (
                "/system.slice/system-postgresql.slice/postgresql@15-main.service",
                "postgresql@15-main.service",
                None,
            ),
            (r"/system.slice/dev-disk-by\x2dlabel.swap", r"dev-disk-by\x2dlabel.swap", None),
            ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", None),
            (
                "/user.slice/user-1000.slice/user-runtime-dir@1000.service",
                "user-runtime-dir@1000.service",
                None,
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service",
                "user@1000.service/foo.service",
                Some(1000),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-a.slice/b@1.service/x",
                "user@1000.service/b@1.service",
                Some(1000),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/init.scope",
                "user@1000.service/init.scope",
                Some(1000),
            ),
            ("/user.slice/user-1000.slice/user@1000.service", "user@1000.service", Some(1000)),
            // Names that a user chose inside his own subtree.
            (
                "/user.slice/user-1000.slice/user@1000.service/system.slice/cron.service",
                "user@1000.service/cron.service",
                Some(1000),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/x/system.slice/cron.service",
                "user@1000.service",
                Some(1000),
            ),
            // Another user's manager can't stand in this slice, so nobody's subtree is assumed.
            ("/user.slice/user-1000.slice/user@1001.service/a.service", "user@1001.service", None),
        ] {
            check(path, unit, false, false, owner);
        }
    }

    #[test]
    fn containers_and_pods() {
        for (path, unit, pod, owner) in [
            ("/docker/{id}", "", false, None),
            ("/docker/{id}/init", "", false, None),
            ("/docker/{id}/system.slice/cron.service", "", false, None),
            ("/system.slice/docker-{id}.scope", "docker-{id}.scope", false, None),
            ("/system.slice/docker-{id}.scope/init.scope", "docker-{id}.scope", false, None),
            ("/batch.slice/batch-a.slice/docker-{id}.scope", "docker-{id}.scope", false, None),
            ("/system.slice/nerdctl-{id}.scope", "nerdctl-{id}.scope", false, None),
            ("/machine.slice/libpod-{id}.scope/container", "libpod-{id}.scope", false, None),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope/container",
                "user@1000.service/libpod-{id}.scope",
                false,
                Some(1000),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/system.slice/docker-{id}.scope",
                "user@1000.service/docker-{id}.scope",
                false,
                Some(1000),
            ),
            ("/kubepods/burstable/pod{uid}/{id}", "", true, None),
            ("/kubepods/besteffort/pod{uid}/{id}/inner", "", true, None),
            ("/kubepods/pod{uid}/{id}", "", true, None),
            ("/kubepods/pod{uid}/crio-{id}", "", true, None),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_uid}.slice/cri-containerd-{id}.scope",
                "cri-containerd-{id}.scope",
                true,
                None,
            ),
            (
                "/kubepods.slice/kubepods-pod{_uid}.slice/crio-{id}.scope",
                "crio-{id}.scope",
                true,
                None,
            ),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{_uid}.slice/cri-containerd-{id}.scope",
                "cri-containerd-{id}.scope",
                true,
                None,
            ),
        ] {
            check(path, unit, true, pod, owner);
        }
        let lxc = |name: &str| in_container(name.to_owned());
        assert_eq!(placement("/lxc.payload.web/system.slice/cron.service"), lxc("web"));
        assert_eq!(placement("/lxc/web-1"), lxc("web-1"));
    }

    #[test]
    fn shapes_that_only_look_so() {
        for (path, unit, owner) in [
            // Not from the root.
            ("system.slice/cron.service", "", None),
            ("/evil/system.slice/cron.service", "", None),
            ("/evil/docker/{id}", "", None),
            ("/../system.slice/cron.service", "", None),
            ("/system.slice//cron.service", "", None),
            ("/system.slice/./cron.service", "", None),
            // No units.
            ("/cron.service", "", None),
            ("/system.slice/.service", "", None),
            ("/system.slice/cron.service.d", "", None),
            ("/system.slice/cron service", "", None),
            ("/system.slice/x-getty.slice/getty@tty1.service", "", None),
            ("/system-getty.slice/getty@tty1.service", "", None),
            // No container ids.
            ("/docker/abc", "", None),
            ("/docker/{id}0", "", None),
            ("/docker/0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef", "", None),
            ("/system.slice/docker-abc.scope", "docker-abc.scope", None),
            ("/system.slice/docker-{id}.service", "docker-{id}.service", None),
            ("/machine.slice/libpod-conmon-{id}.scope", "libpod-conmon-{id}.scope", None),
            ("/system.slice/crio-conmon-{id}.scope", "crio-conmon-{id}.scope", None),
            // No pods.
            ("/kubepods/burstable/{id}", "", None),
            ("/kubepods/podx/{id}", "", None),
            ("/kubepods/guaranteed/pod{uid}/{id}", "", None),
            ("/lxc.monitor.web", "", None),
            ("/lxc.payload.a b", "", None),
            (
                "/user.slice/user-1000.slice/user@1000.service/kubepods/pod{uid}/{id}",
                "user@1000.service",
                Some(1000),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/docker/{id}",
                "user@1000.service",
                Some(1000),
            ),
        ] {
            check(path, unit, false, false, owner);
        }
    }

    #[test]
    fn the_line_of_procfs_to_go_by() {
        let docker = format!("/docker/{ID}");
        for (text, expected) in [
            ("0::/system.slice/a.service\n", Some("/system.slice/a.service")),
            (
                "2:memory:/x\n1:name=systemd:/system.slice/a.service\n0::/b\n",
                Some("/system.slice/a.service"),
            ),
            ("1:name=systemd:/\n0::/system.slice/b.service\n", Some("/system.slice/b.service")),
            (&format!("4:memory:{docker}\n1:name=systemd:/\n0::/\n"), Some(docker.as_str())),
            ("4:memory:/process_api/x\n1:name=systemd:/\n0::/\n", Some("/")),
            ("4:cpu,cpuacct:/x\n", None),
            ("1:name=systemd:/a:b\n", Some("/a:b")),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(of_procfs(text), expected, "{text:?}");
        }
    }
}
