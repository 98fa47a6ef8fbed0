-- A database that has one of everything psql can describe.
CREATE SCHEMA shop;
CREATE ROLE clerk LOGIN;
CREATE ROLE auditor;
GRANT clerk TO auditor;
ALTER ROLE clerk IN DATABASE postgres SET work_mem = '8MB';
CREATE DOMAIN shop.price AS numeric(10, 2) CHECK (VALUE >= 0);
CREATE TYPE shop.mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE shop.pair AS (a int, b text);
CREATE TYPE shop.span AS RANGE (subtype = int4);
CREATE SEQUENCE shop.counter;
CREATE TABLE shop.customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    mood shop.mood DEFAULT 'ok',
    doubled int GENERATED ALWAYS AS (2) STORED,
    note varchar(20) COLLATE "C");
COMMENT ON TABLE shop.customers IS 'Kunden, with an ü';
COMMENT ON COLUMN shop.customers.name IS 'how they are called';
CREATE TABLE shop.orders (
    id int PRIMARY KEY,
    customer bigint REFERENCES shop.customers ON DELETE CASCADE,
    total shop.price,
    at timestamptz DEFAULT '2026-01-01 00:00+00',
    EXCLUDE USING btree (total WITH =));
CREATE INDEX by_lower_name ON shop.customers (lower(name)) WHERE note IS NULL;
CREATE STATISTICS shop.together ON customer, total FROM shop.orders;
CREATE TABLE shop.events (at date, what text) PARTITION BY RANGE (at);
CREATE TABLE shop.events_2025 PARTITION OF shop.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE shop.events_rest PARTITION OF shop.events DEFAULT;
CREATE INDEX ON shop.events (at);
CREATE TABLE shop.vip (discount int) INHERITS (shop.customers);
CREATE UNLOGGED TABLE shop.scratch (x int) WITH (fillfactor = 70);
CREATE VIEW shop.happy AS SELECT id, name FROM shop.customers WHERE mood = 'happy' WITH CHECK OPTION;
CREATE MATERIALIZED VIEW shop.totals AS SELECT customer, sum(total) AS total FROM shop.orders GROUP BY 1;
CREATE FUNCTION shop.twice(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * x';
CREATE FUNCTION shop.touched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE PROCEDURE shop.noop(INOUT x int) LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'nothing: %', x; END $$;
CREATE AGGREGATE shop.product(int) (SFUNC = int4mul, STYPE = int, INITCOND = '1');
CREATE OPERATOR shop.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
CREATE CAST (text AS shop.mood) WITH INOUT AS ASSIGNMENT;
CREATE TRIGGER touch BEFORE UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.touched();
CREATE RULE keep AS ON DELETE TO shop.scratch DO INSTEAD NOTHING;
ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON shop.orders FOR SELECT TO clerk USING (total < 100);
GRANT SELECT, INSERT (name) ON shop.customers TO clerk;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO auditor;
CREATE COLLATION shop.german (provider = icu, locale = 'de');
CREATE TEXT SEARCH CONFIGURATION shop.plain (COPY = simple);
CREATE EXTENSION postgres_fdw;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere.invalid');
CREATE USER MAPPING FOR clerk SERVER far OPTIONS (user 'far', password 'hidden');
CREATE FOREIGN TABLE shop.distant (id int OPTIONS (column_name 'ID')) SERVER far OPTIONS (schema_name 's');
CREATE PUBLICATION told FOR TABLE shop.customers (id, name) WHERE (id > 10);
CREATE PUBLICATION all_told FOR ALL TABLES;
CREATE SUBSCRIPTION heard CONNECTION 'host=nowhere.invalid' PUBLICATION told WITH (connect = false);
CREATE FUNCTION shop.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('DROP OWNED') EXECUTE FUNCTION shop.on_ddl();
SELECT lo_from_bytea(4711, 'large');
COMMENT ON LARGE OBJECT 4711 IS 'an object';
INSERT INTO shop.customers (name, mood, note) SELECT 'Kundin ' || n || ' ü', 'happy', 'n' || n FROM generate_series(1, 50) AS n;
INSERT INTO shop.orders SELECT n, n, n * 1.5 FROM generate_series(1, 50) AS n;
INSERT INTO shop.events SELECT date '2025-06-01' + n * 20, 'x' || n FROM generate_series(1, 30) AS n;
REFRESH MATERIALIZED VIEW shop.totals;
ANALYZE;
