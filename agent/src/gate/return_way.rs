//! The way back for connections that are made in the name of clients from the network.
//!
//! Such a connection goes from the client's address to the server's loopback address. What the server answers to it
//! must come back to this host instead of going out to the client, so there is one rule for each guarded server:
//! what this host itself sends (`iif lo`), from the loopback address, by TCP, from the server's port, is looked up
//! in a table of dbwarden's own, in which every address is one of this host.
//!
//! Nothing else is touched. What goes to an address of this host, all genuine loopback traffic, is found in the
//! table `local` before, and would be delivered in the same way by this one. To any other host nothing can be sent
//! from a loopback address: without the rule the kernel drops it as a martian, with the rule it comes to `lo` and
//! finds no socket there but those that dbwarden has bound to the client's address. So a rule that a crash leaves
//! behind does nothing. The one exception is a host that lets loopback addresses out (`route_localnet`) in order to
//! redirect clients from the network to 127.0.0.1 by address translation: that server's clients aren't reached.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
};

use crate::netlink::{CREATE, EXCL, Message, Netlink, attribute, attributes};

/// Nobody else's: "dbw" and a number.
const TABLE: u32 = 0x6462_7701;
/// After the table `local`, before whatever a VPN puts in front of `main`.
const PRIORITY: u32 = 1;
/// By which `ip rule` and `ip route` name who has made them.
const PROTOCOL: u8 = 0xdb;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FR_ACT_TO_TBL: u8 = 1;
/// `struct fib_rule_hdr`.
const RULE_BYTES: usize = 12;

const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const RTN_LOCAL: u8 = 2;
const RT_SCOPE_HOST: u8 = 254;
/// The same in every namespace.
const LOOPBACK_IFINDEX: u32 = 1;

const IPPROTO_TCP: u8 = 6;

/// Makes the ways back from these servers' loopback addresses, and no others, those that there are. Changes nothing
/// where they are: what a network manager has removed, or a killed process left, is mended by saying it again.
///
/// # Errors
/// The kernel refuses: it takes CAP_NET_ADMIN.
pub(super) fn keep(servers: &BTreeSet<SocketAddr>) -> io::Result<()> {
    let kernel = Netlink::open(None)?;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let wanted: Vec<Vec<u8>> =
            servers.iter().filter(|at| self::family(at.ip()) == family).map(rule).collect();
        let found = ours(&kernel, family)?;
        if !wanted.is_empty() {
            done(kernel.ask(RTM_NEWROUTE, CREATE | EXCL, &route(family)), &[libc::EEXIST])?;
        }
        for rule in wanted.iter().filter(|rule| !found.iter().any(|other| is_same(rule, other))) {
            done(kernel.ask(RTM_NEWRULE, CREATE | EXCL, rule), &[libc::EEXIST])?;
        }
        for rule in found.iter().filter(|rule| !wanted.iter().any(|other| is_same(rule, other))) {
            done(kernel.ask(RTM_DELRULE, 0, rule), &[libc::ENOENT])?;
        }
        if wanted.is_empty() && !found.is_empty() {
            done(kernel.ask(RTM_DELROUTE, 0, &route(family)), &[libc::ESRCH, libc::ENOENT])?;
        }
    }
    Ok(())
}

/// It is as it was to be, or has been before.
fn done(outcome: io::Result<()>, before: &[i32]) -> io::Result<()> {
    match outcome {
        Err(error) if error.raw_os_error().is_some_and(|code| before.contains(&code)) => Ok(()),
        outcome => outcome,
    }
}

/// The rules that lead to our table, as the kernel tells them.
fn ours(kernel: &Netlink, family: u8) -> io::Result<Vec<Vec<u8>>> {
    let mut header = [0; RULE_BYTES];
    header[0] = family;
    let ours = |(kind, rule): Message| {
        // A kernel without IPv6 answers with the rules of all families.
        let is_ours = kind == RTM_NEWRULE
            && rule.first() == Some(&family)
            && value(&rule, FRA_TABLE) == Some(&TABLE.to_ne_bytes());
        is_ours.then_some(rule)
    };
    Ok(kernel.list(RTM_GETRULE, &header)?.into_iter().filter_map(ours).collect())
}

