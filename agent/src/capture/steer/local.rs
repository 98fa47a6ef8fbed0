//! What steering has to know of the host: the cgroup tree's root, a namespace's cookie and its addresses.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::SteerError;

/// An address and how many of its bits count.
pub type Prefix = (IpAddr, u8);

/// Where the cgroup v2 tree is mounted: alone, or beside the trees of v1.
pub(super) fn cgroup_root(mountinfo: &Path) -> Result<PathBuf, SteerError> {
    let mounts = fs::read_to_string(mountinfo).unwrap_or_default();
    cgroup2_mount(&mounts).map(PathBuf::from).ok_or(SteerError::NoCgroup2)
}

/// The mount point of the tree, of its whole if there is a choice.
fn cgroup2_mount(mountinfo: &str) -> Option<&str> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, at) = (place.next()?, place.next()?);
        kind.starts_with("cgroup2 ").then_some((root != "/", at))
    });
    mounts.min_by_key(|(is_part, _)| *is_part).map(|(_, at)| at)
}

/// # Errors
/// It isn't the root of the host's tree.
pub(super) fn open_root(path: &Path) -> Result<File, SteerError> {
    let opened = |source| SteerError::Cgroup { path: path.to_owned(), source };
    let root = File::open(path).map_err(opened)?;
    if !path.join("cgroup.procs").exists() {
        return Err(opened(io::Error::other("it is no cgroup v2 tree")));
    }
    // Every cgroup but the root has this file.
    if path.join("cgroup.events").exists() {
        return Err(SteerError::PartOfTree { path: path.to_owned() });
    }
    Ok(root)
}

/// The cookie of a network namespace, by which the kernel side knows it. Linux 5.14.
///
/// # Errors
/// It can't be entered, or the kernel is older.
pub fn netns_cookie(netns: BorrowedFd<'_>) -> Result<u64, SteerError> {
    let failed = |source| SteerError::Namespace { source };
    // A namespace is a thread's: this one ends with it.
    thread::scope(|scope| {
        let there = thread::Builder::new().name("namespace".into()).spawn_scoped(scope, || {
            move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
                .map_err(|error| failed(error.into()))?;
            own_netns_cookie()
        });
        let panicked = |_| failed(io::Error::other("the thread that entered it ended early"));
        there.map_err(failed)?.join().map_err(panicked)?
    })
}

/// The same for the calling thread's namespace.
///
/// # Errors
/// As above.
pub fn own_netns_cookie() -> Result<u64, SteerError> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let failed = |source| SteerError::Namespace { source };
    // No address is needed, and none may be there: `lo` can be down.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: a socket of ours, and a buffer of the length that is said.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if answer == 0 { Ok(cookie) } else { Err(failed(io::Error::last_os_error())) }
}

