#!/usr/bin/env python3
"""Records the transcripts of this folder from a throwaway PostgreSQL server.

Run as root on a host with PostgreSQL's Debian packages, with a Python that has `psycopg[binary]`:

    python3 -m venv venv && venv/bin/pip install 'psycopg[binary]'
    venv/bin/python tests/transcripts/record.py [SCENARIO...]
    UPDATE_EXPECT=1 cargo test -p dbwarden-tests --test postgres_transcripts

The second command writes what is decoded; read its difference. A transcript has one line for each
read of the proxy, `>` from the client and `<` from the server, in the escapes of Rust's byte strings.
Names carry the server's version, the client and the subject. The passwords in them are throwaway.
"""
import os, shutil, socket, struct, subprocess, sys, tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.environ.get("PGBIN", "/usr/lib/postgresql/15/bin")


def escape(data):
    plain = {9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 92: "\\\\", 0: "\\0"}
    return "".join(
        plain.get(b) or (chr(b) if 32 <= b < 127 else "\\x%02x" % b) for b in data
    )


class Proxy:
    """Passes bytes on unchanged, and notes them per connection."""

    def __init__(self, port):
        self.upstream = port
        self.connections = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.upstream))
            lines, lock = [], threading.Lock()
            pumps = [
                threading.Thread(target=self.pump, args=(client, server, ">", lines, lock)),
                threading.Thread(target=self.pump, args=(server, client, "<", lines, lock)),
            ]
            self.connections.append((lines, pumps))
            for pump in pumps:
                pump.start()

    @staticmethod
    def pump(source, target, mark, lines, lock):
        try:
            while data := source.recv(65536):
                with lock:
                    lines.append(f'{mark} "{escape(data)}"')
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self.listener.close()
        for _, pumps in self.connections:
            for pump in pumps:
                pump.join(10)
        return [lines for lines, _ in self.connections]


class Raw:
    """A client that says exactly what a scenario wants."""

    def __init__(self, port, **parameters):
        self.socket = socket.create_connection(("127.0.0.1", port))
        body = struct.pack("!I", 0x30000)
        for name, value in {"user": "ann", "database": "demo", **parameters}.items():
            body += name.encode() + b"\0" + value.encode() + b"\0"
        body += b"\0"
        self.socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self.until(b"Z")

    @staticmethod
    def message(tag, body=b""):
        return tag + struct.pack("!I", len(body) + 4) + body

    def send(self, *messages):
        self.socket.sendall(b"".join(self.message(*m) for m in messages))

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def until(self, *tags):
        while True:
            tag, length = struct.unpack("!cI", self.exactly(5))
            body = self.exactly(length - 4)
            if tag == b"K":
                self.key = body
            if tag in tags:
                return tag

    def close(self):
        self.send((b"X",))
        self.socket.close()


def run(*command, stdin=None, check=True):
    return subprocess.run(
        command, input=stdin, text=True, check=check, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ).stdout


