//! A control server over a ledger, as the service runs it, and questions to it in plain HTTP.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use dbwarden::control::{Access, LedgerPlace, Listener, QueryWorker, Service, serve};
use tempfile::TempDir;

/// Ends when dropped.
pub struct Served {
    service: Arc<Service>,
    server: Option<JoinHandle<()>>,
    folder: TempDir,
}

impl Served {
    pub fn start(ledger: &Path, query_worker: QueryWorker) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let access = Access::new(None).unwrap();
        let listener = Listener::bind(&folder.path().join("control.sock"), access).unwrap();
        let place = LedgerPlace { ledger: ledger.to_owned(), keys: ledger.join("keys") };
        let service =
            Arc::new(Service { ledger: Some(place), query_worker, ..Service::new().unwrap() });
        let serving = service.clone();
        let server = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(serve(listener, "db1", serving)).unwrap();
        });
        Self { service, server: Some(server), folder }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// Asks, and leaves the answer where it is.
    pub fn ask(&self, question: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        let length = question.len();
        let head =
            format!("POST /v1/query HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all((head + question).as_bytes()).unwrap();
        stream
    }

    /// Asks, and reads all that comes.
    pub fn answer(&self, question: &str) -> String {
        read(self.ask(question))
    }
}

/// Up to the end, HTTP and all.
pub fn read(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Drop for Served {
    fn drop(&mut self) {
        self.service.ended.request();
        if let Some(server) = self.server.take() {
            let ended = server.join();
            assert!(ended.is_ok() || thread::panicking(), "the control server panicked");
        }
    }
}
