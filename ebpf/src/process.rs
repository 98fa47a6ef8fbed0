//! Lives of processes: who made whom, and what each became.

use aya_ebpf::{
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_probe_read_kernel_str, bpf_probe_read_user,
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use dbwarden_common::{
    ABSENT, ARGS_LEN, CGROUP_LEVELS, CGROUP_NAME_LEN, ControlHeader, EXEC, EXIT, Exec, Exit,
    FILENAME_LEN, FORK, Fork, TRACKED_PROGRAM, TTY_LEN,
};

use crate::{
    emit,
    kernel::{self, field, now, offset},
    maps::{TRACKED, count},
};

#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent: u64 = ctx.arg(0);
    let child: u64 = ctx.arg(1);
    let parent_tgid: u32 = field(parent, offset!(task_tgid)).unwrap_or(0);
    let child_tgid: u32 = field(child, offset!(task_tgid)).unwrap_or(0);
    if parent_tgid == child_tgid {
        return 0; // a thread
    }
    // SAFETY: the value is copied at once.
    if let Some(tracked) = unsafe { TRACKED.get(parent_tgid) }.copied()
        && TRACKED.insert(child_tgid, tracked, 0).is_err()
    {
        count(dbwarden_common::Drop::TableFull, 0);
    }
    let Some(mut entry) = emit::control::<Fork>() else { return 0 };
    let fork = entry.as_mut_ptr();
    // SAFETY: a reservation of this size.
    unsafe {
        fork.write(Fork {
            header: ControlHeader { time: now(), kind: FORK, tgid: parent_tgid },
            child_key: field(child, offset!(task_thread_pid)).unwrap_or(0),
            child_start: field(child, offset!(task_start_boottime)).unwrap_or(0),
            child: child_tgid,
            reserved: 0,
        });
    }
    entry.submit(emit::wakeup());
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task: u64 = ctx.arg(0);
    let bprm: u64 = ctx.arg(2);
    let tgid: u32 = field(task, offset!(task_tgid)).unwrap_or(0);
    if let Some(tracked) = TRACKED.get_ptr_mut(tgid) {
        // SAFETY: a map value. What a server runs with `COPY … PROGRAM` is no server.
        unsafe { (*tracked).flags |= TRACKED_PROGRAM };
    }
    let Some(mut entry) = emit::control::<Exec>() else { return 0 };
    let exec = entry.as_mut_ptr();
    // SAFETY: a reservation of this size; strings that aren't filled begin with NUL.
    unsafe { describe(task, tgid, bprm, exec) };
    entry.submit(emit::wakeup());
    0
}

/// # Safety
/// `exec` must be valid for writes.
#[inline(always)]
unsafe fn describe(task: u64, tgid: u32, bprm: u64, exec: *mut Exec) {
    let parent: u64 = field(task, offset!(task_real_parent)).unwrap_or(0);
    let cred: u64 = field(task, offset!(task_cred)).unwrap_or(0);
    let signal: u64 = field(task, offset!(task_signal)).unwrap_or(0);
    let mm: u64 = field(task, offset!(task_mm)).unwrap_or(0);
    // SAFETY: the caller's `exec`; the helpers check the sources.
    unsafe {
        (*exec).header = ControlHeader { time: now(), kind: EXEC, tgid };
        (*exec).key = field(task, offset!(task_thread_pid)).unwrap_or(0);
        (*exec).start = field(task, offset!(task_start_boottime)).unwrap_or(0);
        (*exec).cgroup_id = bpf_get_current_cgroup_id();
        (*exec).parent = field(parent, offset!(task_tgid)).unwrap_or(0);
        (*exec).uid = field(cred, offset!(cred_uid)).unwrap_or(u32::MAX);
        (*exec).gid = field(cred, offset!(cred_gid)).unwrap_or(u32::MAX);
        (*exec).login_uid = optional(task, offset!(task_loginuid));
        (*exec).session = optional(task, offset!(task_sessionid));
        (*exec).comm = field(task, offset!(task_comm)).unwrap_or([0; 16]);

        (*exec).tty[0] = 0;
        let tty: u64 = field(signal, offset!(signal_tty)).unwrap_or(0);
        if tty != 0 {
            let name = tty + offset!(tty_name) as u64;
            bpf_probe_read_kernel_str(
                (&raw mut (*exec).tty).cast(),
                TTY_LEN as u32,
                kernel::as_ptr(name),
            );
        }

        // What really runs: for a script its interpreter, whose arguments name the script.
        (*exec).filename[0] = 0;
        let filename: u64 = field(bprm, offset!(bprm_interp)).unwrap_or(0);
        bpf_probe_read_kernel_str(
            (&raw mut (*exec).filename).cast(),
            FILENAME_LEN as u32,
            kernel::as_ptr(filename),
        );

        (*exec).args_len = 0;
        let start: u64 = field(mm, offset!(mm_arg_start)).unwrap_or(0);
        let end: u64 = field(mm, offset!(mm_arg_end)).unwrap_or(0);
        let len = end.saturating_sub(start);
        let len = if len > ARGS_LEN as u64 { ARGS_LEN as u64 } else { len };
        let args = (&raw mut (*exec).args).cast();
        if bpf_probe_read_user(args, len as u32, kernel::as_ptr(start)) == 0 {
            (*exec).args_len = len as u32;
        }

        let groups: u64 = field(task, offset!(task_cgroups)).unwrap_or(0);
        let group: u64 = field(groups, offset!(css_set_dfl_cgrp)).unwrap_or(0);
        let mut node: u64 = field(group, offset!(cgroup_kn)).unwrap_or(0);
        let mut level = 0;
        while level < CGROUP_LEVELS {
            (*exec).cgroup[level][0] = 0;
            let above: u64 = field(node, offset!(kernfs_parent)).unwrap_or(0);
            // The root has no parent, and no name that counts.
            if above != 0 {
                let name: u64 = field(node, offset!(kernfs_name)).unwrap_or(0);
                bpf_probe_read_kernel_str(
                    (&raw mut (*exec).cgroup[level]).cast(),
                    CGROUP_NAME_LEN as u32,
                    kernel::as_ptr(name),
                );
            }
            node = above;
            level += 1;
        }
    }
}

/// A field that kernels without audit don't have.
#[inline(always)]
fn optional(task: u64, offset: u32) -> u32 {
    if offset == ABSENT { u32::MAX } else { field(task, offset).unwrap_or(u32::MAX) }
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task: u64 = ctx.arg(0);
    let signal: u64 = field(task, offset!(task_signal)).unwrap_or(0);
    let live: u32 = field(signal, offset!(signal_live)).unwrap_or(0);
    if live != 0 {
        return 0; // other threads go on
    }
    let tgid: u32 = field(task, offset!(task_tgid)).unwrap_or(0);
    let leader: u64 = field(task, offset!(task_group_leader)).unwrap_or(0);
    let _ = TRACKED.remove(tgid);
    let Some(mut entry) = emit::control::<Exit>() else { return 0 };
    let exit = entry.as_mut_ptr();
    // SAFETY: a reservation of this size.
    unsafe {
        exit.write(Exit {
            header: ControlHeader { time: now(), kind: EXIT, tgid },
            key: field(leader, offset!(task_thread_pid)).unwrap_or(0),
        });
    }
    entry.submit(emit::wakeup());
    0
}
