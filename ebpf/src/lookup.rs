//! Steering of clients from the network, in the one namespace that the program is attached to.

use aya_ebpf::{
    bindings::sk_action::{SK_DROP, SK_PASS},
    macros::{map, sk_lookup},
    maps::{HashMap, SockMap},
    programs::SkLookupContext,
};
use dbwarden_common::{ANY_IPV4, ANY_IPV6, Listener, STEER_ELSE_DIRECT, SteerCount, SteerKey};

use crate::{AF_INET6, IPPROTO_TCP, count, is_local, mapped};

/// Which guard's socket takes what arrives for an address.
#[map]
static LISTENERS: HashMap<SteerKey, Listener> = HashMap::with_max_entries(256, 0);

#[map]
static SOCKETS: SockMap = SockMap::with_max_entries(256, 0);

/// The same in every namespace.
const LOOPBACK_IFINDEX: u32 = 1;

/// Clients from the network. Those of this host have been led, or exempted, when they connected.
#[sk_lookup]
pub fn steer_network(ctx: SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    // SAFETY: fields of the context.
    let (device, protocol, family, port) = unsafe {
        (
            (&raw const (*lookup).ingress_ifindex).read_volatile(),
            (&raw const (*lookup).protocol).read_volatile(),
            (&raw const (*lookup).family).read_volatile(),
            (&raw const (*lookup).local_port).read_volatile(),
        )
    };
    if device == LOOPBACK_IFINDEX || protocol != IPPROTO_TCP {
        return SK_PASS;
    }
    // SAFETY: as above; each family has its own.
    let (address, remote, any) = unsafe {
        if family == AF_INET6 {
            let local = [
                (&raw const (*lookup).local_ip6[0]).read_volatile(),
                (&raw const (*lookup).local_ip6[1]).read_volatile(),
                (&raw const (*lookup).local_ip6[2]).read_volatile(),
                (&raw const (*lookup).local_ip6[3]).read_volatile(),
            ];
            let remote = [
                (&raw const (*lookup).remote_ip6[0]).read_volatile(),
                (&raw const (*lookup).remote_ip6[1]).read_volatile(),
                (&raw const (*lookup).remote_ip6[2]).read_volatile(),
                (&raw const (*lookup).remote_ip6[3]).read_volatile(),
            ];
            (local, remote, ANY_IPV6)
        } else {
            let local = (&raw const (*lookup).local_ip4).read_volatile();
            let remote = (&raw const (*lookup).remote_ip4).read_volatile();
            (mapped(local), mapped(remote), ANY_IPV4)
        }
    };
    let mut key = SteerKey { netns: 0, address, port, reserved: 0 };
    // SAFETY: copied at once.
    let mut found = unsafe { LISTENERS.get(key) }.copied();
    if found.is_none() {
        key.address = any;
        // SAFETY: as above.
        found = unsafe { LISTENERS.get(key) }.copied();
    }
    let Some(listener) = found else { return SK_PASS };
    // What this host sends to an address of one of its devices counts as that device's. Nobody out there can
    // be connected from an address of this host.
    if remote == address || is_local(0, &remote) {
        return SK_PASS;
    }
    if SOCKETS.redirect_sk_lookup(&ctx, listener.index, 0).is_ok() {
        count(SteerCount::Steered);
        return SK_PASS;
    }
    if listener.flags & STEER_ELSE_DIRECT != 0 {
        count(SteerCount::Direct);
        return SK_PASS;
    }
    // The client is told at once, as by any port that nobody listens on.
    count(SteerCount::Refused);
    SK_DROP
}
