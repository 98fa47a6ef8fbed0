//! The whole conversation over real sockets: who is let in, what is answered, who is too slow.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use super::{Access, Client, ClientError, Filter, Hooks, Listener, Service, Snapshot, serve};
use crate::event::{
    ConnectionId, Engine, Lane, Origin, PrincipalKind, Record, StatementKind, Transport, WallTime,
};

/// A statement of psql as user `alice`, 1.5 ms long.
pub(super) fn record() -> Record {
    Record {
        time: WallTime(1_764_000_000_000_000),
        duration_us: Some(1_500),
        first_byte_us: Some(1_000),
        origin: Arc::new(origin()),
        sequence: 1,
        claims: None,
        text: Some("select 1".into()),
        standard_conforming_strings: Some(true),
        parameters: Vec::new(),
        kind: StatementKind::Simple,
        facts: None,
        keys: Vec::new(),
        rows: Some(1),
        bytes_in: 14,
        bytes_out: 60,
        error_code: None,
        error_message: None,
        redacted_error: None,
        transaction: None,
        judgement: None,
        approval: None,
        masked: Arc::default(),
        truncated_bytes: 0,
        lost_bytes: 0,
        joined_midstream: false,
    }
}

fn origin() -> Origin {
    Origin {
        host: "db1".into(),
        server: Some("main".into()),
        engine: Some(Engine::Postgresql),
        server_port: Some(5_432),
        transport: Some(Transport::Unix),
        lane: Some(Lane::Observed),
        connection: Some(ConnectionId(1)),
        database: Some("orders".into()),
        db_user: Some("shop".into()),
        application: Some("psql".into()),
        principal: Some("claude-code".into()),
        principal_kind: Some(PrincipalKind::Ai),
        initiator: Some("carol".into()),
        pid: Some(100),
        exe: Some("/usr/bin/psql".into()),
        command: Some("psql orders".into()),
        uid: Some(1_000),
        os_user: Some("alice".into()),
        ..Origin::default()
    }
}

/// A service with nothing to watch, on a socket in a temporary directory.
struct Served {
    service: Arc<Service>,
    socket: PathBuf,
    server: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        Self::start_for(None)
    }

    fn start_for(group: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let listener = Listener::bind(&socket, Access::new(group).unwrap()).unwrap();
        let service = Arc::new(Service::new().unwrap());
        let server = std::thread::spawn({
            let service = service.clone();
            move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(serve(listener, "db1", service)).unwrap();
            }
        });
        Self { service, socket, server: Some(server), _directory: directory }
    }

    fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// Waits until as many watch.
    async fn watched_by(&self, watchers: usize) {
        while self.service.live.watchers() != watchers {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.service.ended.request();
        if let Some(server) = self.server.take() {
            server.join().unwrap();
        }
    }
}

