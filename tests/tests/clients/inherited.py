"""Copies of hidden columns by every way, made by one who sees them: nobody else reads them in any format."""
import sys

import psycopg
from psycopg import pq

ADMIN, MASKED = sys.argv[1], sys.argv[2]
# What each leaves in `copy_N`; with the columns that must not be shown in the clear, all others are as they were.
WAYS = [
    ("CREATE TABLE {t} AS SELECT id, ssn FROM people",),
    ("SELECT id, ssn INTO {t} FROM people",),
    ("CREATE TABLE {t} (id int, ssn text)", "INSERT INTO {t} SELECT id, ssn FROM people"),
    ("CREATE TABLE {t} (id int, ssn text)", "INSERT INTO {t} (ssn, id) SELECT upper(ssn), id FROM people"),
    ("CREATE TABLE {t} AS SELECT id, ''::text AS ssn FROM people", "UPDATE {t} SET ssn = p.ssn FROM people p WHERE p.id = {t}.id"),
    ("CREATE TABLE {t} (id int PRIMARY KEY, ssn text)",
     "MERGE INTO {t} USING people p ON {t}.id = p.id WHEN NOT MATCHED THEN INSERT VALUES (p.id, p.ssn)"),
    ("CREATE TABLE {t} (id int, ssn text)", "CREATE TABLE {t}_b (id int, ssn text)",
     "WITH a AS (INSERT INTO {t}_b SELECT id, ssn FROM people RETURNING *) INSERT INTO {t} SELECT id, ssn FROM a"),
    ("CREATE TABLE {t} (id int PRIMARY KEY, ssn text)", "INSERT INTO {t} SELECT id, 'x' FROM people",
     "INSERT INTO {t} SELECT id, ssn FROM people ON CONFLICT (id) DO UPDATE SET ssn = excluded.ssn"),
    ("CREATE TABLE {t} (id int, ssn text)", "PREPARE p_{t} AS INSERT INTO {t} SELECT id, ssn FROM people", "EXECUTE p_{t}"),
    ("CREATE TABLE {t} (id int, ssn text)", "DO $$ BEGIN INSERT INTO {t} SELECT id, ssn FROM people; END $$"),
    ("CREATE TABLE {t} (id int, ssn text)",
     "CREATE FUNCTION f_{t}() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO {t} SELECT id, ssn FROM people; END $$",
     "SELECT f_{t}()"),
    ("CREATE TABLE {t} (id int, ssn text)",
     "CREATE FUNCTION f_{t}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO {t} VALUES (NEW.id, NEW.ssn); RETURN NEW; END $$",
     "CREATE TRIGGER t_{t} AFTER INSERT ON people FOR EACH ROW EXECUTE FUNCTION f_{t}()",
     "INSERT INTO people (id, ssn) SELECT max(id) + 1, 'Zq4-' || max(id) + 1 FROM people"),
    ("CREATE TEMP TABLE tmp_{t} AS SELECT id, ssn FROM people", "CREATE TABLE {t} AS SELECT * FROM tmp_{t}"),
    ("CREATE TABLE {t}_b AS SELECT id, ssn FROM people", "CREATE TABLE {t} AS SELECT id, ssn FROM {t}_b", "DROP TABLE {t}_b"),
    ("BEGIN", "CREATE TABLE {t} (id int, ssn text)", "INSERT INTO {t} SELECT id, ssn FROM people", "COMMIT"),
    ("BEGIN", "CREATE TABLE {t}_b AS SELECT id, ssn FROM people", "CREATE TABLE {t} AS SELECT id, ssn FROM {t}_b", "COMMIT"),
    ("CREATE TABLE {t} (id int, ssn text); INSERT INTO {t} SELECT id, ssn FROM people",),
    ("CREATE TABLE {t} AS SELECT id, ssn FROM shown",),
    ("CREATE TABLE {t}_b (id int, ssn text)", "CREATE VIEW {t} AS SELECT id, ssn FROM {t}_b", "INSERT INTO {t} SELECT id, ssn FROM people"),
    ("CREATE TABLE {t} (id int, ssn text) PARTITION BY LIST (id)", "CREATE TABLE {t}_all PARTITION OF {t} DEFAULT",
     "INSERT INTO {t} SELECT id, ssn FROM people"),
    ("CREATE TABLE {t} AS SELECT id, ssn FROM people", "ALTER TABLE {t} RENAME TO {t}_old", "ALTER TABLE {t}_old RENAME TO {t}"),
]
SECRET = b"zq4"


def raw(connection, table, format):
    """All bytes of an answer."""
    answer = connection.pgconn.exec_params(f"SELECT * FROM {table}".encode(), [], result_format=format)
    assert answer.status == pq.ExecStatus.TUPLES_OK, (table, answer.error_message)
    cells = [answer.get_value(row, column) for row in range(answer.ntuples) for column in range(answer.nfields)]
    return answer.ntuples, b" ".join(cell or b"" for cell in cells)


def read(connection, table):
    answers = [raw(connection, table, format) for format in (pq.Format.TEXT, pq.Format.BINARY)]
    assert all(n > 0 for n, _ in answers), table
    with connection.cursor().copy(f"COPY (SELECT * FROM {table}) TO STDOUT") as copy:
        copied = b" ".join(bytes(part) for part in copy)
    return b" ".join([data for _, data in answers] + [copied]).lower()


def make():
    wrong = []
    with psycopg.connect(ADMIN, autocommit=True) as admin, psycopg.connect(MASKED, autocommit=True) as masked:
        for prepare in (False, True):
            for n, way in enumerate(WAYS):
                table = f"copy_{n}_{int(prepare)}"
                for text in way:
                    alone = ";" in text and not text.startswith(("DO", "CREATE FUNCTION"))
                    text = text.format(t=table)
                    if prepare and not alone:
                        admin.pgconn.prepare(b"", text.encode())
                        done = admin.pgconn.exec_prepared(b"", [])
                    else:
                        done = admin.pgconn.exec_(text.encode())
                    if done.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                        wrong.append((way, text, done.error_message))
                try:
                    if SECRET not in read(admin, table):
                        wrong.append((way, "not copied"))
                except AssertionError as error:
                    wrong.append((way, str(error)))
        for table in tables():
            try:
                if SECRET in read(masked, table):
                    wrong.append((table, WAYS[int(table.split("_")[1])], "is shown"))
            except (AssertionError, psycopg.Error) as error:
                wrong.append((table, str(error)))
    assert not wrong, "\n".join(map(str, wrong))
    print("tables", len(WAYS) * 2)


def tables():
    return [f"copy_{n}_{prepare}" for prepare in (0, 1) for n in range(len(WAYS))]


def look():
    with psycopg.connect(MASKED, autocommit=True) as masked:
        shown = [table for table in tables() if SECRET in read(masked, table)]
    assert not shown, shown
    print("hidden", len(WAYS) * 2)


{"make": make, "look": look}[sys.argv[3]]()
