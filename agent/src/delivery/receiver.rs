//! A receiver over HTTP that does as it is told, for tests.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

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
