//! What masked clients get: values of the same types by every way, and nothing of what stands in their place.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use dbwarden_tests::{Guarded, Postgres, Via, await_until, need_root, place, said};

const PROGRAM: &str = include_str!("clients/masked.py");
const NULLED: &str = include_str!("clients/nulled.py");

/// Masks, by what stands behind the name of the table that each is for.
const MASKS: [(&str, &str); 10] = [
    ("null", "null"),
    ("hash", "hash"),
    ("email", "email"),
    ("last4", "last4"),
    ("noise", "noise"),
    ("fixed_number", "fixed:7"),
    ("fixed_date", "fixed:2000-02-29"),
    ("fixed_uuid", "fixed:00000000-0000-0000-0000-000000000007"),
    ("fixed_address", "fixed:10.1.2.3"),
    ("fixed_text", "fixed:verborgen: ü"),
];

/// Of every type that PostgreSQL brings and people use, and some that they make.
const COLUMNS: &str = "a bool, b bytea, c \"char\", d name, e int8, f int2, g int4, h text, i json, j jsonb, k float4, \
                       l float8, m inet, n char(9), o varchar(12), p date, q timestamp, r timestamptz(3), \
                       s numeric, t numeric(6,2), u uuid, v money, w interval, x int4[], y text[], z colour, \
                       aa usual, bb cidr, cc time, dd timetz, ee macaddr, ff bit(3), gg varbit, hh point, ii xml, \
                       jj int4range, kk tsvector, ll oid";
