//! Plaintext at the TLS library's door, tied to the socket that the library itself uses.

use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_probe_read_user_str},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use dbwarden_common::{
    CERTIFICATE, COMMON_NAME_LEN, Certificate, ControlHeader, Drop, REQUEST, RESPONSE, TLS_LAYER,
    TRACKED_PROGRAM, TRACKED_TLS, Tracked,
};

use crate::{
    emit::{self, Call, Source},
    kernel::{self, now},
    maps::{
        CONNECTIONS, NAME_CALLS, TLS_CALLS, TLS_SOCKETS, TRACKED, TlsCall, TlsKey, TlsSocket, count,
    },
};

/// `SSL_read(ssl, buf, num)` and `SSL_write(ssl, buf, num)`.
#[uprobe]
pub fn ssl_call(ctx: ProbeContext) -> u32 {
    enter(&ctx, 0);
    0
}

/// `SSL_read_ex(ssl, buf, num, readbytes)` and `SSL_write_ex(ssl, buf, num, written)`.
#[uprobe]
pub fn ssl_call_ex(ctx: ProbeContext) -> u32 {
    enter(&ctx, ctx.arg(3).unwrap_or(0));
    0
}

#[uretprobe]
pub fn ssl_read_return(ctx: RetProbeContext) -> u32 {
    leave(&ctx, REQUEST);
    0
}

#[uretprobe]
pub fn ssl_write_return(ctx: RetProbeContext) -> u32 {
    leave(&ctx, RESPONSE);
    0
}

/// `SSL_free(ssl)`: the address may be used again for another connection.
#[uprobe]
pub fn ssl_free(ctx: ProbeContext) -> u32 {
    let pid_tgid = bpf_get_current_pid_tgid();
    if tracked(pid_tgid).is_some() {
        let key = TlsKey { ssl: ctx.arg(0).unwrap_or(0), tgid: pid_tgid >> 32 };
        let _ = TLS_SOCKETS.remove(key);
    }
    0
}

/// `X509_NAME_get_text_by_NID(name, nid, buf, len)`: with this PostgreSQL asks for the common name of the
/// certificate that it has just verified, once for its length and once for itself.
#[uprobe]
pub fn certificate_name(ctx: ProbeContext) -> u32 {
    const NID_COMMON_NAME: i32 = 13;
    let pid_tgid = bpf_get_current_pid_tgid();
    let buffer: u64 = ctx.arg(2).unwrap_or(0);
    if ctx.arg::<i32>(1) == Some(NID_COMMON_NAME) && buffer != 0 && is_server(pid_tgid) {
        let _ = NAME_CALLS.insert(pid_tgid, buffer, 0);
    }
    0
}

#[uretprobe]
pub fn certificate_name_return(ctx: RetProbeContext) -> u32 {
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: the value is copied at once.
    let Some(buffer) = (unsafe { NAME_CALLS.get(pid_tgid) }).copied() else { return 0 };
    let _ = NAME_CALLS.remove(pid_tgid);
    if ctx.ret::<i32>() <= 0 {
        return 0;
    }
    let Some(mut entry) = emit::control::<Certificate>() else { return 0 };
    let certificate = entry.as_mut_ptr();
    // SAFETY: a reservation of this size; the helper checks the source.
    let read = unsafe {
        (*certificate).header =
            ControlHeader { time: now(), kind: CERTIFICATE, tgid: (pid_tgid >> 32) as u32 };
        bpf_probe_read_user_str(
            (&raw mut (*certificate).common_name).cast(),
            COMMON_NAME_LEN as u32,
            buffer as *const _,
        )
    };
    match read > 0 {
        true => entry.submit(emit::wakeup()),
        false => entry.discard(0),
    }
    0
}

/// A server's own process, and no program that it runs.
#[inline(always)]
fn is_server(pid_tgid: u64) -> bool {
    // SAFETY: the value is copied at once.
    let tracked = unsafe { TRACKED.get((pid_tgid >> 32) as u32) }.copied();
    tracked.is_some_and(|tracked| tracked.flags & TRACKED_PROGRAM == 0)
}

#[inline(always)]
fn tracked(pid_tgid: u64) -> Option<Tracked> {
    let tracked = TRACKED.get_ptr_mut((pid_tgid >> 32) as u32)?;
    // SAFETY: a map value; the bit is only ever set.
    unsafe {
        if (*tracked).flags & TRACKED_TLS == 0 {
            (*tracked).flags |= TRACKED_TLS;
        }
        Some(*tracked)
    }
}

#[inline(always)]
fn enter(ctx: &ProbeContext, length_at: u64) {
    let pid_tgid = bpf_get_current_pid_tgid();
    if tracked(pid_tgid).is_none() {
        return;
    }
    let ssl: u64 = ctx.arg(0).unwrap_or(0);
    let buffer: u64 = ctx.arg(1).unwrap_or(0);
    // SAFETY: the context of a uprobe is the registers.
    let stack = unsafe { (*ctx.as_ptr().cast::<pt_regs>()).rsp };
    // SAFETY: the value is copied at once.
    let socket = unsafe { TLS_SOCKETS.get(TlsKey { ssl, tgid: pid_tgid >> 32 }) }
        .copied()
        .unwrap_or(TlsSocket { sock: 0, cookie: 0 });
    let call = TlsCall { ssl, buffer, length_at, stack, sock: socket.sock, cookie: socket.cookie };
    if TLS_CALLS.insert(pid_tgid, call, 0).is_err() {
        count(Drop::TableFull, 0);
    }
}

#[inline(always)]
fn leave(ctx: &RetProbeContext, direction: u8) {
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: the value is copied at once.
    let Some(call) = (unsafe { TLS_CALLS.get(pid_tgid) }).copied() else { return };
    let _ = TLS_CALLS.remove(pid_tgid);
    let Some(tracked) = tracked(pid_tgid) else { return };
    let result: i32 = ctx.ret();
    if result <= 0 {
        return;
    }
    let len = if call.length_at == 0 {
        result as u64
    } else {
        kernel::user::<u64>(call.length_at).unwrap_or(0)
    };
    if len == 0 {
        return;
    }
    let Some(connection) = CONNECTIONS.get_ptr_mut(call.sock) else {
        count(Drop::TlsUnmapped, len);
        return;
    };
    // SAFETY: a map value.
    if unsafe { (*connection).cookie } != call.cookie {
        count(Drop::TlsUnmapped, len);
        return;
    }
    let seen = Call {
        time: now(),
        sock: call.sock,
        cookie: call.cookie,
        len,
        tgid: (pid_tgid >> 32) as u32,
        server: tracked.server,
        direction,
        layer: TLS_LAYER,
    };
    emit::call(&seen, Source::buffer(call.buffer), connection, tracked);
}
