//! Nothing that is open outlives the guard or the agent: it is denied, and a row says so.

use anyhow::{Result, ensure};
use dbwarden_tests::{await_until, need_root};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::office::{ALICE, BOB, Office, Waiting, words};

const UPDATE: &str = "UPDATE customers SET name = 'x' WHERE id = 7";
const DELETE: &str = "DELETE FROM customers WHERE id = 9";

fn denied(office: &Office, id: &str, why: &str, actions: &[&str]) -> Result<()> {
    let rows = office.rows(id, actions)?;
    let last: &Value = &rows[rows.len() - 1];
    let message = last["message"].as_str().unwrap_or_default();
    ensure!(message.contains(why) && last["principal"] == "alice", "{last:#}");
    Ok(())
}

#[test]
fn what_was_open_is_denied() -> Result<()> {
    need_root!();
    let mut office = Office::open()?;
    let ticket = office.ticket(ALICE, &[UPDATE])?;
    office.approved(BOB, &ticket)?;
    let waiting = Waiting::start(&office, ALICE, &[DELETE])?;
    let held = waiting.id.clone();
    let guard = Pid::from_raw(office.guarded.guard_pid()?.cast_signed());
    kill(guard, Signal::SIGKILL)?;
    waiting.end()?;
    denied(&office, &ticket, "the guard has ended", &["requested", "approved", "denied"])?;
    denied(&office, &held, "the guard has ended", &["requested", "denied"])?;
    await_until("the next guard", || {
        let guard = &office.agent().status()?["guard"];
        Ok((guard["starts"] == 2 && guard["stands"] == true).then_some(()))
    })?;
    let told = words(&office.psql(ALICE, &[UPDATE])?);
    ensure!(told.contains(&format!("{ticket}: it was denied: the guard has ended")), "{told}");

    // The agent stops as it should, then as it shouldn't.
    let mut open = super::office::id(&told.replace(&ticket, ""))?;
    for (is_killed, why) in [(false, "dbwarden has stopped"), (true, "dbwarden was started again")]
    {
        // It is on disk before anybody hears of it.
        match is_killed {
            true => office.guarded.agent.kill()?,
            false => _ = office.guarded.agent.stop()?,
        }
        office.guarded.agent.start_again()?;
        office.agent().await_guard()?;
        let query = format!(
            "SELECT action, message, principal FROM rows WHERE approval = '{open}' AND action = 'denied'"
        );
        let row = &office.agent().await_rows(1, &query)?[0];
        let message = row["message"].as_str().unwrap_or_default();
        ensure!(message.contains(why) && row["principal"] == "alice", "{row:#}");
        let told = office.refused(BOB, &["approve", &open])?;
        ensure!(told.contains("there is no request"), "{told}");
        open = office.ticket(ALICE, &[UPDATE])?;
    }
    Ok(())
}
