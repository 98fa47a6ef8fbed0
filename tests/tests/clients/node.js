// What node-postgres gets from a server.
const { Client, Pool } = require("pg");
const [host, port] = process.argv.slice(2);
const way = { host, port: Number(port), user: "postgres", database: "postgres" };
const say = (...words) => console.log(JSON.stringify(words));

async function main() {
  const c = new Client(way);
  c.on("notice", (notice) => say("notice", notice.code, notice.message));
  c.on("notification", (told) => say("told", told.channel, told.payload));
  await c.connect();
  for (const value of [1, 1.5, "zwei ü", null, true, new Date(0), [1, 2], { a: 1 }]) {
    say((await c.query("SELECT $1::text AS v", [value])).rows);
  }
  say((await c.query("SELECT $1::bytea AS v", [Buffer.from([0, 255])])).rows);
  for (let n = 0; n < 5; n++) {
    say((await c.query({ name: "named", text: "SELECT $1::int + 1 AS v", values: [n] })).rows);
  }
  say((await c.query("SELECT 1 AS a; SELECT 2 AS b")).map((result) => result.rows));
  for (const text of ["SELEC 1", "SELECT 1/0"]) {
    await c.query(text).catch((error) => say(error.code, error.message, error.position));
  }
  await c.query("SELECT $1::int", ["no number"]).catch((error) => say(error.code, error.message));
  await c.query("DO $$ BEGIN RAISE NOTICE 'hear'; END $$");
  await c.query("LISTEN ear");
  await c.query("NOTIFY ear, 'word'");
  say((await c.query({ text: "SELECT generate_series(1, 1000)", rowMode: "array" })).rows.length);
  say((await c.query("SELECT name, mood FROM shop.customers WHERE id < 4 ORDER BY id")).rows);
  await c.end();
  const pool = new Pool({ ...way, max: 5 });
  const all = await Promise.all([...Array(50).keys()].map((n) => pool.query("SELECT $1::int AS n", [n])));
  say(all.map((result) => result.rows[0].n).reduce((a, b) => a + b));
  await pool.end();
}

main().catch((error) => { console.error(error); process.exit(1); });
