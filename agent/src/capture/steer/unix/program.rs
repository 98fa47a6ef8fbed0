//! The instructions of the programs for unix sockets, put together by hand.
//!
//! A connect to a path can be changed only by a function of the kernel's own (`bpf_sock_addr_set_sun_path`, Linux
//! 6.7), which aya can neither call nor attach to. One program does both: where a client connects it looks up the
//! path in the eyes of that client, where it asks for its peer's name it looks up the guard's path.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{PathKey, PathTo};
use crate::capture::offsets::UnixHook;

/// As the kernel reads it.
pub(super) type Instruction = [u8; 8];

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Connect,
    GetPeerName,
}

// Operations, each with its operands behind it; BPF_JMP, BPF_ALU64 and BPF_MEM of 4 and 8 bytes.
const ADD: u8 = 0x07;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const LOAD_4: u8 = 0x61;
const LOAD_8: u8 = 0x79;
const STORE_8: u8 = 0x7a;
const LOAD_MAP: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const IF_EQUAL: u8 = 0x15;
const IF_GREATER: u8 = 0x25;
const IF_NOT_EQUAL: u8 = 0x55;
const IF_OTHER: u8 = 0x5d;
const IF_AT_MOST_SIGNED: u8 = 0xd5;

const PSEUDO_MAP_FD: u8 = 1;
/// `BPF_PSEUDO_KFUNC_CALL`
const PSEUDO_KERNEL_FUNCTION: u8 = 2;

// Helpers, by the kernel's numbers.
const MAP_LOOKUP_ELEM: i32 = 1;
const GET_CURRENT_TASK: i32 = 35;
const PROBE_READ_KERNEL: i32 = 113;
const PROBE_READ_KERNEL_STR: i32 = 115;

// Registers: results and arguments, those that calls leave alone, the stack's end.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const CONTEXT: u8 = 6;
const KERNEL_CONTEXT: u8 = 7;
const STACK: u8 = 10;

// On the stack: the key, above it a path as the kernel has it (mount, then entry), above it a pointer.
const KEY: i32 = -(size_of::<PathKey>() as i32);
const KEY_PATH: i32 = KEY + 8;
const ROOT_MOUNT: i32 = KEY - 16;
const ROOT_ENTRY: i32 = KEY - 8;
const POINTER: i32 = KEY - 24;

/// `sun_path` follows `sun_family`.
const PATH_AT: i32 = 2;
const PATH_BYTES: i32 = super::PATH_BYTES as i32;
const ALLOW: i32 = 1;

/// For the map of [`PathKey`] and [`PathTo`].
pub(super) fn program(at: At, hook: &UnixHook, paths: BorrowedFd<'_>) -> Vec<Instruction> {
    let mut code = Code::default();
    code.put(MOVE, CONTEXT, R1, 0, 0);
    for offset in (KEY..0).step_by(8) {
        code.put(STORE_8, STACK, 0, offset, 0);
    }
    if at == At::Connect {
        code.root_of_current(hook);
    }
    code.put(MOVE, R1, CONTEXT, 0, 0);
    code.call_kernel(hook.cast_to_kernel);
    code.put(MOVE, KERNEL_CONTEXT, R0, 0, 0);
    // What is said of its length, and an end behind it: a caller need not have written any.
    code.put(LOAD_8, R3, KERNEL_CONTEXT, hook.context_address as i32, 0);
    code.put(ADD, R3, 0, 0, PATH_AT);
    code.put(LOAD_4, R2, KERNEL_CONTEXT, hook.context_length as i32, 0);
    code.put(ADD, R2, 0, 0, 1 - PATH_AT);
    code.leave_if(IF_EQUAL, R2, 0, 0);
    code.leave_if(IF_GREATER, R2, 0, PATH_BYTES + 1);
    code.stack(R1, KEY_PATH);
    code.put(CALL, 0, 0, 0, PROBE_READ_KERNEL_STR);
    // Nothing but an end: abstract names begin so.
    code.leave_if(IF_AT_MOST_SIGNED, R0, 0, 1);
    code.stack(R2, KEY);
    code.put(LOAD_MAP, R1, PSEUDO_MAP_FD, 0, paths.as_raw_fd());
    code.put(0, 0, 0, 0, 0);
    code.put(CALL, 0, 0, 0, MAP_LOOKUP_ELEM);
    code.leave_if(IF_EQUAL, R0, 0, 0);
    code.put(MOVE, R2, R0, 0, 0);
    code.put(ADD, R2, 0, 0, std::mem::offset_of!(PathTo, path) as i32);
    code.put(LOAD_4, R3, R0, std::mem::offset_of!(PathTo, len) as i32, 0);
    // The verifier wants to know.
    code.leave_if(IF_EQUAL, R3, 0, 0);
    code.leave_if(IF_GREATER, R3, 0, PATH_BYTES);
    code.put(MOVE, R1, KERNEL_CONTEXT, 0, 0);
    code.call_kernel(hook.set_path);
    code.end()
}

