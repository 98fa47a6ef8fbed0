//! Stories of processes, told to the table as records, and what it then knows.

use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc};

use tempfile::TempDir;

use super::{
    super::{
        procfs::{Procfs, TICK_NS},
        users::Users,
    },
    Counters, Limits, Peer, ProcessTable,
};
use crate::event::{BootTime, Clock, LoginStrength, Process, ProcessEvent};

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nana:x:1000:1000::/home/ana:/bin/sh\n";
/// Records of these tests tell times in ticks.
const fn tick(n: u64) -> BootTime {
    BootTime(n * TICK_NS)
}

/// A host with a procfs of files, where tests put processes.
struct Host {
    procfs: TempDir,
    table: ProcessTable,
}

impl Host {
    fn new(limits: Limits, own_cgroup: &str, processes: &[Seeded]) -> Host {
        let procfs = tempfile::tempdir().unwrap();
        fs::create_dir(procfs.path().join("self")).unwrap();
        fs::write(procfs.path().join("self/cgroup"), own_cgroup).unwrap();
        for process in processes {
            process.write(procfs.path());
        }
        let users = Users::of_passwd(PASSWD, BootTime(0));
        let mut table = ProcessTable::new(limits, Procfs::at(procfs.path()), users);
        table.seed(BootTime(0)).unwrap();
        Host { procfs, table }
    }

    fn unified() -> Host {
        Host::new(Limits::default(), "0::/\n", &[INIT, SHELL])
    }

    fn remove(&self, pid: u32) {
        fs::remove_dir_all(self.procfs.path().join(pid.to_string())).unwrap();
    }

    fn fork(&mut self, at: u64, parent: u32, child: u32, key: u64) {
        let (time, start) = (tick(at), tick(at));
        self.table.apply(&ProcessEvent::Fork { time, parent, child, start, key });
    }

    fn exec(&mut self, at: u64, pid: u32, start: u64, key: u64, program: &str) {
        self.table.apply(&exec(at, pid, start, key, program, b"/system.slice/job.service"));
    }

    fn exit(&mut self, at: u64, pid: u32, key: u64) {
        self.table.apply(&ProcessEvent::Exit { time: tick(at), pid, key });
    }

    fn resolve(&mut self, pid: u32, key: u64, at: u64) -> Option<Arc<Process>> {
        self.table.resolve(Peer { pid, key, at: tick(at), uid: None }, Clock::default())
    }

    /// Asserts who `(pid, key)` was at a time: `comm` and the comms of the parents, or nobody.
    #[track_caller]
    fn check(&mut self, (pid, key, at): (u32, u64, u64), expected: Option<(&str, &[&str])>) {
        let found = self.resolve(pid, key, at);
        let found = found.as_ref().map(|process| {
            let parents: Vec<&str> = process.parents.iter().map(|p| &*p.comm).collect();
            (&*process.comm, parents)
        });
        assert_eq!(found, expected.map(|(comm, parents)| (comm, parents.to_vec())));
    }
}

fn exec<'a>(
    at: u64,
    pid: u32,
    start: u64,
    key: u64,
    program: &'a str,
    cgroup: &'a [u8],
) -> ProcessEvent<'a> {
    ProcessEvent::Exec {
        time: tick(at),
        pid,
        parent: 1,
        start: tick(start),
        key,
        uid: 1000,
        gid: 1000,
        login_uid: Some(1000),
        session: Some(7),
        comm: program.rsplit('/').next().unwrap_or_default().as_bytes(),
        filename: program.as_bytes(),
        args: b"arg0\0arg1\0",
        tty: b"pts4",
        cgroup,
        cgroup_id: 0,
    }
}

/// A process in the procfs of a [`Host`].
struct Seeded {
    pid: u32,
    parent: u32,
    start: u64,
    comm: &'static str,
    uid: u32,
    cgroup: &'static str,
}

const INIT: Seeded =
    Seeded { pid: 1, parent: 0, start: 0, comm: "systemd", uid: 0, cgroup: "0::/init.scope\n" };
const SHELL: Seeded = Seeded {
    pid: 50,
    parent: 1,
    start: 5,
    comm: "bash",
    uid: 1000,
    cgroup: "0::/user.slice/user-1000.slice/session-3.scope\n",
};