/// All addresses that a namespace takes for its own, from the `net` folder of one of its processes
/// (`/proc/<pid>/net`).
///
/// # Errors
/// The process is gone, or its folder closed.
pub fn local_prefixes(net: &Path) -> io::Result<Vec<Prefix>> {
    let mut prefixes = local_ipv4(&fs::read_to_string(net.join("fib_trie"))?);
    match fs::read_to_string(net.join("ipv6_route")) {
        Ok(routes) => prefixes.extend(routes.lines().filter_map(local_ipv6)),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    Ok(prefixes)
}

/// Of a tree in which an address stands above its prefixes: `|-- 127.0.0.0`, then `/8 host LOCAL`. Tables with
/// numbers (`Id 100:`) are for packets that a rule picks: a transparent proxy calls everybody's addresses local
/// there, as the guard itself does.
fn local_ipv4(fib_trie: &str) -> Vec<Prefix> {
    let mut prefixes = Vec::new();
    let (mut address, mut is_everybodys) = (None, true);
    for line in fib_trie.lines() {
        if line.ends_with(':') {
            is_everybodys = !line.starts_with("Id ");
        }
        let line = line.trim();
        if !is_everybodys {
            continue;
        }
        if let Some(leaf) = line.strip_prefix("|-- ") {
            address = leaf.parse::<Ipv4Addr>().ok();
        } else if let Some(rest) = line.strip_prefix('/')
            && rest.split_whitespace().any(|word| word == "LOCAL")
            && let Some(address) = address
            && let Some(len) = rest.split(' ').next().and_then(|len| len.parse().ok())
            && len <= 32
        {
            prefixes.push((IpAddr::V4(address), len));
        }
    }
    prefixes
}

/// Of a route: destination and length in hexadecimal first, flags last but one. Its table isn't told; no host has all
/// addresses but in a table for a transparent proxy.
fn local_ipv6(route: &str) -> Option<Prefix> {
    const RTF_LOCAL: u32 = 0x8000_0000;
    let mut fields = route.split_whitespace();
    let address = u128::from_str_radix(fields.next()?, 16).ok()?;
    let len = u8::from_str_radix(fields.next()?, 16).ok().filter(|len| (1..=128).contains(len))?;
    let flags = u32::from_str_radix(fields.nth(6)?, 16).ok()?;
    (flags & RTF_LOCAL != 0).then(|| (IpAddr::V6(Ipv6Addr::from(address)), len))
}

#[cfg(test)]
mod tests {
    use super::{cgroup2_mount, local_ipv4, local_ipv6};

    #[test]
    fn the_whole_tree_is_preferred() {
        let hybrid = "25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            26 25 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            31 25 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        let unified = "31 25 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        let bound = "30 25 0:28 /system.slice /mnt rw - cgroup2 cgroup2 rw\n";
        for (mounts, expected) in [
            (hybrid.to_owned(), Some("/sys/fs/cgroup/unified")),
            (unified.to_owned(), Some("/sys/fs/cgroup")),
            (format!("{bound}{unified}"), Some("/sys/fs/cgroup")),
            (bound.to_owned(), Some("/mnt")),
            ("26 25 0:23 / /sys/fs/cgroup rw - cgroup cgroup rw".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(cgroup2_mount(&mounts), expected, "{mounts}");
        }
    }

    #[test]
    fn local_addresses_are_read_from_the_routes() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
            +-- 127.0.0.0/8 2 0 2\n        +-- 127.0.0.0/31 1 0 0\n           |-- 127.0.0.0\n              \
            /8 host LOCAL\n           |-- 127.0.0.1\n              /32 host LOCAL\n        |-- \
            127.255.255.255\n           /32 link BROADCAST\n     |-- 10.1.2.3\n        /32 host LOCAL\n";
        let read: Vec<String> =
            local_ipv4(trie).iter().map(|(ip, len)| format!("{ip}/{len}")).collect();
        assert_eq!(read, ["127.0.0.0/8", "127.0.0.1/32", "10.1.2.3/32"]);
        let proxy = "Id 100:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 host LOCAL\n";
        assert_eq!(local_ipv4(proxy), []);
        assert_eq!(local_ipv4(&format!("{proxy}{trie}")).len(), 3);
        for broken in ["/8 host LOCAL", "|-- x\n/8 host LOCAL", "|-- 1.2.3.4\n/99 host LOCAL"] {
            assert_eq!(local_ipv4(broken), [], "{broken}");
        }

        let none = "00000000000000000000000000000000";
        let route = |address: &str, len: &str, flags: &str| {
            format!("{address} {len} {none} 00 {none} 00000000 00000002 00000000 {flags}       lo")
        };
        let one = "00000000000000000000000000000001";
        for (route, expected) in [
            (route(one, "80", "80200001"), Some("::1/128")),
            (route(one, "80", "00200001"), None),
            (route(one, "81", "80200001"), None),
            (route(none, "00", "80200001"), None),
            (route("x", "80", "80200001"), None),
            (String::new(), None),
        ] {
            let read = local_ipv6(&route).map(|(ip, len)| format!("{ip}/{len}"));
            assert_eq!(read.as_deref(), expected, "{route}");
        }
    }
}