#[derive(Default)]
struct Code {
    instructions: Vec<Instruction>,
    /// Jumps to the end.
    leaving: Vec<usize>,
}

impl Code {
    fn put(&mut self, operation: u8, to: u8, from: u8, offset: i32, value: i32) {
        let [low, high] = (offset as i16).to_le_bytes();
        let [a, b, c, d] = value.to_le_bytes();
        self.instructions.push([operation, to | from << 4, low, high, a, b, c, d]);
    }

    fn leave_if(&mut self, condition: u8, what: u8, other: u8, value: i32) {
        self.leaving.push(self.instructions.len());
        self.put(condition, what, other, 0, value);
    }

    /// An address on the stack.
    fn stack(&mut self, to: u8, offset: i32) {
        self.put(MOVE, to, STACK, 0, 0);
        self.put(ADD, to, 0, 0, offset);
    }

    fn call_kernel(&mut self, function: u32) {
        self.put(CALL, 0, PSEUDO_KERNEL_FUNCTION, 0, function.cast_signed());
    }

    /// Reads what is `offset` bytes behind the address in R3 onto the stack, or leaves.
    fn read(&mut self, offset: i32, to: i32, bytes: i32) {
        self.put(ADD, R3, 0, 0, offset);
        self.stack(R1, to);
        self.put(SET, R2, 0, 0, bytes);
        self.put(CALL, 0, 0, 0, PROBE_READ_KERNEL);
        self.leave_if(IF_NOT_EQUAL, R0, 0, 0);
    }

    /// The key's root: the mount at the root of the process that connects, if it sees all of that.
    fn root_of_current(&mut self, hook: &UnixHook) {
        self.put(CALL, 0, 0, 0, GET_CURRENT_TASK);
        self.put(MOVE, R3, R0, 0, 0);
        self.read(hook.task_fs as i32, POINTER, 8);
        self.put(LOAD_8, R3, STACK, POINTER, 0);
        self.read(hook.fs_root as i32, ROOT_MOUNT, 16);
        self.put(LOAD_8, R3, STACK, ROOT_MOUNT, 0);
        self.read(hook.mount_root as i32, POINTER, 8);
        // One that has been locked into a folder of it sees other files by the same names.
        self.put(LOAD_8, R1, STACK, POINTER, 0);
        self.put(LOAD_8, R2, STACK, ROOT_ENTRY, 0);
        self.leave_if(IF_OTHER, R1, R2, 0);
        self.put(LOAD_8, R3, STACK, ROOT_MOUNT, 0);
        self.read(hook.mount_id, KEY, 8);
    }

    fn end(mut self) -> Vec<Instruction> {
        let end = self.instructions.len();
        for at in self.leaving {
            if let Some(jump) = self.instructions.get_mut(at) {
                let [low, high] = ((end - at - 1) as i16).to_le_bytes();
                (jump[2], jump[3]) = (low, high);
            }
        }
        self.leaving = Vec::new();
        self.put(SET, R0, 0, 0, ALLOW);
        self.put(EXIT, 0, 0, 0, 0);
        self.instructions
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::{ALLOW, At, EXIT, IF_EQUAL, SET, program};
    use crate::capture::offsets::UnixHook;

    #[test]
    fn every_jump_ends_at_the_last_two_instructions() {
        let hook = UnixHook::default();
        let file = std::fs::File::open("/dev/null").unwrap();
        for (at, n_jumps) in [(At::Connect, 11), (At::GetPeerName, 6)] {
            let code = program(at, &hook, file.as_fd());
            let end = code.len() - 2;
            assert_eq!((code[end][0], code[end][4]), (SET, ALLOW as u8));
            assert_eq!(code[end + 1][0], EXIT);
            let jumps = code.iter().enumerate().filter(|(_, one)| {
                // BPF_JMP but for calls and the end.
                one[0] & 7 == IF_EQUAL & 7 && one[0] & 0xf0 != 0x80 && one[0] != EXIT
            });
            let ends: Vec<usize> = jumps
                .map(|(at, one)| at + 1 + usize::from(u16::from_le_bytes([one[2], one[3]])))
                .collect();
            assert_eq!(ends.len(), n_jumps, "{at:?}");
            assert!(ends.iter().all(|to| *to == end), "{at:?}: {ends:?}");
        }
    }
}
