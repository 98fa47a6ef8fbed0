//! Discovery against real servers and against processes that pretend to be some.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{PermissionsExt, chown, symlink},
            net::UnixListener,
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, User, getuid, mkfifo},
};
use tempfile::TempDir;

use super::{libraries::tls_libraries, *};
use crate::{
    event::{BootTime, ProcessEvent},
    identity::{Procfs, ProcfsError},
};

const BIN: &str = "/usr/lib/postgresql/15/bin";
const NOBODY: u32 = 65534;
const DAEMON: u32 = 1;

/// Ends the process with the test.
struct Running {
    child: Child,
    /// The child itself, or the one process below it.
    pid: u32,
}

impl Running {
    fn new(child: Child) -> Running {
        Running { pid: child.id(), child }
    }

    fn stop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGINT);
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A postmaster takes its children along on this signal; the others just end.
        self.stop();
    }
}

fn root() -> bool {
    let root = getuid().is_root();
    if !root {
        eprintln!("skipped: only root can start processes of other accounts");
    }
    root
}

/// A directory that everybody can pass through.
fn open_directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Makes clusters in a directory and starts servers on them.
struct Clusters {
    dir: TempDir,
    uid: u32,
    gid: u32,
}

impl Clusters {
    /// With one cluster made by `initdb`; `None`, said why, where that can't be.
    fn new() -> Option<Clusters> {
        let user = User::from_name("postgres").ok().flatten();
        let (true, true, Some(user)) = (root(), Path::new(BIN).join("initdb").exists(), user)
        else {
            eprintln!("skipped: needs root, PostgreSQL in {BIN} and its account `postgres`");
            return None;
        };
        let dir = open_directory();
        let clusters = Clusters { dir, uid: user.uid.as_raw(), gid: user.gid.as_raw() };
        chown(clusters.dir.path(), Some(clusters.uid), Some(clusters.gid)).unwrap();
        let output = clusters
            .command(&format!("{BIN}/initdb"))
            .args(["--no-sync", "--auth=trust", "-D"])
            .arg(clusters.data("first"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(clusters)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.uid(self.uid).gid(self.gid).current_dir(self.dir.path());
        command
    }

    fn copy(&self, name: &str) {
        let status =
            Command::new("cp").arg("-a").args([self.data("first"), self.data(name)]).status();
        assert!(status.unwrap().success());
    }

    /// Starts a server by `command`, and waits until it is ready.
    fn start(&self, mut command: Command, data: &str, port: u16, addresses: &str) -> Running {
        let child = command
            .args(["-h", addresses, "-p", &port.to_string(), "-F", "-D"])
            .arg(self.data(data))
            .arg("-k")
            .arg(self.dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut server = Running::new(child);
        let mut log = String::new();
        let mut stderr = BufReader::new(server.child.stderr.take().unwrap());
        while !log.contains("ready to accept connections") {
            assert_ne!(stderr.read_line(&mut log).unwrap(), 0, "{log}");
        }
        // It goes on writing there.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        server
    }

    fn start_here(&self, data: &str, port: u16) -> Running {
        self.start(self.command(&format!("{BIN}/postgres")), data, port, "127.0.0.1")
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn real_servers_are_found_with_all_facts() {
    let Some(clusters) = Clusters::new() else { return };
    let procfs = Procfs::default();
    let own = namespaces_of_agent(&procfs).unwrap();
    clusters.copy("second");
    clusters.copy("third");
    let (first_port, second_port) = (free_port(), free_port());
    let mut first = clusters.start_here("first", first_port);
    let second = clusters.start_here("second", second_port);
    // In network, mount and pid namespaces of its own, as a container has.
    let mut apart = Command::new("unshare");
    apart
        .args(["--net", "--mount", "--pid", "--fork", "--setgid", &clusters.gid.to_string()])
        .args(["--setuid", &clusters.uid.to_string(), "--", &format!("{BIN}/postgres")]);
    let mut third = clusters.start(apart, "third", first_port, "*");
    let children = format!("/proc/{0}/task/{0}/children", third.pid);
    third.pid = fs::read_to_string(children).unwrap().trim().parse().unwrap();

    // Somebody gives the first one's socket another path, in the kernel's table as it is printed.
    let socket =
        inspect(&procfs, first.pid, &[]).unwrap().listeners.into_iter().find_map(|listener| {
            match listener {
                Listener::Unix { inode, .. } => Some(inode),
                Listener::Tcp { .. } => None,
            }
        });
    let evil = format!("x\n0: 2 0 00010000 1 1 {} @evil", socket.unwrap());
    let _forger = UnixListener::bind(clusters.data(&evil)).unwrap();
    assert!(fs::read_to_string("/proc/net/unix").unwrap().contains(&evil));

    let rules = [ServerRule {
        name: Some("billing".into()),
        data_directory: Some(clusters.data("second")),
        ..ServerRule::default()
    }];
    let mine = [&first, &second, &third].map(|server| server.pid);
    let mut found: Vec<Server> = candidates(&procfs, &rules)
        .unwrap()
        .into_iter()
        .filter_map(|pid| inspect(&procfs, pid, &rules).ok())
        .filter(|server| mine.contains(&server.pid))
        .collect();
    found.sort_by_key(|server| server.start);
    assert_eq!(found.iter().map(|server| server.pid).collect::<Vec<_>>(), mine);

    let mut names = Names::new(own.net);
    let mut given = Vec::new();
    for (server, (data, port, address)) in found.iter().zip([
        ("first", first_port, "127.0.0.1"),
        ("second", second_port, "127.0.0.1"),
        ("third", first_port, "0.0.0.0"),
    ]) {
        assert_eq!(server.trust, Trust::Verified);
        assert_eq!(server.exe, Path::new(BIN).join("postgres"));
        assert_eq!(server.version, "15");
        assert_eq!(server.data_directory, clusters.data(data));
        assert!(server.cluster.is_some());
        assert_eq!(server.uid, clusters.uid);
        assert_eq!(server.port(), Some(port));
        assert_eq!(server.namespaces.net == own.net, data != "third");
        assert_eq!(server.namespaces.mount == own.mount, data != "third");
        let has = |wanted: &dyn Fn(&Listener) -> bool| server.listeners.iter().any(wanted);
        let expected = format!("{address}:{port}").parse().unwrap();
        assert!(has(&|l| matches!(l, Listener::Tcp { address, .. } if *address == expected)));
        let expected = clusters.data(&format!(".s.PGSQL.{port}"));
        assert!(has(&|l| matches!(l, Listener::Unix { path, .. } if *path == expected)));
        assert!(!has(&|l| matches!(l, Listener::Unix { path, .. } if path.ends_with("@evil"))));
        let library = &server.tls[0];
        assert!(!library.deleted);
        assert_eq!(
            fs::read(&library.path).unwrap().len() as u64,
            library.open(&procfs).unwrap().metadata().unwrap().len()
        );
        assert!(
            descendants(&procfs, server.pid).unwrap().len() >= 5,
            "{:?}",
            descendants(&procfs, server.pid).unwrap()
        );
        for child in &descendants(&procfs, server.pid).unwrap() {
            let refusal = inspect(&procfs, *child, &[]).unwrap_err();
            let own_pid = if data == "third" { 1 } else { server.pid.into() };
            assert!(
                matches!(refusal, Refusal::NotPostmaster { postmaster } if postmaster == own_pid),
                "{refusal}"
            );
        }
        given.push(names.assign(server, &rules));
    }
    assert_eq!(*given[0], *format!("pg-{first_port}"));
    assert_eq!(*given[1], *"billing");
    assert!(given[2].starts_with(&format!("pg-{first_port}-")), "{}", given[2]);

    // The first one is stopped, and started again.
    let mut watcher = Watcher::new(&rules);
    assert!(watcher.looked(found[0].pid, Ok(&found[0]), BootTime(1)));
    assert!(!watcher.looked(found[0].pid, Ok(&found[0]), BootTime(1)));
    first.stop();
    let exit = ProcessEvent::Exit { time: BootTime(0), pid: first.pid, key: 0 };
    assert_eq!(watcher.take(&exit), Some(first.pid));
    names.release(&given[0]);
    assert!(matches!(inspect(&procfs, first.pid, &rules), Err(Refusal::Unreadable(_))));
    let again = clusters.start_here("first", first_port);
    let server = inspect(&procfs, again.pid, &rules).unwrap();
    assert!(watcher.looked(again.pid, Ok(&server), BootTime(0)));
    assert_eq!(names.assign(&server, &rules), given[0]);
    assert!(missing(&rules, &found).is_empty());
}

/// A copy of `cat` that is called `postgres`, in a directory made to look like a data directory.
struct Pretender {
    _dir: TempDir,
    exe: PathBuf,
    data: PathBuf,
}

impl Pretender {
    fn new(exe_owner: u32, exe_mode: u32, data_owner: u32) -> Pretender {
        let dir = open_directory();
        let (exe, data) = (dir.path().join("postgres"), dir.path().join("data"));
        fs::copy("/bin/cat", &exe).unwrap();
        chown(&exe, Some(exe_owner), Some(exe_owner)).unwrap();
        fs::set_permissions(&exe, fs::Permissions::from_mode(exe_mode)).unwrap();
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
        chown(&data, Some(data_owner), Some(data_owner)).unwrap();
        Pretender { _dir: dir, exe, data }
    }

    /// Runs it as `uid`, by way of `through`, and waits until it runs.
    fn start(&self, uid: u32, through: &[&str], socket: Option<&TcpListener>) -> Running {
        let exe = self.exe.to_str().unwrap();
        let words: Vec<&str> = through.iter().copied().chain([exe]).collect();
        let (program, arguments) = words.split_first().unwrap();
        let mut command = Command::new(program);
        command.args(arguments).uid(uid).gid(uid).current_dir(&self.data);
        if let Some(socket) = socket {
            command.stderr(OwnedFd::from(socket.try_clone().unwrap()));
        }
        echo(&mut command)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.data.join(name), content).unwrap();
    }

    /// Everything that a server's data directory shows.
    fn furnish(&self, pid: u32) {
        self.write("PG_VERSION", "15\n");
        self.write("postmaster.pid", &format!("{pid}\n/data\n1\n5432\n\n*\n\nready\n"));
    }
}

/// Starts a program that copies its input to its output, and waits until it does.
fn echo(command: &mut Command) -> Running {
    let mut running =
        Running::new(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    running.child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    let mut byte = [0];
    running.child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");
    running
}

#[test]
fn ownership_decides_trust() {
    if !root() {
        return;
    }
    let procfs = Procfs::default();
    let own_exe = |uid| Doubt::ExecutableOwner { owner: uid, server: uid };
    let userns: &[&str] = &["unshare", "--user", "--"];
    type Case<'a> = (u32, u32, u32, u32, &'a [&'a str], Vec<Doubt>);
    // Executable's owner and mode, data's owner, who runs it, by way of what.
    let cases: [Case; 9] = [
        (0, 0o755, NOBODY, NOBODY, &[], vec![]),
        (DAEMON, 0o755, DAEMON, DAEMON, &[], vec![]),
        (NOBODY, 0o755, NOBODY, NOBODY, &[], vec![own_exe(NOBODY)]),
        (
            DAEMON,
            0o755,
            NOBODY,
            NOBODY,
            &[],
            vec![Doubt::ExecutableOwner { owner: DAEMON, server: NOBODY }],
        ),
        (0, 0o777, NOBODY, NOBODY, &[], vec![Doubt::ExecutableWritable { mode: 0o777 }]),
        (DAEMON, 0o775, DAEMON, DAEMON, &[], vec![Doubt::ExecutableWritable { mode: 0o775 }]),
        (0, 0o755, 0, NOBODY, &[], vec![Doubt::DataOwner { owner: 0, server: NOBODY }]),
        (0, 0o755, NOBODY, NOBODY, userns, vec![Doubt::UserNamespace]),
        (NOBODY, 0o755, NOBODY, NOBODY, userns, vec![own_exe(NOBODY), Doubt::UserNamespace]),
    ];
    for (owner, mode, data_owner, uid, through, doubts) in cases {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let pretender = Pretender::new(owner, mode, data_owner);
        let running = pretender.start(uid, through, Some(&socket));
        pretender.furnish(running.pid);
        let server = inspect(&procfs, running.pid, &[]).unwrap();
        let expected =
            if doubts.is_empty() { Trust::Verified } else { Trust::Unverified(doubts.clone()) };
        assert_eq!(server.trust, expected);
        assert_eq!(server.port(), Some(socket.local_addr().unwrap().port()));
        assert!(server.tls.is_empty());

        // A rule accepts a person's own executable, and nothing else.
        let rule = ServerRule {
            name: Some("billing".into()),
            executable: Some(pretender.exe.clone()),
            ..ServerRule::default()
        };
        let rules = [rule];
        let server = inspect(&procfs, running.pid, &rules).unwrap();
        let accepted = doubts.is_empty() || doubts == [own_exe(NOBODY)];
        assert_eq!(server.is_verified(), accepted, "{doubts:?}");
        let name = Names::new(server.namespaces.net).assign(&server, &rules);
        assert_eq!(*name == *"billing", accepted, "{name}");
    }
}

#[test]
fn a_name_makes_no_server() {
    if !root() {
        return;
    }
    let procfs = Procfs::default();
    let pretender = Pretender::new(NOBODY, 0o755, NOBODY);
    let data = &pretender.data;
    let running = pretender.start(NOBODY, &[], None);
    let refused = |expected: &str| {
        let refusal = inspect(&procfs, running.pid, &[]).unwrap_err();
        let text = refusal.to_string();
        assert!(text.contains(expected), "{text} for {expected}");
    };
    refused("no sound PG_VERSION");

    // None of these is opened, and none keeps us waiting.
    type Plant<'a> = (&'a str, &'a dyn Fn(&Path));
    let plant: [Plant; 6] = [
        ("a FIFO", &|path| mkfifo(path, Mode::from_bits_truncate(0o666)).unwrap()),
        ("a device", &|path| symlink("/dev/zero", path).unwrap()),
        ("a file of root's", &|path| symlink("/etc/shadow", path).unwrap()),
        ("a magic link", &|path| symlink("/proc/self/fd/0", path).unwrap()),
        ("a circle", &|path| symlink("PG_VERSION", path).unwrap()),
        ("a directory", &|path| fs::create_dir(path).unwrap()),
    ];
    for (what, plant) in plant {
        let path = data.join("PG_VERSION");
        plant(&path);
        refused("no sound PG_VERSION");
        let removed =
            if what == "a directory" { fs::remove_dir(path) } else { fs::remove_file(path) };
        removed.unwrap();
    }
    pretender.write("PG_VERSION", &"1".repeat(1 << 20));
    refused("no sound PG_VERSION");
    pretender.write("PG_VERSION", "15\n");
    refused("no sound postmaster.pid");
    pretender.write("postmaster.pid", &"\n".repeat(1 << 20));
    refused("no sound postmaster.pid");
    pretender.write("postmaster.pid", "1\n");
    refused("postmaster.pid names process 1");
    pretender.write("postmaster.pid", &format!("{}\n/data\n", running.pid));
    refused("starting");
    pretender.furnish(running.pid);
    refused("listens on no socket");

    // What a process calls itself is nothing to go by.
    let script = "printf postgres > /proc/$$/comm; read -r line; printf x; read -r line";
    let mut command = Command::new("/bin/bash");
    command.args(["-c", script, "postgres"]).current_dir(data);
    let mut renamed =
        Running::new(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    renamed.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    renamed.child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    assert_eq!(procfs.open(renamed.pid).unwrap().stat().unwrap().comm, b"postgres");
    let refusal = inspect(&procfs, renamed.pid, &[]).unwrap_err();
    assert!(matches!(refusal, Refusal::OtherProgram(_)), "{refusal}");
    assert!(!refusal.may_change());
    let _ = kill(Pid::from_raw(renamed.pid.cast_signed()), Signal::SIGKILL);
}

#[test]
fn a_library_replaced_by_an_upgrade_is_opened_as_it_runs() {
    let Some(libssl) = ["/lib/x86_64-linux-gnu/libssl.so.3", "/lib/aarch64-linux-gnu/libssl.so.3"]
        .into_iter()
        .find(|path| Path::new(path).exists())
    else {
        eprintln!("skipped: no libssl.so.3 to map");
        return;
    };
    let procfs = Procfs::default();
    let dir = open_directory();
    let copy = dir.path().join("libssl.so.3");
    fs::copy(libssl, &copy).unwrap();
    let running = echo(Command::new("/bin/cat").env("LD_PRELOAD", &copy));
    let libraries = || {
        let mut libraries = tls_libraries(&procfs.open(running.pid).unwrap()).unwrap();
        // It brings libcrypto along.
        libraries.retain(|library| !library.is_crypto);
        libraries
    };
    let content = |library: &TlsLibrary| {
        let mut content = Vec::new();
        library.open(&procfs).map(|mut file| file.read_to_end(&mut content).unwrap())?;
        Ok::<_, LibraryError>(content)
    };
    let before = libraries();
    assert_eq!(before.len(), 1);
    assert!(!before[0].deleted);
    assert!(content(&before[0]).unwrap() == fs::read(libssl).unwrap());

    fs::remove_file(&copy).unwrap();
    fs::write(&copy, b"the new version").unwrap();
    let after = libraries();
    assert_eq!((after.len(), after[0].deleted), (1, true));
    assert_eq!(after[0].file, before[0].file);
    match content(&after[0]) {
        Ok(content) => assert!(content == fs::read(libssl).unwrap()),
        Err(error) => {
            assert!(!getuid().is_root(), "{error}");
            eprintln!("skipped: opening a deleted library: {error}");
        }
    }
    // Nobody gets the new one in its place.
    if !getuid().is_root() {
        assert!(content(&before[0]).is_err());
    }
    drop(running);
    let gone = after[0].open(&procfs);
    assert!(matches!(gone, Err(LibraryError::Process { source: ProcfsError::Read { .. }, .. })));
}
