"""What Python's drivers get from a server, in words that say nothing of the way there."""
import asyncio, datetime, decimal, sys, uuid

import asyncpg, psycopg, psycopg2, psycopg2.extras, sqlalchemy
from psycopg import conninfo

WAY = sys.argv[1]
PARTS = conninfo.conninfo_to_dict(WAY)
VALUES = [1, -7, 2**40, 1.5, "zwei ü", None, True, b"\x00\xff", decimal.Decimal("12.30"),
          datetime.date(2026, 2, 3), datetime.datetime(2026, 2, 3, 4, 5, 6, 7),
          uuid.UUID(int=7), [1, 2, 3]]


def say(*words):
    print(*words, flush=True)


def failing(what, call, *arguments):
    try:
        say(what, "went through", call(*arguments))
    except Exception as error:
        say(what, type(error).__name__, str(error).splitlines()[:2])


def psycopg3():
    for binary in (False, True):
        with psycopg.connect(WAY) as c:
            for value in VALUES:
                for prepare in (False, True):
                    got = c.cursor(binary=binary).execute("SELECT %s", (value,), prepare=prepare)
                    say(binary, prepare, got.fetchone(), got.description[0].type_code)
            c.execute("CREATE TEMP TABLE t (n int, x text)")
            with c.cursor().copy("COPY t FROM STDIN" + (" (FORMAT binary)" if binary else "")) as copy:
                copy.set_types(["int4", "text"])
                for n in range(500):
                    copy.write_row((n, "x" * n))
            with c.cursor().copy("COPY t TO STDOUT" + (" (FORMAT binary)" if binary else "")) as copy:
                say("copied", sum(len(part) for part in copy))
            c.cursor().executemany("INSERT INTO t VALUES (%s, %s)", [(n, "y") for n in range(300)])
            say(c.execute("SELECT count(*), sum(n) FROM t").fetchone())
            with c.cursor("named", binary=binary) as big:
                big.itersize = 77
                say(sum(n for n, in big.execute("SELECT generate_series(1, 1000)")))
            say("streamed", sum(1 for _ in c.cursor(binary=binary).stream("SELECT generate_series(1, 1000)")))
            failing("syntax", c.execute, "SELEC 1")
            failing("aborted", c.execute, "SELECT 1")
            c.rollback()
        with psycopg.connect(WAY, autocommit=True) as c:
            with c.pipeline() as p:
                cursors = [c.cursor(binary=binary).execute("SELECT %s::int", (n,)) for n in range(200)]
                p.sync()
                say("pipelined", sum(cursor.fetchone()[0] for cursor in cursors))
            def bad():
                with c.pipeline():
                    c.execute("SELECT 1")
                    c.execute("SELECT 1/0")
                    c.execute("SELECT 2")
            failing("pipeline", bad)
            say(c.info.transaction_status.name)
            c.add_notice_handler(lambda d: say("notice", d.severity, d.sqlstate, d.message_primary))
            c.execute("DO $$ BEGIN RAISE NOTICE 'hear'; END $$")
            c.execute("LISTEN ear")
            c.execute("NOTIFY ear, 'word'")
            say([(n.channel, n.payload) for n in c.notifies(timeout=10, stop_after=1)])
            with c.transaction():
                failing("savepoint", lambda: c.transaction().__enter__() and c.execute("SELECT 1/0"))
            say(c.info.server_version, c.info.encoding, c.info.parameter_status("TimeZone"))
        c = psycopg.connect(WAY)
        c.tpc_begin(c.xid(1, "one", "two"))
        failing("two phases", c.tpc_prepare)
        c.close()


async def psycopg3_async():
    async with await psycopg.AsyncConnection.connect(WAY, autocommit=True) as c:
        async with c.pipeline():
            cursors = [await c.execute("SELECT %s::text", (n,)) for n in range(100)]
        say("async", [await cursor.fetchone() for cursor in cursors[:3]])
        cursor = await c.execute("SELECT generate_series(1, 10)")
        say([row async for row in cursor])
        task = asyncio.create_task(c.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.3)
        await c.cancel_safe()
        try:
            await task
        except psycopg.errors.QueryCanceled as error:
            say("cancelled", error.sqlstate)