const ROWS: &str = "
    (true, '\\x00ff', 'x', 'a name', 123456789012, 12, 1234567890, 'Ann Example', '{\"a\": 1}', '[1, \"b\"]', 1.1,
     -1.1e300, '192.168.1.7/24', 'abc', 'ann@ex.org', '1999-12-31', '2024-02-29 23:59:59.123',
     '2024-07-01 12:00:00.5+05:30', 12345.678901, 9999.99, '12345678-9abc-def0-1234-56789abcdef0', 1.5, '1 day',
     '{1,2}', '{a,b}', 'red', 7, '10.0.0.0/8', '12:00', '12:00+02', '08:00:2b:01:02:03', B'101', B'1', '(1,2)', '<a/>',
     '[1,5)', 'a b', 7),
    (false, '', '', '', -9223372036854775807, -32767, -2147483647, '', 'null', '\"text\"', 'NaN', 'Infinity', '::1',
     '', '', 'infinity', '-infinity', 'infinity', 'NaN', -0.01, '10000000-0000-0000-0000-000000000000', 0, '0',
     '{}', '{}', 'green', 1, '::/0', '00:00', '00:00+00', '00:00:00:00:00:00', B'000', '', '(0,0)', 'x', 'empty', '', 0),
    (NULL, NULL, NULL, NULL, 0, 0, 0, '4111 1111 1111 1111', '12', '12', 0, 0, '10.0.0.1', '123456789', '123456789012',
     '0044-03-15 BC', '0001-01-01', '1900-01-01 00:00:00+00', 123456789012345678901234567890.5, 0, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";

const PEOPLE: &str = "
    CREATE TABLE people (id int PRIMARY KEY, ssn text, mail text, born date, note text);
    INSERT INTO people SELECT n, 'Zq4-' || n, 'Kd7' || n || '@example.org', date '1980-01-01' + n, NULL
        FROM generate_series(1, 100) n;
    CREATE TABLE notes (id int, words text, more jsonb);
    INSERT INTO notes VALUES (1, 'card 4111 1111 1111 1111, ann@example.org', '{\"iban\": \"DE89370400440532013000\"}'),
        (2, 'nothing', '{}')";

const OF_PEOPLE: &str = r#"
[[label]]
name = "mask-hash"
on = ["*.public.people.ssn"]
[[label]]
name = "mask-email"
on = ["*.public.people.mail"]
[[label]]
name = "mask-noise"
on = ["*.public.people.born"]
"#;

fn rule(name: &str, mask: &str) -> String {
    format!(
        "@id(\"{name}\") @verdict(\"mask\") @mask(\"{mask}\") @message(\"m\")\nforbid (principal, action, resource)\n\
         when {{ resource has labels && resource.labels.contains(\"mask-{name}\") }};\n"
    )
}

fn rules() -> String {
    MASKS.iter().map(|(name, mask)| rule(name, mask)).collect()
}

/// A server with people, whose numbers, addresses and birthdays are masked.
fn people(of_guard: &str) -> Result<Guarded> {
    Guarded::start_asking(Postgres::builder(), PEOPLE, &rules(), OF_PEOPLE, of_guard)
}

#[test]
fn what_stands_for_a_value_is_one_of_its_type_by_every_way() -> Result<()> {
    need_root!();
    let mut sql = String::from(
        "CREATE TYPE colour AS ENUM ('red', 'green'); CREATE DOMAIN usual AS int CHECK (value > -10);",
    );
    let mut labels = String::from(OF_PEOPLE);
    for (name, _) in MASKS {
        sql += &format!("CREATE TABLE t_{name} ({COLUMNS}); INSERT INTO t_{name} VALUES {ROWS};");
        labels +=
            &format!("[[label]]\nname = \"mask-{name}-all\"\non = [\"*.public.t_{name}.*\"]\n");
    }
    let rules: String = MASKS
        .iter()
        .map(|(name, mask)| rule(name, mask) + &rule(&format!("{name}-all"), mask))
        .collect();
    let sql = sql + PEOPLE;
    let guarded = Guarded::start_asking(Postgres::builder(), &sql, &rules, &labels, "")?;
    let postgres = &guarded.postgres;
    let tables = MASKS.map(|(name, _)| format!("t_{name}")).join(",");
    let mut python = dbwarden_tests::python()?;
    python.args(["-c", PROGRAM]).arg(postgres.conninfo(Via::Guard));
    let told = said(python.arg(postgres.conninfo(Via::Tcp)).arg(tables))
        .with_context(|| guarded.agent.log())?;
    ensure!(told.contains("ways 100"), "{told}");
    println!("{told}");

    let jar = place::jdbc()?;
    if !jar.exists() {
        println!("skipped: pgjdbc because {} is not there: cargo xtask setup", jar.display());
        return Ok(());
    }
    let guard = postgres.guard_port().context("no guard")?;
    let mut java = Command::new("java");
    java.arg("-cp").arg(&jar).arg(place::workspace().join("tests/tests/clients/Masked.java"));
    let told = said(java.arg(format!("jdbc:postgresql://127.0.0.1:{guard}/postgres")))?;
    ensure!(told.trim().lines().count() == 100 && !told.contains("Zq4"), "{told}");
    Ok(())
}

#[test]
fn who_has_seen_what_masked_is_told() -> Result<()> {
    need_root!();
    let guarded = people("")?;
    let postgres = &guarded.postgres;
    let told = postgres.psql(Via::Guard, "SELECT id, ssn FROM people WHERE id = 1")?;
    ensure!(told.starts_with("1|") && !told.contains("Zq4"), "{told}");
    let told = postgres.psql(Via::Guard, "COPY people (id, mail) TO STDOUT")?;
    ensure!(told.trim().lines().count() == 100 && !told.contains("Kd7"), "{told}");
    postgres.psql(Via::Guard, "SELECT id FROM people")?;
    let masked = |text: &str| -> Result<String> {
        let query = format!(
            "SELECT array_to_string(masked, ' ') AS masked, verdict FROM statements WHERE lane = 'guarded' AND \
             text LIKE '{text}%'"
        );
        let row = &guarded.agent.await_rows(1, &query)?[0];
        Ok(format!("{} {}", row["masked"].as_str().unwrap_or("-"), row["verdict"]))
    };
    for (text, expected) in [
        ("SELECT id, ssn", "public.people.ssn:hash \"mask\""),
        ("COPY people", "public.people.mail:email \"mask\""),
        ("SELECT id FROM people", "- \"allow\""),
    ] {
        let got = masked(text)?;
        ensure!(got == expected, "{text}: {got}");
    }
    let shown = said(&mut guarded.agent.command(&["search", "ssn"]))?;
    ensure!(shown.contains(r#""masked":["public.people.ssn:hash"]"#), "{shown}");
    Ok(())
}

#[test]
fn what_flows_is_null_where_its_rule_says_so() -> Result<()> {
    need_root!();
    let rules = rules().replace(" @message", " @flow(\"null\") @message");
    let guarded = Guarded::start_asking(Postgres::builder(), PEOPLE, &rules, OF_PEOPLE, "")?;
    let postgres = &guarded.postgres;
    let mut python = dbwarden_tests::python()?;
    python.args(["-c", NULLED]).arg(postgres.conninfo(Via::Guard));
    let told = said(python.arg(postgres.conninfo(Via::Tcp)));
    let told = told.with_context(|| guarded.agent.log())?;
    ensure!(told.contains("cases 11"), "{told}");

    // What the client has said is on record, and what was NULL; and the row is the server's.
    for (text, masked, verdict) in [
        ("SELECT ssn, count(*) FROM people GROUP BY ssn", "public.people.ssn:null-flow", "mask"),
        (
            "SELECT id, upper(ssn), length(mail), born + ? FROM people WHERE id <= $1 ORDER BY ssn, id",
            "public.people.born:null-flow public.people.mail:null-flow public.people.ssn:null-flow",
            "mask",
        ),
        (
            "COPY (SELECT id, upper(ssn), mail FROM people WHERE id = ?) TO STDOUT",
            "public.people.mail:email public.people.ssn:null-flow",
            "mask",
        ),
        ("UPDATE people SET note = ssn", "-", "deny"),
    ] {
        let query = format!(
            "SELECT array_to_string(masked, ' ') AS masked, verdict FROM statements WHERE lane = 'guarded' AND \
             text = '{text}' LIMIT 1"
        );
        let row = &guarded.agent.await_rows(1, &query)?[0];
        let got = row["masked"].as_str().unwrap_or("-");
        ensure!(got == masked && row["verdict"] == verdict, "{text}: {row}");
    }
    let left = "SELECT text FROM statements WHERE text LIKE '%dbwarden%' OR text LIKE '%NULL::%'";
    ensure!(guarded.agent.rows(left)?.is_empty(), "{:?}", guarded.agent.rows(left)?);
    // The guard and the observer have seen the same.
    let differs = "SELECT * FROM rows WHERE record = 'finding' AND rule LIKE 'builtin:%'";
    ensure!(guarded.agent.rows(differs)?.is_empty(), "{:?}", guarded.agent.rows(differs)?);
    Ok(())
}

/// By rules that come and go while a session is there.
#[test]
fn a_session_is_masked_as_soon_as_a_rule_says_so() -> Result<()> {
    need_root!();
    let guarded = people("")?;
    let postgres = &guarded.postgres;
    let folder = tempfile::tempdir()?;
    let flags = [folder.path().join("open"), folder.path().join("masked")];
    let program = format!(
        "import psycopg, sys, os, time
with psycopg.connect(sys.argv[1], autocommit=True) as c:
    why = []
    def ask():
        try:
            return c.execute('SELECT ssn FROM people WHERE id = 1', prepare=True).fetchone()[0]
        except psycopg.errors.InsufficientPrivilege as error:
            # The columns are not known yet.
            why.append(str(error))
            return None
    def until(is_right, flag):
        began = time.monotonic()
        while not is_right(ask()):
            assert time.monotonic() < began + 30, (ask(), why[-1:])
            time.sleep(0.01)
        open(flag, 'w').close()
    assert ask() not in ('Zq4-1', None)
    until(lambda ssn: ssn == 'Zq4-1', {:?})
    until(lambda ssn: ssn not in ('Zq4-1', None), {:?})
",
        flags[0], flags[1]
    );
    let mut python = dbwarden_tests::python()?;
    let mut child = python.args(["-c", &program]).arg(postgres.conninfo(Via::Guard)).spawn()?;
    let none = r#"@id("none") @verdict("deny") @message("m")
        forbid (principal, action == Action::"drop", resource) when { context.lane == "observed" };"#;
    let turned = guarded.judge_by(none).and_then(|()| {
        await_until("what isn't masked", || Ok(flags[0].exists().then_some(())))?;
        guarded.judge_by(&rules())?;
        await_until("what is masked", || Ok(flags[1].exists().then_some(())))
    });
    if turned.is_err() {
        child.kill()?;
    }
    turned?;
    ensure!(child.wait()?.success(), "{}", guarded.agent.log());
    Ok(())
}

#[test]
fn what_no_label_says_is_found_where_that_is_wanted() -> Result<()> {
    need_root!();
    let guarded = people("detectors = [\"card\", \"iban\"]")?;
    let postgres = &guarded.postgres;
    let told = postgres.psql(Via::Guard, "SELECT words, more FROM notes ORDER BY id")?;
    let expected = "card **** **** **** ****, ann@example.org|{\"iban\": \"**********************\"}\nnothing|{}";
    ensure!(told == expected, "{told}");
    // Likewise in a COPY.
    let told = postgres.psql(Via::Guard, "COPY notes TO STDOUT WITH CSV")?;
    ensure!(told.contains("card **** **** **** ****") && !told.contains("DE8937"), "{told}");
    // And in an expression, which has no origin.
    let told = postgres.psql(Via::Guard, "SELECT upper(words) FROM notes WHERE id = 1")?;
    ensure!(told.starts_with("CARD ****"), "{told}");
    let written = fs::read_to_string(postgres.output())?;
    ensure!(!written.contains("PANIC"), "{written}");
    Ok(())
}

#[test]
fn what_labels_and_masks_do_not_fit_is_told() -> Result<()> {
    need_root!();
    let labels = OF_PEOPLE.replace("people.born", "people.id")
        + "[[label]]\nname = \"typo\"\non = [\"postgres.public.people.snn\"]\n";
    let rules = rule("hash", "hash") + &rule("noise", "fixed:none");
    let guarded = Guarded::start_asking(Postgres::builder(), PEOPLE, &rules, &labels, "")?;
    let told = guarded
        .postgres
        .psql(Via::Guard, "SELECT id, ssn FROM people WHERE note IS NULL LIMIT 1")?;
    ensure!(told.starts_with('|') && told.len() == 33, "{told}");
    for (command, wanted) in [
        ("status", "postgres: rule noise: the mask fixed:none makes no sense for public.people.id"),
        ("doctor", "label typo: there is no postgres.public.people.snn"),
    ] {
        await_until(wanted, || {
            let output = guarded.agent.command(&[command]).output()?;
            let shown = String::from_utf8(output.stdout)?;
            let shown: String = shown.split_whitespace().collect::<Vec<_>>().join(" ");
            Ok(shown.contains(wanted).then_some(()))
        })?;
    }
    Ok(())
}
