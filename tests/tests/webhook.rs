//! End to end: what a receiver that this project did not write gets of a flagged statement, and what happens
//! without one.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Agent, Postgres, Running, Via, await_until, need_root, python};
use nix::sys::signal::Signal;
use serde_json::Value;

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Takes what the specification's own library verifies; Slack's form, unsigned, at another path. Each
/// request becomes a line.
const RECEIVER: &str = "
import http.server, json, os, sys
from standardwebhooks import Webhook, WebhookVerificationError
key, output, port_file = sys.argv[1:]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length'])).decode()
        status = 200
        if self.path == '/json':
            try:
                Webhook(key).verify(body, dict(self.headers))
            except WebhookVerificationError:
                status = 401
        line = {'path': self.path, 'status': status, 'id': self.headers['webhook-id'], 'raw': body,
                'body': json.loads(body)}
        with open(output, 'a') as lines:
            lines.write(json.dumps(line) + '\\n')
        self.send_response(status)
        self.send_header('content-length', '2')
        self.end_headers()
        self.wfile.write(b'ok')
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
with open(port_file + '.new', 'w') as file: file.write(str(server.server_port))
os.rename(port_file + '.new', port_file)
server.serve_forever()
";

struct Receiver {
    _process: Running,
    output: PathBuf,
    port: u16,
}

impl Receiver {
    fn start(folder: &Path) -> Result<Self> {
        let (output, port) = (folder.join("received"), folder.join("port"));
        fs::write(&output, "")?;
        let mut command = python()?;
        command.args(["-c", RECEIVER, KEY]).arg(&output).arg(&port).stdin(Stdio::null());
        let process = Running::start("a receiver of webhooks", &mut command, Signal::SIGTERM)?;
        let port = await_until("its port", || Ok(fs::read_to_string(&port).ok()))?.parse()?;
        Ok(Self { _process: process, output, port })
    }

    fn got(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.output)?;
        // The last line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Waits for a message that `is` so.
    fn first(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        await_until(what, || Ok(self.got()?.into_iter().find(|message| is(message))))
            .with_context(|| format!("{:?}", self.got()))
    }
}