impl Seeded {
    fn write(&self, root: &Path) {
        let dir = root.join(self.pid.to_string());
        fs::create_dir(&dir).unwrap();
        let zeros = "0 ".repeat(14);
        let stat = format!(
            "{} ({}) S {} 0 0 0 {zeros}{} 0 0\n",
            self.pid, self.comm, self.parent, self.start
        );
        fs::write(dir.join("stat"), stat).unwrap();
        fs::write(dir.join("status"), format!("Uid:\t{0}\t{0}\t{0}\t{0}\n", self.uid)).unwrap();
        fs::write(dir.join("cgroup"), self.cgroup).unwrap();
        fs::write(dir.join("cmdline"), format!("/bin/{}\0-l\0", self.comm)).unwrap();
        fs::write(dir.join("loginuid"), "1000").unwrap();
        fs::write(dir.join("sessionid"), "3").unwrap();
        symlink(format!("/usr/bin/{}", self.comm), dir.join("exe")).unwrap();
    }
}

#[test]
fn a_seeded_process_is_known_whole() {
    let mut host = Host::unified();
    let shell = host.resolve(50, 0xa, 6).unwrap();
    assert_eq!(shell.pid, 50);
    assert_eq!(shell.start, tick(5));
    assert_eq!(shell.exe.as_deref(), Some("/usr/bin/bash"));
    assert_eq!(shell.command.as_deref(), Some("/bin/bash -l"));
    assert_eq!(shell.os_user.as_deref(), Some("ana"));
    assert_eq!(shell.login_user.as_deref(), Some("ana"));
    assert_eq!(shell.login_strength, LoginStrength::Strong);
    assert_eq!(shell.session, Some(3));
    assert_eq!(shell.unit.as_deref(), Some("session-3.scope"));
    assert_eq!(shell.parents.len(), 1);
    host.check((50, 0xa, 6), Some(("bash", &["systemd"])));
    // It had connected as this key, so another key is another process.
    host.check((50, 0xb, 6), None);
    // It was not born then.
    host.check((50, 0xa, 4), None);
}

#[test]
fn a_client_of_five_milliseconds_is_known_from_records() {
    let mut host = Host::unified();
    host.fork(100, 50, 200, 0x1);
    host.exec(100, 200, 100, 0x1, "/usr/bin/psql");
    host.exit(101, 200, 0x1);
    let psql = host.resolve(200, 0x1, 100).unwrap();
    assert_eq!(psql.exe.as_deref(), Some("/usr/bin/psql"));
    assert_eq!(psql.command.as_deref(), Some("arg0 arg1"));
    assert_eq!(psql.uid, Some(1000));
    assert_eq!(psql.tty.as_deref(), Some("pts/4"));
    assert_eq!(psql.session, Some(7));
    assert_eq!(psql.login_strength, LoginStrength::Weak);
    assert_eq!(psql.unit.as_deref(), Some("job.service"));
    host.check((200, 0x1, 100), Some(("psql", &["bash", "systemd"])));
}

#[test]
fn two_hundred_come_and_go_before_anybody_asks() {
    let mut host = Host::unified();
    for n in 0..200 {
        let (pid, key) = (1000 + n, u64::from(n) + 1);
        host.fork(100, 50, pid, key);
        host.exec(100, pid, 100, key, "/usr/bin/psql");
        host.exit(101, pid, key);
    }
    for n in 0..200 {
        host.check((1000 + n, u64::from(n) + 1, 100), Some(("psql", &["bash", "systemd"])));
    }
    assert_eq!(host.table.counters().from_procfs, 0);
}

#[test]
fn a_pid_given_again_is_another_process() {
    let mut host = Host::unified();
    host.fork(100, 50, 200, 0x1);
    host.exec(100, 200, 100, 0x1, "/usr/bin/psql");
    host.exit(110, 200, 0x1);
    host.fork(120, 1, 200, 0x2);
    host.exec(120, 200, 120, 0x2, "/usr/sbin/cron");
    // By key, whenever asked.
    host.check((200, 0x1, 105), Some(("psql", &["bash", "systemd"])));
    host.check((200, 0x2, 125), Some(("cron", &["systemd"])));
    host.check((200, 0x3, 125), None);
    // By time, where the key is not known.
    host.check((200, 0, 105), Some(("psql", &["bash", "systemd"])));
    host.check((200, 0, 125), Some(("cron", &["systemd"])));
    host.check((200, 0, 115), None);
    host.check((200, 0, 99), None);
    // The first one's socket lives on in a child of it.
    host.check((200, 0x1, 125), Some(("psql", &["bash", "systemd"])));
    // Late records of the first life change nothing.
    host.exit(126, 200, 0x1);
    host.check((200, 0, 130), Some(("cron", &["systemd"])));
    // The kernel may give the very address again.
    host.exit(130, 200, 0x2);
    host.fork(140, 50, 200, 0x1);
    host.exec(140, 200, 140, 0x1, "/usr/bin/vacuumdb");
    host.check((200, 0x1, 105), Some(("psql", &["bash", "systemd"])));
    host.check((200, 0x1, 145), Some(("vacuumdb", &["bash", "systemd"])));
}