def psql(port, script, user="ann", database="demo"):
    environment = dict(os.environ, PGPASSWORD="throwaway", PGAPPNAME="psql")
    subprocess.run(
        [f"{BIN}/psql", "-X", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", user, "-d", database],
        input=script, text=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )


def psql_simple(port):
    psql(port, "select 1;\nselect n, 'row ' || n from generate_series(1, 3) n;\n"
         "create table t (id int primary key, note text);\n"
         "insert into t values (1, 'one'), (2, 'zwei é');\n"
         "update t set note = 'x' where id = 2;\nbegin;\ndelete from t;\nrollback;\n"
         "set application_name = 'renamed';\ndrop table t;\n", user="scram")


def psql_errors(port):
    psql(port, "select * from missing;\nselec 1;\nbegin;\nselect 1/0;\nselect 2;\nrollback;\n"
         "do $$ begin raise notice 'look'; raise warning 'out'; end $$;\n;\n")


def psql_multi(port):
    psql(port, "select 1\\; select 2 union select 3\\; select 4;\n"
         "select 5\\; select 1/0\\; select 6;\n\\;\nselect 7;\n")


def psql_copy(port):
    psql(port, "create table c (id int, note text);\ncopy c from stdin;\n1\tone\n2\ttwo\n\\.\n"
         "copy c from stdin;\nx\tbad\n\\.\ncopy c to stdout;\n"
         "copy (select g from generate_series(1, 500) g) to stdout;\ndrop table c;\n")


def psql_long(port):
    psql(port, "select length('" + "long " * 3000 + "');\nselect repeat('z', 20000), g from "
         "generate_series(1, 2) g;\nselect 1;\n")


def psycopg_prepared(port):
    import psycopg, datetime, decimal, uuid
    with psycopg.connect(host="127.0.0.1", port=port, user="ann", dbname="demo", autocommit=True,
                         application_name="psycopg") as connection:
        for _ in range(7):
            connection.execute("select %s::int4 + 1", (41,)).fetchall()
        cursor = connection.cursor(binary=True)
        cursor.execute(
            "select %b, %b, %b, %b, %b, %b, %b, %t",
            (True, 7, 1.5, datetime.date(2024, 2, 29), decimal.Decimal("-12.340"),
             uuid.UUID(int=5), b"\0\xff", None),
        ).fetchall()
        cursor.executemany("select %s::text", [("a",), ("b",), (None,)])
        with connection.pipeline():
            for n in range(4):
                connection.execute("select %s::int8", (n,))
        try:
            with connection.pipeline():
                connection.execute("select 1")
                connection.execute("select 1/%s", (0,))
                connection.execute("select 3")
        except psycopg.Error:
            pass
        with connection.transaction():
            with connection.cursor("named") as cursor:
                cursor.execute("select generate_series(1, 10)")
                cursor.fetchmany(4)
                cursor.fetchmany(4)
        with connection.cursor() as cursor:
            cursor.execute("create temp table c (id int, note text)")
            with cursor.copy("copy c from stdin") as copy:
                copy.write_row((1, "one"))
                copy.write_row((2, None))
            with cursor.copy("copy c to stdout") as copy:
                for _ in copy:
                    pass


PARSE = lambda name, text: (b"P", name + b"\0" + text + b"\0\0\0")
BIND = lambda portal, name: (b"B", portal + b"\0" + name + b"\0\0\0\0\0\0\0")
EXECUTE = lambda portal, rows=0: (b"E", portal + b"\0" + struct.pack("!I", rows))
SYNC, FLUSH = (b"S",), (b"H",)


def raw_portals(port):
    c = Raw(port)
    ten = b"select generate_series(1, 10)"
    c.send(PARSE(b"s1", ten), BIND(b"p1", b"s1"), EXECUTE(b"p1", 4), FLUSH); c.until(b"s")
    c.send(EXECUTE(b"p1", 4), FLUSH); c.until(b"s")
    c.send(EXECUTE(b"p1", 4), SYNC); c.until(b"Z")
    # Left before its end: by Close, by another Bind, by Sync outside a transaction.
    c.send((b"Q", b"begin\0")); c.until(b"Z")
    c.send(BIND(b"p2", b"s1"), EXECUTE(b"p2", 3), SYNC); c.until(b"Z")
    c.send(BIND(b"", b"s1"), EXECUTE(b"", 2), (b"C", b"Pp2\0"), SYNC); c.until(b"Z")
    c.send(BIND(b"", b"s1"), EXECUTE(b"", 5), EXECUTE(b"", 5), EXECUTE(b"", 5), SYNC); c.until(b"Z")
    c.send((b"Q", b"commit\0")); c.until(b"Z")
    c.send(BIND(b"", b"s1"), EXECUTE(b"", 1), SYNC); c.until(b"Z")
    # A pipeline of two stretches, of which the first fails; a name that is not there; a closed one.
    c.send(PARSE(b"", b"select 1/0"), BIND(b"", b""), EXECUTE(b""), PARSE(b"s2", b"select 2"),
           SYNC, PARSE(b"s2", b"select 22"), BIND(b"", b"s2"), EXECUTE(b""), SYNC)
    c.until(b"Z"); c.until(b"Z")
    c.send(BIND(b"", b"nobody"), EXECUTE(b""), SYNC); c.until(b"Z")
    c.send((b"C", b"Ss1\0"), BIND(b"", b"s1"), EXECUTE(b""), SYNC); c.until(b"Z")
    c.send(PARSE(b"s2", b"select 'duplicate'"), SYNC); c.until(b"Z")
    c.send(PARSE(b"", b""), BIND(b"", b""), (b"D", b"P\0"), EXECUTE(b""), SYNC); c.until(b"Z")
    c.send((b"Q", b"select 5\0"), (b"Q", b"select 6\0")); c.until(b"Z"); c.until(b"Z")
    c.close()


def raw_function_call(port):
    c = Raw(port, application_name="raw")
    # int4pl(int4, int4) is function 177.
    arguments = struct.pack("!IHHHIiIi", 177, 1, 1, 2, 4, 40, 4, 2) + struct.pack("!H", 1)
    c.send((b"F", arguments)); c.until(b"Z")
    c.send((b"F", struct.pack("!IHHH", 4_000_000_000, 0, 0, 0))); c.until(b"Z")
    c.close()


def raw_cancel(port):
    c = Raw(port)
    c.send((b"Q", b"select pg_sleep(20)\0"))
    time.sleep(0.3)
    with socket.create_connection(("127.0.0.1", port)) as canceller:
        canceller.sendall(struct.pack("!II", 16, 80877102) + c.key)
        canceller.recv(1)
    c.until(b"Z")
    c.close()


def recvlogical_replication(port):
    at = ["-h", "127.0.0.1", "-p", str(port), "-U", "ann", "-d", "demo", "-S", "slot"]
    run(f"{BIN}/pg_recvlogical", *at, "--create-slot", "-P", "test_decoding")
    c = Raw(SERVER)
    c.send((b"Q", b"create table r (id int)\0")); c.until(b"Z")
    c.send((b"Q", b"insert into r select generate_series(1, 3)\0")); c.until(b"Z")
    c.close()
    end = run(f"{BIN}/psql", "-XAt", "-h", "127.0.0.1", "-p", str(SERVER), "-U", "ann", "demo",
              "-c", "select pg_current_wal_lsn()").strip()
    run(f"{BIN}/pg_recvlogical", *at, "--start", "-f", "-", "--endpos", end)
    run(f"{BIN}/pg_recvlogical", *at, "--drop-slot")


def pgbench_prepared(port):
    run(f"{BIN}/pgbench", "-i", "-q", "-h", "127.0.0.1", "-p", str(SERVER), "-U", "ann", "demo")
    run(f"{BIN}/pgbench", "-n", "-M", "prepared", "-t", "4", "-c", "1", "-h", "127.0.0.1", "-p",
        str(port), "-U", "ann", "--random-seed=1", "demo")


SCENARIOS = [psql_simple, psql_errors, psql_multi, psql_copy, psql_long, psycopg_prepared,
             raw_portals, raw_function_call, raw_cancel, recvlogical_replication,
             pgbench_prepared]


def main():
    global SERVER
    directory = tempfile.mkdtemp(prefix="dbwarden-record-")
    shutil.chown(directory, "postgres", "postgres")
    as_postgres = ["runuser", "-u", "postgres", "--"]
    data = f"{directory}/data"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        SERVER = probe.getsockname()[1]
    run(*as_postgres, f"{BIN}/initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync")
    with open(f"{data}/pg_hba.conf", "w") as hba:
        hba.write("host all scram 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
                  "host replication all 127.0.0.1/32 trust\n")
    server = subprocess.Popen(
        [*as_postgres, f"{BIN}/postgres", "-D", data, "-p", str(SERVER), "-h", "127.0.0.1", "-k",
         directory, "-c", "wal_level=logical", "-c", "fsync=off"],
        stderr=subprocess.DEVNULL)
    try:
        while subprocess.run([f"{BIN}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(SERVER)]).returncode:
            if server.poll() is not None:
                sys.exit("the server did not start")
        admin = [f"{BIN}/psql", "-XAtq", "-h", "127.0.0.1", "-p", str(SERVER), "-U", "postgres"]
        run(*admin, stdin="create role ann superuser login;\ncreate database demo owner ann;\n"
            "create role scram login superuser password 'throwaway';\n")
        version = run(*admin, "-c", "show server_version").split()[0]
        for scenario in SCENARIOS:
            name = scenario.__name__.replace("_", "-")
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            proxy = Proxy(SERVER)
            scenario(proxy.port)
            connections = [lines for lines in proxy.close() if lines]
            for number, lines in enumerate(connections, 1):
                suffix = f"-{number}" if len(connections) > 1 else ""
                path = f"{HERE}/postgresql-{version}-{name}{suffix}.transcript"
                with open(path, "w") as out:
                    out.write("\n".join(lines) + "\n")
                print(path, len(lines), "lines")
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
