//! A receiver over HTTP that does as it is told, for tests.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use dbwarden_tests::{Certificates, Running, await_until};
use nix::sys::signal::Signal;

/// How it answers a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Status, further header lines, body.
    Http(u16, &'static str, Vec<u8>),
    /// It reads, and says nothing.
    Silence,
}

impl Reply {
    pub fn ok() -> Self {
        Self::Http(200, "", Vec::new())
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    /// Lines as they came, in lower case.
    pub head: Vec<String>,
    /// Values by name, as they came.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

pub struct Receiver {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// `reply` is told how many requests came before.
    pub fn start(reply: impl Fn(usize) -> Reply + Send + 'static) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), reply)
    }

    pub fn at(address: SocketAddr, reply: impl Fn(usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (got, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (got, ended) = (got.clone(), ended.clone());
            move || {
                // Kept open: a client that is told nothing shall wait.
                let mut silent = Vec::new();
                for stream in listener.incoming() {
                    if ended.load(Ordering::SeqCst) {
                        return;
                    }
                    let mut stream = stream.unwrap();
                    let Some(request) = read(&stream) else { continue };
                    let n_before = {
                        let mut got = got.lock().unwrap();
                        got.push(request);
                        got.len() - 1
                    };
                    match reply(n_before) {
                        Reply::Silence => silent.push(stream),
                        Reply::Http(status, lines, body) => {
                            let length = body.len();
                            let head = format!(
                                "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\
                                 connection: close\r\n{lines}\r\n"
                            );
                            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
                        }
                    }
                }
            }
        });
        Self { address, got, ended, thread: Some(thread) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.got.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // It looks when somebody comes.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let (mut lines, mut headers) = (Vec::new(), BTreeMap::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => {
                if let Some((name, value)) = line.split_once(": ") {
                    headers.insert(name.to_ascii_lowercase(), value.to_owned());
                }
                lines.push(line.to_ascii_lowercase());
            }
        }
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let path = lines.first()?.split(' ').nth(1)?.to_owned();
    Some(Request { path, head: lines, headers, body })
}

/// Answers every POST; if asked to, only to clients with a certificate of its authority.
const TLS_RECEIVER: &str = "
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers['content-length']))
        self.send_response(200)
        self.send_header('content-length', '0')
        self.end_headers()
    def log_message(self, *_): pass
authority, certificate, key, port_file, address, wants_client = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
if wants_client == 'true':
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
server = http.server.ThreadingHTTPServer((address, 0), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
with open(port_file + '.new', 'w') as f: f.write(str(server.server_port))
import os; os.rename(port_file + '.new', port_file)
server.serve_forever()
";

/// One on `address` that has the certificate of `own`, and its port.
pub fn over_tls(
    folder: &Path,
    own: &Certificates,
    address: &str,
    wants_client: bool,
) -> (Running, u16) {
    let port_file = folder.join(format!("port-{address}"));
    let mut command = Command::new("python3");
    command.args(["-c", TLS_RECEIVER]).args([&own.authority, &own.certificate, &own.key]);
    command.arg(&port_file).arg(address).arg(wants_client.to_string());
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let running = Running::start("a TLS receiver", &mut command, Signal::SIGTERM).unwrap();
    let port = await_until("its port", || Ok(fs::read_to_string(&port_file).ok())).unwrap();
    (running, port.parse().unwrap())
}