def psycopg_2():
    c = psycopg2.connect(WAY)
    cursor = c.cursor()
    for value in VALUES[:9]:
        cursor.execute("SELECT %s", (value,))
        got = cursor.fetchone()[0]
        say("psycopg2", bytes(got) if isinstance(got, memoryview) else got)
    psycopg2.extras.execute_values(cursor, "CREATE TEMP TABLE IF NOT EXISTS v AS SELECT * FROM (VALUES %s) AS v(a, b)", [(1, 2)] * 50)
    with c.cursor("named") as big:
        big.execute("SELECT generate_series(1, 5000)")
        say(sum(n for n, in big))
    import io
    cursor.copy_expert("COPY (SELECT generate_series(1, 100)) TO STDOUT", out := io.StringIO())
    say(len(out.getvalue()))
    failing("psycopg2", cursor.execute, "SELECT nothing_such")
    c.rollback()
    # A large object is read and written by calls of functions by number.
    large = c.lobject(0, "w", 0)
    large.write("large words")
    large.seek(0)
    say(large.oid > 0, c.lobject(large.oid, "r").read())
    c.rollback()
    c.close()


async def asyncpg_():
    ssl = PARTS["sslmode"]
    if ssl == "verify-full":
        import ssl as tls
        ssl = tls.create_default_context(cafile=PARTS["sslrootcert"])
    else:
        ssl = False
    c = await asyncpg.connect(host=PARTS["host"], port=int(PARTS["port"]), user=PARTS["user"],
                              password=PARTS.get("password"), database=PARTS["dbname"], ssl=ssl)
    for kind, value in [("int", 1), ("bigint", 2**40), ("text", "zwei ü"), ("float8", 1.5), ("bytea", b"\0\xff"),
                        ("numeric", decimal.Decimal("12.30")), ("date", datetime.date(2026, 2, 3)),
                        ("uuid", uuid.UUID(int=7)), ("int[]", [1, 2]), ("jsonb", '{"a": 1}'), ("text", None)]:
        say("asyncpg", kind, await c.fetchval(f"SELECT $1::{kind}", value))
    async with c.transaction():
        say(sum([row[0] async for row in c.cursor("SELECT generate_series(1, 1000)", prefetch=33)]))
    await c.execute("CREATE TEMP TABLE t (n int, x text)")
    say(await c.copy_records_to_table("t", records=[(n, "x" * n) for n in range(300)]))
    say(await c.executemany("INSERT INTO t VALUES ($1, $2)", [(n, "y") for n in range(300)]))
    say(await c.fetchrow("SELECT count(*), sum(n), sum(length(x)) FROM t"))
    for text in ("SELEC 1", "SELECT 1/0", "SELECT nothing_such"):
        try:
            await c.fetch(text)
        except asyncpg.PostgresError as error:
            say("asyncpg", error.sqlstate, error)
    try:
        await c.fetch("SELECT pg_sleep(60)", timeout=0.3)
    except asyncio.TimeoutError:
        say("timed out", await c.fetchval("SELECT 'and goes on'"))
    heard = asyncio.get_running_loop().create_future()
    await c.add_listener("ear", lambda _c, _pid, channel, payload: heard.done() or heard.set_result((channel, payload)))
    await c.execute("NOTIFY ear, 'word'")
    say(await heard)
    say(c.get_server_version()[:2], c.get_settings().client_encoding)
    await c.close()


def alchemy():
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(WAY))
    metadata = sqlalchemy.MetaData()
    table = sqlalchemy.Table("alchemy", metadata, sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
                             sqlalchemy.Column("name", sqlalchemy.String(50), index=True),
                             sqlalchemy.Column("data", sqlalchemy.JSON))
    metadata.create_all(engine)
    with engine.begin() as c:
        c.execute(table.insert(), [{"name": f"n{n}", "data": {"n": n}} for n in range(100)])
        say("alchemy", c.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(table)).scalar())
        say(c.execute(table.update().where(table.c.id < 10).values(name="few").returning(table.c.id)).fetchall())
        nested = c.begin_nested()
        failing("alchemy", c.exec_driver_sql, "SELECT 1/0")
        nested.rollback()
    inspector = sqlalchemy.inspect(engine)
    say(inspector.get_columns("alchemy")[1]["name"], inspector.get_indexes("alchemy"))
    say(sorted(inspector.get_table_names(schema="shop")), inspector.get_foreign_keys("orders", schema="shop"))
    metadata.drop_all(engine)
    engine.dispose()


psycopg3()
asyncio.run(psycopg3_async())
psycopg_2()
asyncio.run(asyncpg_())
alchemy()