fn value(rule: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(rule.get(RULE_BYTES..)?).find(|(other, _)| *other == kind).map(|(_, value)| value)
}

/// In all that decides which packets it is for.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let kinds = [FRA_SRC, FRA_IIFNAME, FRA_PRIORITY, FRA_TABLE, FRA_IP_PROTO, FRA_SPORT_RANGE];
    kinds.iter().all(|kind| value(one, *kind) == value(other, *kind))
}

fn rule(server: &SocketAddr) -> Vec<u8> {
    let (ip, port) = (server.ip(), server.port().to_ne_bytes());
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let source_bits = octets.len() as u8 * 8;
    let header = [family(ip), 0, source_bits, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    [
        header.to_vec(),
        attribute(FRA_SRC, &octets),
        attribute(FRA_IIFNAME, b"lo\0"),
        attribute(FRA_PRIORITY, &PRIORITY.to_ne_bytes()),
        attribute(FRA_TABLE, &TABLE.to_ne_bytes()),
        attribute(FRA_PROTOCOL, &[PROTOCOL]),
        attribute(FRA_IP_PROTO, &[IPPROTO_TCP]),
        attribute(FRA_SPORT_RANGE, &[port, port].concat()),
    ]
    .concat()
}

/// `local default dev lo`.
fn route(family: u8) -> Vec<u8> {
    let header = [family, 0, 0, 0, 0, PROTOCOL, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0];
    [
        header.to_vec(),
        attribute(RTA_OIF, &LOOPBACK_IFINDEX.to_ne_bytes()),
        attribute(RTA_TABLE, &TABLE.to_ne_bytes()),
    ]
    .concat()
}

fn family(ip: IpAddr) -> u8 {
    (if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::SocketAddr, process::Command, thread};

    use nix::sched::{CloneFlags, unshare};

    use super::{FRA_PRIORITY, Netlink, is_same, keep, ours, rule, value};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_is_laid_out_as_the_kernel_reads_it() {
        let bytes = rule(&at("127.0.0.1:4660"));
        let mut expected = vec![2, 0, 32, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        expected.extend([8, 0, 2, 0, 127, 0, 0, 1, 7, 0, 3, 0, b'l', b'o', 0, 0]);
        expected.extend([8, 0, 6, 0, 1, 0, 0, 0, 8, 0, 15, 0, 1, 0x77, 0x62, 0x64]);
        expected.extend([5, 0, 21, 0, 0xdb, 0, 0, 0, 5, 0, 22, 0, 6, 0, 0, 0]);
        expected.extend([8, 0, 23, 0, 0x34, 0x12, 0x34, 0x12]);
        assert_eq!(bytes, expected);
        assert_eq!(rule(&at("[::1]:1"))[..4], [10, 0, 128, 0]);
        assert_eq!(value(&bytes, FRA_PRIORITY), Some(&[1, 0, 0, 0][..]));
        assert!(is_same(&bytes, &bytes) && !is_same(&bytes, &rule(&at("127.0.0.1:4661"))));
    }

    #[test]
    fn saying_it_again_changes_nothing_and_saying_nothing_removes_it() {
        if !nix::unistd::getuid().is_root() {
            eprintln!("skipped: it takes root");
            return;
        }
        // In a network of its own.
        let in_its_own = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let up = ["link", "set", "lo", "up"];
            assert!(Command::new("ip").args(up).status().unwrap().success());
            let kernel = Netlink::open(None).unwrap();
            let count = |family| ours(&kernel, family).unwrap().len();
            let counts = || [count(2), count(10)];
            let servers =
                BTreeSet::from([at("127.0.0.1:5432"), at("127.0.0.1:5433"), at("[::1]:5432")]);
            for _ in 0..2 {
                keep(&servers).unwrap();
                assert_eq!(counts(), [2, 1]);
            }
            keep(&BTreeSet::from([at("127.0.0.1:5433"), at("127.0.0.1:5434")])).unwrap();
            assert_eq!(counts(), [2, 0]);
            for _ in 0..2 {
                keep(&BTreeSet::new()).unwrap();
                assert_eq!(counts(), [0, 0]);
            }
        });
        in_its_own.join().unwrap();
    }
}