fn key_file(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("key");
    fs::write(&path, KEY)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

fn webhook_status(agent: &Agent, name: &str) -> Result<Value> {
    let status = agent.status()?;
    let webhooks = status["webhooks"].as_array().context("no webhooks")?;
    webhooks.iter().find(|webhook| webhook["name"] == name).cloned().context("no such webhook")
}

#[test]
fn a_flagged_statement_arrives_as_signed_json_and_in_slack_s_form() -> Result<()> {
    need_root!();
    let folder = tempfile::tempdir()?;
    let receiver = Receiver::start(folder.path())?;
    let postgres = Postgres::builder().start()?;
    let (port, key) = (receiver.port, key_file(folder.path())?);
    let key = key.display();
    let mut agent = Agent::builder()
        .configuration(&format!(
            "[[webhook]]\nname = \"oncall\"\nurl = \"http://127.0.0.1:{port}/json\"\nsecret_file = \"{key}\"\n\
             [[webhook]]\nname = \"chat\"\nformat = \"slack\"\nurl = \"http://127.0.0.1:{port}/slack\"\n\
             min_severity = \"high\"\nrules = [\"builtin:unrestricted-*\"]"
        ))
        .start()?;
    agent.await_server(postgres.port())?;

    let configuration = agent.configuration().display().to_string();
    let test = agent
        .command(&["--format", "json", "webhook", "test", "--all", "--config", &configuration])
        .output()?;
    let answers = String::from_utf8(test.stdout)?;
    ensure!(test.status.code() == Some(0) && answers.lines().count() == 2, "{answers}");
    ensure!(answers.contains("HTTP 200 OK ok"), "{answers}");
    let tested = receiver.first("the test", |got| got["body"]["type"] == "test")?;
    ensure!(tested["status"] == 200, "{tested}");

    postgres.psql(Via::Unix, "CREATE TABLE visits (id int, note text)")?;
    for n in 0..3 {
        let text = format!("DELETE FROM visits WHERE note = 'Wiedikon-4711' OR id = {n} OR true");
        postgres.psql(Via::Unix, &text)?;
    }
    let is_json = |got: &Value, action: &str| {
        got["path"] == "/json"
            && got["body"]["data"]["rule"] == "builtin:unrestricted-write"
            && got["body"]["data"]["action"] == action
    };
    let began = receiver.first("the finding", |got| is_json(got, "began"))?;
    let data = &began["body"]["data"];
    ensure!(began["status"] == 200 && began["body"]["type"] == "finding.began", "{began}");
    ensure!(data["text"].as_str().is_some_and(|text| text.contains("note = ?")), "{data}");
    ensure!(data["db_user"] == "postgres" && data["pid"].is_u64(), "{data}");
    // It leads to the rows.
    let (connection, sequence) = (data["connection"].as_str(), data["sequence"].as_u64());
    let query = format!(
        "SELECT time FROM findings WHERE rule = 'builtin:unrestricted-write' AND connection = '{}' \
         AND sequence = {}",
        connection.context("no connection")?,
        sequence.context("no sequence")?
    );
    await_until("its row", || Ok(agent.rows(&query)?.pop()))?;
    let slack = receiver.first("Slack's form", |got| {
        got["path"] == "/slack" && got["raw"].to_string().contains("finding began")
    })?;
    ensure!(slack["body"]["blocks"][0]["type"] == "header", "{slack}");
    let all = "SELECT time FROM statements WHERE text LIKE 'DELETE FROM visits%'";
    await_until("the statements", || Ok((agent.rows(all)?.len() == 3).then_some(())))?;

    // What goes on when the service stops is told as over, before it has stopped.
    agent.stop()?;
    let got = receiver.got()?;
    let ended = got.iter().find(|got| is_json(got, "ended")).context("nothing has ended")?;
    ensure!(ended["body"]["data"]["counts"]["statements"] == 3, "{ended}");
    ensure!(ended["body"]["data"]["episode"] == data["episode"], "{ended}");
    for message in &got {
        ensure!(message["status"] == 200, "{message}");
        let raw = message["raw"].to_string();
        ensure!(!raw.contains("Wiedikon") && !raw.contains("4711"), "a literal: {raw}");
    }
    Ok(())
}

#[test]
fn what_no_receiver_took_is_counted_told_in_a_row_and_sent_when_one_is_back() -> Result<()> {
    need_root!();
    let folder = tempfile::tempdir()?;
    let receiver = Receiver::start(folder.path())?;
    let postgres = Postgres::builder().start()?;
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let (port, key) = (receiver.port, key_file(folder.path())?);
    let agent = Agent::builder()
        .configuration(&format!(
            "[[webhook]]\nname = \"away\"\nformat = \"slack\"\nurl = \"http://127.0.0.1:{nobody}/\"\ngive_up = \"1s\"\n\
             [[webhook]]\nname = \"locked\"\nurl = \"http://127.0.0.1:{port}/json\"\nsecret_file = \"{}\"",
            key.display()
        ))
        .start()?;
    // Somebody opens the key to all: nothing is signed with it.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    agent.await_server(postgres.port())?;
    let configuration = agent.configuration().display().to_string();
    let test = agent
        .command(&["--format", "json", "webhook", "test", "away", "--config", &configuration])
        .output()?;
    ensure!(test.status.code() == Some(1), "{test:?}");
    let test =
        agent.command(&["webhook", "test", "nobody", "--config", &configuration]).output()?;
    ensure!(test.status.code() == Some(2), "{test:?}");

    postgres.psql(Via::Unix, "CREATE TABLE visits (id int)")?;
    postgres.psql(Via::Unix, "DELETE FROM visits")?;
    let lost = await_until("a loss", || {
        let status = webhook_status(&agent, "away")?;
        Ok(status["lost"]["expired"].as_u64().filter(|n| *n > 0).map(|_| status))
    })?;
    ensure!(lost["trouble"].as_str().is_some_and(|why| why.contains("refused")), "{lost}");
    let row = await_until("its row", || {
        Ok(agent.rows("SELECT message, counts FROM rows WHERE action = 'not-notified'")?.pop())
    })?;
    ensure!(
        row["message"].as_str().is_some_and(|message| message.contains("webhook away")),
        "{row}"
    );
    // Neither keeps anything from being recorded.
    await_until("the statement", || {
        Ok(agent.rows("SELECT time FROM statements WHERE text = 'DELETE FROM visits'")?.pop())
    })?;
    ensure!(agent.status()?["totals"]["drops"].as_object().is_some_and(|drops| drops.is_empty()));

    let locked = webhook_status(&agent, "locked")?;
    ensure!(locked["trouble"].as_str().is_some_and(|why| why.contains("chmod 600")), "{locked}");
    ensure!(receiver.got()?.is_empty());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let got = receiver.first("the finding", |got| got["body"]["type"] == "finding.began")?;
    ensure!(got["status"] == 200, "{got}");
    await_until("no trouble", || {
        Ok(webhook_status(&agent, "locked")?["trouble"].is_null().then_some(()))
    })
}
