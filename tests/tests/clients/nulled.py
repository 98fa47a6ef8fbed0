"""What a masked client gets where hidden columns flow and are NULL for that: by every way, and in either format."""
import asyncio, sys

import asyncpg, psycopg
from psycopg import conninfo, pq

WAY, DIRECT = sys.argv[1], sys.argv[2]

# A text, its parameters, and the rows that come of it.
CASES = [
    ("SELECT id, upper(ssn), length(mail), born + 1 FROM people WHERE id <= %s ORDER BY ssn, id", [2],
     [(1, None, None, None), (2, None, None, None)]),
    ("SELECT count(*) FROM people WHERE ssn = %s", ["Zq4-1"], [(0,)]),
    ("SELECT count(*), max(ssn), count(DISTINCT mail) FROM people", [], [(100, None, 0)]),
    ("SELECT ssn, count(*) FROM people GROUP BY ssn", [], [(None, 100)]),
    ("SELECT DISTINCT ssn, born FROM people ORDER BY born", [], [(None, None)]),
    ("SELECT ssn::int, ssn COLLATE \"C\" FROM people WHERE id = 1", [], [(None, None)]),
    ("SELECT 1 / (CASE WHEN ssn LIKE 'Zq4%%' THEN 0 ELSE 1 END) FROM people WHERE id = 1", [], [(1,)]),
    ("SELECT a.id FROM people a JOIN people b ON a.ssn = b.ssn", [], []),
    ("WITH p AS (SELECT * FROM people) SELECT id FROM p WHERE mail IS NULL AND id < 3 ORDER BY mail, id", [],
     [(1,), (2,)]),
    ("SELECT row_number() OVER (PARTITION BY born ORDER BY ssn, id) FROM people ORDER BY id LIMIT 2", [], [(1,), (2,)]),
    ("SELECT note FROM people WHERE id = 1 UNION SELECT ssn FROM people", [], [(None,)]),
]

DENIED = [
    "SELECT p FROM people p", "SELECT DISTINCT * FROM people", "UPDATE people SET note = ssn",
    "SELECT id FROM people WHERE ssn > 'a' FOR UPDATE", "SELECT upper(mail) AS x INTO TEMPORARY mine FROM people",
    "SELECT id FROM people NATURAL JOIN (SELECT 'Zq4-1' AS ssn) s",
]


def failure(c, text):
    try:
        c.execute(text)
    except psycopg.Error as error:
        return error.diag
    raise AssertionError(text)


def described(c, text):
    """Names and types of what comes of it, without running it."""
    prepared = c.pgconn.prepare(b"", text.replace("%s", "$1").replace("%%", "%").encode())
    assert prepared.status == pq.ExecStatus.COMMAND_OK, prepared.error_message
    rows = c.pgconn.describe_prepared(b"")
    return [(rows.fname(n).decode(), rows.ftype(n)) for n in range(rows.nfields)]


def ways(c, direct):
    for text, values, expected in CASES:
        plain = described(direct, text)
        for binary in (False, True):
            for prepare in (False, True):
                for _ in range(2):
                    cursor = c.cursor(binary=binary).execute(text, values, prepare=prepare)
                    assert cursor.fetchall() == expected, text
                    # The same names and types.
                    shape = [(column.name, column.type_code) for column in cursor.description]
                    assert shape == plain, (text, shape, plain)
    # What doesn't flow is masked as ever.
    (ssn, mail), = c.execute("SELECT ssn, mail FROM people WHERE born IS NULL AND id = 7")
    assert ssn and "Zq4" not in ssn and mail.endswith("@example.org") and "Kd7" not in mail
    with c.transaction():
        with c.cursor("named") as cursor:
            assert cursor.execute("SELECT id, ssn || mail FROM people ORDER BY id").fetchone() == (1, None)
    with c.cursor().copy("COPY (SELECT id, upper(ssn), mail FROM people WHERE id = 1) TO STDOUT") as copy:
        row = b"".join(copy).decode()
    assert row.startswith("1\t\\N\t") and row.endswith("@example.org\n") and "Kd7" not in row, row
    c.execute("PREPARE p AS SELECT id FROM people WHERE ssn = $1")
    assert c.execute("EXECUTE p('Zq4-1')").fetchall() == []
    with c.pipeline():
        cursors = [c.execute("SELECT count(ssn), count(id) FROM people WHERE id < %s", [n]) for n in (1, 3)]
        assert [cursor.fetchone() for cursor in cursors] == [(0, 0), (0, 2)]
    (both,) = c.execute("SELECT id FROM people WHERE id = 5; SELECT upper(ssn) FROM people WHERE id = 5")
    assert both == (5,)


def refused(c):
    for text in DENIED:
        said = failure(c, text)
        assert said.sqlstate == "42501" and "can't be followed" in said.message_primary, (text, said.message_primary)
        assert "It can't be NULL there" in said.message_hint, said.message_hint
    # Where it stands in another text is not told.
    said = failure(c, "SELECT upper(ssn) FROM people WHERE id = 'x'")
    assert (said.sqlstate, said.statement_position) == ("22P02", None), said.statement_position
    said = failure(c, "SELECT id FROM people WHERE id = 'x'")
    assert (said.sqlstate, said.statement_position) == ("22P02", "34"), said.statement_position


async def other():
    c = await asyncpg.connect(**{("database" if name == "dbname" else name): value
                                 for name, value in conninfo.conninfo_to_dict(WAY).items()
                                 if name in ("host", "port", "user", "dbname")})
    assert await c.fetchval("SELECT upper(ssn) FROM people WHERE id = $1", 1) is None
    assert await c.fetchval("SELECT count(*) FROM people WHERE ssn = $1 OR id = $2", "Zq4-1", 2) == 1
    await c.close()


with psycopg.connect(WAY, autocommit=True) as c, psycopg.connect(DIRECT, autocommit=True) as direct:
    ways(c, direct)
    refused(c)
asyncio.run(other())
print("cases", len(CASES))
