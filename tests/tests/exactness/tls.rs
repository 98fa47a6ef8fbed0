//! The plaintext of a TLS library's calls, and none of the ciphertext below them.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context, Result};
use dbwarden::{
    capture::TlsLibrary,
    event::{Direction, Layer, SocketId},
};
use dbwarden_tests::{Certificates, need_root, python, said};

use crate::{
    mover::{Mover, netns},
    watched::{BOTH, SERVER, Watched, everything},
};

/// Echoes on each connection, by calls of the library's functions of both kinds. Its buffer is small, so
/// that most reads are answered from a record that the library holds already. It says each `SSL *`.
const TLS_SERVER: &str = r#"
import ctypes as c, socket, sys, threading
ssl = c.CDLL("libssl.so.3")
for name in ["TLS_server_method", "SSL_CTX_new", "SSL_new"]:
    getattr(ssl, name).restype = c.c_void_p
context = c.c_void_p(ssl.SSL_CTX_new(c.c_void_p(ssl.TLS_server_method())))
assert ssl.SSL_CTX_use_certificate_chain_file(context, sys.argv[1].encode()) == 1
assert ssl.SSL_CTX_use_PrivateKey_file(context, sys.argv[2].encode(), 1) == 1

def serve(connection, number):
    address = ssl.SSL_new(context)
    session = c.c_void_p(address)
    ssl.SSL_set_fd(session, connection.fileno())
    assert ssl.SSL_accept(session) == 1
    buffer, n = c.create_string_buffer(700), c.c_size_t()
    while True:
        if number % 2:
            if ssl.SSL_read_ex(session, buffer, c.c_size_t(700), c.byref(n)) != 1: break
            assert ssl.SSL_write_ex(session, buffer, n, c.byref(n)) == 1
        else:
            read = ssl.SSL_read(session, buffer, 700)
            if read <= 0: break
            assert ssl.SSL_write(session, buffer, read) == read
    ssl.SSL_free(session)
    connection.close()
    print(address, flush=True)

listener = socket.create_server(("127.0.0.1", 0), backlog=64)
print(listener.getsockname()[1], flush=True)
number = 0
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection, number), daemon=True).start()
    number += 1
"#;

/// Connections one after the other, then several at once; each sends its own text and awaits the echo.
const TLS_CLIENT: &str = r#"
import socket, ssl, sys, threading
context = ssl.create_default_context(cafile=sys.argv[2])
context.check_hostname = False
def talk(number):
    text = b"".join(b"connection %d line %d\n" % (number, line) for line in range(3000))
    raw = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    with context.wrap_socket(raw) as stream:
        # What is on its way at once fits into the sockets' buffers: one thread does both.
        for at in range(0, len(text), 20000):
            part = text[at:at + 20000]
            stream.sendall(part)
            left = len(part)
            while left: left -= len(stream.recv(left))
for number in range(8): talk(number)
threads = [threading.Thread(target=talk, args=(8 + n,)) for n in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"#;

#[test]
fn plaintext_of_tls_and_nothing_of_its_ciphertext() -> Result<()> {
    need_root!();
    const N_CONNECTIONS: usize = 14;
    let folder = tempfile::tempdir()?;
    let certificates = Certificates::create(folder.path())?;
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut command = python()?;
        // Its threads share one heap, so that a session is soon made where another was.
        command.args(["-c", TLS_SERVER]).env("MALLOC_ARENA_MAX", "1");
        command.arg(&certificates.certificate).arg(&certificates.key).stdout(Stdio::piped());
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let commands = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut server = Mover { child, commands, answers };
        let mut port = String::new();
        server.answers.read_line(&mut port)?;
        watched.track(server.pid())?;
        watched.capture.listen(netns()?, port.trim().parse()?, SERVER)?;
        watched.capture.watch_tls(&libssl(server.pid())?)?;

        said(python()?.args(["-c", TLS_CLIENT]).arg(port.trim()).arg(&certificates.authority))?;
        let mut sessions = Vec::new();
        for _ in 0..N_CONNECTIONS {
            let mut session = String::new();
            server.answers.read_line(&mut session)?;
            sessions.push(session);
        }
        let mut addresses = sessions.clone();
        addresses.sort_unstable();
        addresses.dedup();
        assert!(addresses.len() < sessions.len(), "no address of a session was used again");

        watched.look()?;
        let inbound: Vec<SocketId> =
            watched.seen.opened.iter().filter(|one| one.inbound).map(|one| one.socket).collect();
        assert_eq!(inbound.len(), N_CONNECTIONS);
        let mut numbers = Vec::new();
        for socket in inbound {
            let whole = |direction| -> Result<String> {
                let runs = watched.seen.runs(socket, direction, Layer::Tls)?;
                let [(0, plaintext)] = runs.as_slice() else {
                    anyhow::bail!("{} runs", runs.len())
                };
                Ok(String::from_utf8(plaintext.clone())?)
            };
            let request = whole(Direction::Request)?;
            let number = request.split(' ').nth(1).context("no number")?.to_owned();
            let lines = (0..3000).map(|line| format!("connection {number} line {line}\n"));
            assert!(request == lines.collect::<String>(), "{hooks:?}: connection {number}");
            assert!(whole(Direction::Response)? == request, "{hooks:?}: connection {number}");
            numbers.push(number.parse::<usize>()?);
            for direction in [Direction::Request, Direction::Response] {
                let handshake = watched.seen.runs(socket, direction, Layer::Socket)?;
                let n_bytes: usize = handshake.iter().map(|(_, run)| run.len()).sum();
                assert!(n_bytes < 8000, "{hooks:?}: {n_bytes} bytes of ciphertext");
            }
        }
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..N_CONNECTIONS));
        assert!(watched.capture.drops().iter().all(|(_, count)| count.events == 0));
    }
    Ok(())
}

fn libssl(pid: u32) -> Result<TlsLibrary> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let path =
        PathBuf::from(path.into_iter().find(|path| path.contains("libssl")).context("no libssl")?);
    let file = path.metadata()?;
    let name = path.display().to_string();
    Ok(TlsLibrary { is_crypto: false, path, name, device: file.dev(), inode: file.ino() })
}
