"""What a masked client gets: values of the same types, the same ones by every way and in either format."""
import asyncio, math, sys

import asyncpg, psycopg
from psycopg import conninfo, pq

WAY, DIRECT = sys.argv[1], sys.argv[2]
TABLES = sys.argv[3].split(",")


def same(one, other):
    """A float4 has more digits where it came in binary."""
    floats = isinstance(one, float) and isinstance(other, float)
    return repr(one) == repr(other) or floats and math.isclose(one, other, rel_tol=1e-6)


def types(guarded, direct):
    """What stands for a value is taken by the server's own input and receive functions, into the same column."""
    for table in TABLES:
        seen = {}
        for format in (pq.Format.TEXT, pq.Format.BINARY):
            text = f"SELECT * FROM {table}".encode()
            rows = guarded.pgconn.exec_params(text, [], result_format=format)
            assert rows.status == pq.ExecStatus.TUPLES_OK, rows.error_message
            plain = direct.pgconn.exec_params(text, [], result_format=format)
            for column in range(rows.nfields):
                name = rows.fname(column).decode()
                for row in range(rows.ntuples):
                    value, was = rows.get_value(row, column), plain.get_value(row, column)
                    seen.setdefault((name, row), []).append(value is None)
                    if value is None:
                        continue
                    # A fixed one may be the same, and so may what has nothing to hide.
                    assert value != was or "fixed" in table or not was.strip(), (table, name, value)
                    direct.pgconn.exec_(b"BEGIN")
                    back = direct.pgconn.exec_params(
                        f"INSERT INTO {table} ({name}) VALUES ($1)".encode(), [value],
                        [rows.ftype(column)], [format])
                    assert back.status == pq.ExecStatus.COMMAND_OK, (table, name, value, back.error_message)
                    direct.pgconn.exec_(b"ROLLBACK")
        assert all(one == other for one, other in seen.values()), (table, seen)
        both = [guarded.cursor(binary=binary).execute(f"SELECT * FROM {table}").fetchall() for binary in (False, True)]
        for one, other in zip(*both):
            differing = [(n, a, b) for n, (a, b) in enumerate(zip(one, other)) if not same(a, b)]
            assert not differing, (table, differing)
        kept = sum(not is_null for is_null, _ in seen.values())
        print(table, "values", kept, "nulls", len(seen) - kept)


def ways():
    query = "SELECT id, ssn, mail, born FROM people ORDER BY id"
    with psycopg.connect(WAY) as c:
        rows = c.execute(query).fetchall()
        assert len(rows) == 100 and all("@example.org" in mail for _, _, mail, _ in rows)
        assert len({ssn for _, ssn, _, _ in rows}) == 100
        for binary in (False, True):
            for prepare in (False, True):
                for _ in range(2):
                    assert c.cursor(binary=binary).execute(query, prepare=prepare).fetchall() == rows
            with c.cursor("named", binary=binary) as cursor:
                cursor.itersize = 7
                assert list(cursor.execute(query)) == rows
            assert list(c.cursor(binary=binary).stream(query)) == rows
            with c.cursor().copy("COPY people (id, ssn, mail, born) TO STDOUT" + (" (FORMAT binary)" if binary else "")) as copy:
                copy.set_types(["int4", "text", "text", "date"])
                assert sorted(copy.rows()) == rows if binary else len(list(copy.rows())) == 100
        c.rollback()
        with c.pipeline() as pipeline:
            cursors = [c.execute(query) for _ in range(20)]
            pipeline.sync()
            assert all(cursor.fetchall() == rows for cursor in cursors)

    async def others():
        parts = conninfo.conninfo_to_dict(WAY)
        c = await asyncpg.connect(host=parts["host"], port=int(parts["port"]), user=parts["user"],
                                  database=parts["dbname"], ssl=False)
        for _ in range(3):
            assert [tuple(row) for row in await c.fetch(query)] == rows
        statement = await c.prepare(query)
        assert [tuple(row) for row in await statement.fetch()] == rows
        async with c.transaction():
            assert [tuple(row) async for row in c.cursor(query, prefetch=9)] == rows
        await c.close()
    asyncio.run(others())
    print("ways", len(rows))


with psycopg.connect(WAY) as guarded, psycopg.connect(DIRECT) as direct:
    types(guarded, direct)
ways()