#[test]
fn a_lost_exit_or_fork_ends_the_old_life() {
    let mut host = Host::unified();
    host.fork(100, 50, 200, 0x1);
    host.exec(100, 200, 100, 0x1, "/usr/bin/psql");
    // Its exit was lost, and the next one's fork.
    host.exec(120, 200, 119, 0x2, "/usr/sbin/cron");
    host.check((200, 0x2, 121), Some(("cron", &["systemd"])));
    host.check((200, 0x1, 110), Some(("psql", &["bash", "systemd"])));
    assert_eq!(host.table.counters().missed_exits, 1);

    // Everything about its end was lost: procfs shows that another holds the pid of the shell.
    host.remove(50);
    Seeded { start: 200, comm: "nginx", ..SHELL }.write(host.procfs.path());
    host.check((50, 0x5, 250), Some(("nginx", &["systemd"])));
    // A seeding again finds the same out at once.
    host.remove(50);
    Seeded { start: 300, comm: "redis", ..SHELL }.write(host.procfs.path());
    host.table.seed(tick(310)).unwrap();
    host.check((50, 0x6, 320), Some(("redis", &["systemd"])));
}

#[test]
fn the_true_parents_survive_a_double_fork() {
    let mut host = Host::unified();
    host.fork(100, 50, 200, 0x1);
    host.exec(100, 200, 100, 0x1, "/usr/bin/claude");
    host.fork(101, 200, 201, 0x2);
    host.fork(102, 201, 202, 0x3);
    host.exit(103, 201, 0x2);
    host.exit(103, 200, 0x1);
    host.exec(104, 202, 102, 0x3, "/usr/bin/psql");
    host.check((202, 0x3, 105), Some(("psql", &["claude", "claude", "bash", "systemd"])));
    // A seeding, for which its parent is 1, doesn't forget them.
    Seeded { pid: 202, parent: 1, start: 102, comm: "psql", ..SHELL }.write(host.procfs.path());
    host.table.seed(tick(106)).unwrap();
    host.check((202, 0x3, 107), Some(("psql", &["claude", "claude", "bash", "systemd"])));
}

#[test]
fn records_from_before_the_seeding_agree_with_it() {
    let mut host = Host::unified();
    Seeded { pid: 202, parent: 1, start: 102, comm: "psql", ..SHELL }.write(host.procfs.path());
    host.table.seed(tick(106)).unwrap();
    // Within the same tick, exact to the nanosecond now.
    let start = BootTime(tick(102).0 + 123);
    let (time, parent, child) = (start, 50, 202);
    host.table.apply(&ProcessEvent::Fork { time, parent, child, start, key: 0x3 });
    host.check((202, 0x3, 107), Some(("psql", &["bash", "systemd"])));
    assert_eq!(host.resolve(202, 0x3, 107).unwrap().start, tick(102));
}

#[test]
fn a_child_without_exec_is_what_its_parent_is() {
    let mut host = Host::unified();
    host.fork(100, 50, 200, 0x1);
    host.exec(100, 200, 100, 0x1, "/usr/bin/python3");
    host.fork(110, 200, 201, 0x2);
    host.exit(111, 201, 0x2);
    let worker = host.resolve(201, 0x2, 110).unwrap();
    assert_eq!(worker.exe.as_deref(), Some("/usr/bin/python3"));
    assert_eq!(worker.command.as_deref(), Some("arg0 arg1"));
    assert_eq!(worker.unit.as_deref(), Some("job.service"));
    host.check((201, 0x2, 110), Some(("python3", &["python3", "bash", "systemd"])));

    // While it lives, what it changed of itself is read from procfs.
    host.fork(120, 200, 202, 0x3);
    Seeded {
        pid: 202,
        parent: 200,
        start: 120,
        uid: 0,
        comm: "python3",
        cgroup: "0::/system.slice/other.service\n",
    }
    .write(host.procfs.path());
    let worker = host.resolve(202, 0x3, 121).unwrap();
    assert_eq!(worker.uid, Some(0));
    assert_eq!(worker.unit.as_deref(), Some("other.service"));
    assert_eq!(worker.exe.as_deref(), Some("/usr/bin/python3"));
}