fn raw(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn each_path_answers_and_no_other() {
    let served = Served::start();
    for (request, status, words) in [
        (
            "GET /v1",
            "200 OK",
            "\"paths\":[\"/v1\",\"/v1/approvals\",\"/v1/labels\",\"/v1/quarantine\",\"/v1/query\",\"/v1/status\",\"/v1/watch\",\"/v1/whois\"]",
        ),
        ("GET /v2/status", "404 Not Found", "no such path: /v2/status; there are /v1"),
        ("POST /v1/status", "405 Method Not Allowed", "only GET is understood"),
        ("GET /v1/labels", "200 OK", "[]"),
        ("POST /v1/labels", "400 Bad Request", "can't be understood"),
        ("GET /v1/quarantine", "200 OK", "[]"),
        ("POST /v1/quarantine", "400 Bad Request", "can't be understood"),
        ("GET /v1/approvals?al=1", "400 Bad Request", "is not understood"),
        ("GET /v1/query", "405 Method Not Allowed", "only POST is understood here"),
        ("POST /v1/query", "404 Not Found", "this service keeps no ledger"),
        ("GET /v1/watch?usr=1", "400 Bad Request", "unknown filter usr"),
        ("GET /v1/whois", "400 Bad Request", "say who: /v1/whois?who=4711"),
        ("GET /v1/whois?who=bob", "400 Bad Request", "is nobody that can be asked about"),
    ] {
        let answer = raw(&served.socket, &format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {answer}");
        assert!(answer.contains(words), "{request}: {answer}");
    }
    assert!(raw(&served.socket, "hello\r\n\r\n").starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn garbage_ends_one_conversation_and_no_other() {
    let served = Served::start();
    for garbage in [vec![0; 1 << 16], vec![b'x'; 1 << 20], b"GET /v1/watch HTTP/1.1\r\n".to_vec()] {
        let mut stream = UnixStream::connect(&served.socket).unwrap();
        // The service may hang up in the middle of it.
        let _ = stream.write_all(&garbage);
    }
    served.client().watch(&Filter::default()).await.unwrap();
}

#[tokio::test]
async fn status_is_the_pipelines_word() {
    let served = Served::start();
    let pipeline = std::thread::spawn({
        let service = served.service.clone();
        move || {
            while !service.status.wanted() {
                std::thread::yield_now();
            }
            let hooks = Hooks { set: "tp_btf".into(), why: "best of this kernel".into() };
            service.status.answer(Snapshot { hooks, processes: 12, ..Snapshot::default() });
        }
    });
    let status = served.client().status().await.unwrap();
    pipeline.join().unwrap();
    assert_eq!((status.capture.processes, status.stale), (12, false));
    assert_eq!((status.pid, status.host.as_str()), (std::process::id(), "db1"));
    assert!(status.agent.memory_bytes > 0);
}

#[tokio::test]
async fn a_watcher_sees_what_its_filter_lets_through() {
    let served = Served::start();
    let filter = Filter { user: Some("shop".into()), ..Filter::default() };
    let mut lines = served.client().watch(&filter).await.unwrap();
    served.watched_by(1).await;
    served.service.live.publish(|| {
        let origin = Origin { db_user: Some("other".into()), ..origin() };
        Arc::new(Record { origin: Arc::new(origin), ..record() })
    });
    served.service.live.publish(|| Arc::new(record()));
    let line: serde_json::Value =
        serde_json::from_slice(lines.next().await.unwrap().unwrap()).unwrap();
    assert_eq!((&line["db_user"], &line["text"]), (&"shop".into(), &"select 1".into()));

    drop(lines);
    served.watched_by(0).await;
}

#[tokio::test]
async fn the_end_is_announced() {
    let served = Served::start();
    let mut lines = served.client().watch(&Filter::default()).await.unwrap();
    served.watched_by(1).await;
    served.service.end(WallTime(0));
    let line: serde_json::Value =
        serde_json::from_slice(lines.next().await.unwrap().unwrap()).unwrap();
    assert_eq!(line["notice"], "stopping");
}

/// It reads nothing while far more is published than fits anywhere, then finds the first lines, the
/// count of the missed, and that both add up.
#[tokio::test]
async fn a_client_that_does_not_read_loses_lines_and_is_told_how_many() {
    const PUBLISHED: usize = 40_000;
    let served = Served::start();
    let mut stream = UnixStream::connect(&served.socket).unwrap();
    stream.write_all(b"GET /v1/watch HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    served.watched_by(1).await;
    for _ in 0..PUBLISHED {
        served.service.live.publish(|| Arc::new(record()));
    }
    assert!(served.service.live.missed() > 0);

    // What comes after the hole says how large it was.
    served.service.live.publish(|| Arc::new(record()));
    let service = served.service.clone();
    let counted = tokio::task::spawn_blocking(move || {
        let (mut shown, mut missed) = (0, 0);
        let mut lines = BufReader::new(stream).lines();
        while shown + missed < PUBLISHED + 1 {
            let line = lines.next().unwrap().unwrap();
            // Between the lines stand HTTP's head and the lengths of its chunks.
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            shown += usize::from(line.get("sequence").is_some());
            missed += line.get("missed").map_or(0, |n| n.as_u64().unwrap() as usize);
        }
        (shown, missed)
    });
    let (shown, missed) = counted.await.unwrap();
    assert_eq!(missed as u64, service.live.missed());
    assert_eq!(shown + missed, PUBLISHED + 1);
}

/// Another user connects, in the group and not, and is let in or told why not.
#[test]
fn another_user_needs_the_group() {
    use rustix::{
        fs::{Gid, Uid},
        thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
    };
    use std::os::unix::fs::PermissionsExt;

    if !rustix::process::geteuid().is_root() {
        return; // Only root can become somebody else; `cargo xtask test` says what that leaves out.
    }
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for (group, groups, expected) in [
        (None, vec![], "uid 65534 may not ask this agent: only root may"),
        (Some("root"), vec![65_534], "uid 65534 may not ask this agent: only root and the group"),
        (Some("root"), vec![1, 0], "\"paths\""),
    ] {
        let served = Served::start_for(group);
        // So that it is the peer that is refused and not already the file's mode.
        allow(served.socket.parent().unwrap(), 0o755);
        allow(&served.socket, 0o666);
        let socket = served.socket.clone();
        // Linux keeps credentials by thread, and this one ends as somebody else.
        let asked = std::thread::spawn(move || {
            let (uid, gid) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
            let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
            set_thread_groups(&groups).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            raw(&socket, "GET /v1 HTTP/1.1\r\nhost: x\r\n\r\n")
        });
        let answer = asked.join().unwrap();
        assert!(answer.contains(expected), "{group:?}: {answer}");
    }
}

#[tokio::test]
async fn who_can_not_reach_it_reads_why() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent.sock");
    let error = Client::new(&absent).status().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    assert!(error.to_string().contains("is the service running"), "{error}");

    let stale = directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let error = Client::new(&stale).status().await.unwrap_err();
    assert!(error.to_string().contains("nobody listens there"), "{error}");
}