#[test]
fn a_servers_own_children_live_and_run_what_it_runs() {
    let mut host = Host::unified();
    host.fork(100, 50, 200, 0x1);
    host.exec(100, 200, 100, 0x1, "/usr/lib/postgresql/15/bin/postgres");
    host.fork(110, 200, 201, 0x2); // a backend
    host.fork(111, 200, 202, 0x3); // one that has ended
    host.exit(112, 202, 0x3);
    host.fork(113, 200, 203, 0x4); // an archive command
    host.exec(114, 203, 113, 0x4, "/bin/sh");
    host.fork(115, 201, 204, 0x5); // a child's child
    host.fork(116, 50, 205, 0x6); // somebody else's
    assert_eq!(host.table.own_children(200), [201]);
    // The pid's next holder has none of them.
    host.exit(120, 200, 0x1);
    host.fork(130, 50, 200, 0x7);
    assert!(host.table.own_children(200).is_empty());
    assert!(host.table.own_children(999).is_empty());
}

#[test]
fn a_connection_belongs_to_what_ran_when_it_was_made() {
    let mut host = Host::unified();
    host.fork(100, 50, 200, 0x1);
    host.exec(110, 200, 100, 0x1, "/usr/bin/wrapper");
    host.exec(120, 200, 100, 0x1, "/usr/bin/psql");
    host.check((200, 0x1, 125), Some(("psql", &["bash", "systemd"])));
    host.check((200, 0x1, 115), Some(("wrapper", &["bash", "systemd"])));
    // Two execs ago: the process is certain, its program is not.
    host.check((200, 0x1, 105), Some(("", &["bash", "systemd"])));
}

#[test]
fn an_ancestor_is_what_it_was_when_it_forked() {
    let mut host = Host::unified();
    host.fork(100, 50, 200, 0x1);
    host.exec(100, 200, 100, 0x1, "/usr/bin/agent");
    host.fork(110, 200, 201, 0x2);
    host.exec(120, 200, 100, 0x1, "/usr/bin/innocent");
    host.fork(130, 200, 202, 0x3);
    for (pid, key) in [(201, 0x2), (202, 0x3)] {
        host.exec(140, pid, if pid == 201 { 110 } else { 130 }, key, "/usr/bin/psql");
    }
    host.check((201, 0x2, 150), Some(("psql", &["agent", "bash", "systemd"])));
    host.check((202, 0x3, 150), Some(("psql", &["innocent", "bash", "systemd"])));
}

#[test]
fn one_process_is_described_once() {
    let mut host = Host::unified();
    host.fork(100, 50, 200, 0x1);
    host.exec(100, 200, 100, 0x1, "/usr/bin/psql");
    let (first, second) = (host.resolve(200, 1, 101).unwrap(), host.resolve(200, 1, 109).unwrap());
    assert!(Arc::ptr_eq(&first, &second));
    // The kernel may say that it has another uid by now.
    let peer = Peer { pid: 200, key: 0x1, at: tick(110), uid: Some(0) };
    let changed = host.table.resolve(peer, Clock::default()).unwrap();
    assert_eq!((changed.uid, changed.os_user.as_deref()), (Some(0), Some("root")));
    assert_eq!(first.uid, Some(1000));
}

#[test]
fn version_1_cgroups_come_from_procfs_or_from_an_ancestor() {
    const V1: &str = "4:memory:/x\n1:name=systemd:/\n0::/\n";
    let shell = || Seeded { cgroup: "1:name=systemd:/system.slice/ssh.service\n0::/\n", ..SHELL };
    let init = || Seeded { cgroup: V1, ..INIT };
    let mut host = Host::new(Limits::default(), V1, &[init(), shell()]);
    for (pid, key) in [(200, 0x1), (201, 0x2)] {
        host.fork(100, 50, pid, key);
        host.table.apply(&exec(100, pid, 100, key, "/usr/bin/psql", b"/"));
    }
    // Gone: the nearest ancestor's.
    host.exit(101, 200, 0x1);
    assert_eq!(host.resolve(200, 0x1, 100).unwrap().unit.as_deref(), Some("ssh.service"));
    // Alive: its own.
    let cgroup = "1:name=systemd:/system.slice/own.service\n0::/\n";
    Seeded { pid: 201, parent: 50, start: 100, cgroup, ..SHELL }.write(host.procfs.path());
    assert_eq!(host.resolve(201, 0x2, 101).unwrap().unit.as_deref(), Some("own.service"));
    // Alive, but procfs already shows the pid's next holder.
    host.fork(100, 1, 202, 0x3);
    host.table.apply(&exec(100, 202, 100, 0x3, "/usr/bin/psql", b"/"));
    Seeded { pid: 202, parent: 50, start: 150, cgroup, ..SHELL }.write(host.procfs.path());
    let process = host.resolve(202, 0x3, 101).unwrap();
    assert_eq!((process.cgroup.as_deref(), process.unit.as_deref()), (Some("/"), None));
}

#[test]
fn a_path_that_names_no_file_is_read_from_procfs_while_the_process_lives() {
    for (filename, exe) in [
        ("./psql", "/usr/bin/bash"),
        ("/dev/fd/3", "/usr/bin/bash"),
        ("/usr/../home/x/psql", "/usr/bin/bash"),
        ("/opt/psql", "/opt/psql"),
    ] {
        let mut host = Host::unified();
        host.table.apply(&exec(100, 50, 5, 0x1, filename, b"/a.slice/b.service"));
        assert_eq!(host.resolve(50, 1, 101).unwrap().exe.as_deref(), Some(exe), "{filename}");
        host.table.apply(&exec(110, 50, 5, 0x1, filename, b"/a.slice/b.service"));
        host.exit(120, 50, 0x1);
        assert_eq!(host.resolve(50, 1, 111).unwrap().exe.as_deref(), Some(filename), "{filename}");
    }
}

#[test]
fn a_process_that_no_record_told_of_is_read_if_it_surely_was_there() {
    let mut host = Host::unified();
    Seeded { pid: 300, parent: 50, start: 100, comm: "late", ..SHELL }.write(host.procfs.path());
    host.check((300, 0x1, 99), None);
    host.check((300, 0x1, 100), None); // born in this tick, perhaps after
    host.check((300, 0x1, 101), Some(("late", &["bash", "systemd"])));
    host.check((301, 0x1, 101), None);
    let Counters { from_procfs, unresolved, .. } = host.table.counters();
    assert_eq!((from_procfs, unresolved), (1, 3));
}

#[test]
fn the_table_is_bounded() {
    let limits = Limits { live: 4, exited: 3 };
    let mut host = Host::new(limits, "0::/\n", &[INIT, SHELL]);
    for n in 0..10 {
        let (pid, key) = (200 + n % 2, u64::from(n) + 1);
        host.fork(100 + u64::from(n), 50, pid, key);
        host.exec(100 + u64::from(n), pid, 100 + u64::from(n), key, "/usr/bin/psql");
        host.exit(100 + u64::from(n), pid, key);
    }
    assert_eq!(host.table.len(), (2, 3));
    assert_eq!(host.table.counters().evicted, 7);
    // The oldest went first.
    for n in 0..10 {
        let known = Some(("psql", &["bash", "systemd"][..])).filter(|_| n >= 7);
        host.check((200 + n % 2, u64::from(n) + 1, 100 + u64::from(n)), known);
    }
    // No room for a third and fourth running one, but procfs still knows them.
    for pid in 400..404 {
        host.fork(200, 50, pid, pid.into());
    }
    assert_eq!(host.table.len(), (4, 3));
    assert_eq!(host.table.counters().refused, 2);
    Seeded { pid: 403, parent: 50, start: 200, comm: "full", ..SHELL }.write(host.procfs.path());
    host.check((403, 403, 210), Some(("full", &["bash", "systemd"])));
    assert_eq!(host.table.len(), (4, 3));
}

#[test]
fn this_host() {
    let mut table = ProcessTable::new(
        Limits::default(),
        Procfs::default(),
        Users::of_passwd(PASSWD, BootTime(0)),
    );
    table.seed(BootTime(0)).unwrap();
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    let at = BootTime((now.tv_sec() * 1_000_000_000 + now.tv_nsec()).try_into().unwrap());
    let pid = std::process::id();
    let me = table.resolve(Peer { pid, key: 0x1, at, uid: None }, Clock::default()).unwrap();
    let exe = std::env::current_exe().unwrap();
    assert_eq!(me.exe.as_deref(), exe.to_str());
    assert_eq!(me.uid, Some(nix::unistd::getuid().as_raw()));
    assert_eq!(me.parents[0].pid, std::os::unix::process::parent_id());
    assert!(me.command.is_some());
    assert!(me.start < at);
}
