-- What each case of the masking corpus finds in its database. Hidden: customers.ssn, customers.email and
-- customers.card, visits.email, and nothing else. Each hidden value has one of the words Kd7, Zq4 or Xv9 in it, and
-- nothing else has.
CREATE TABLE customers (
    id int PRIMARY KEY,
    name text NOT NULL,
    email text UNIQUE,
    ssn text,
    card text,
    city text,
    balance numeric(10,2) NOT NULL DEFAULT 0,
    born date,
    note text
);
INSERT INTO customers
    SELECT n, 'name ' || n, 'Kd7mail' || n || '@example.org', 'Zq4-' || lpad(n::text, 2, '0') || '-1120',
        'Xv9 0000 1111 ' || lpad(n::text, 4, '0'), (ARRAY['Bonn', 'Ulm', 'Kiel'])[1 + n % 3], n * 10.25,
        date '1970-01-01' + n, NULL
    FROM generate_series(1, 20) n;
CREATE TABLE orders (
    id int PRIMARY KEY,
    customer int REFERENCES customers,
    total numeric(10,2) NOT NULL,
    placed timestamptz NOT NULL DEFAULT now(),
    note text
);
INSERT INTO orders SELECT n, 1 + n % 20, n * 3.5, timestamptz '2026-01-01' + n * interval '1 day', NULL
    FROM generate_series(1, 60) n;
CREATE TABLE archive (id int, name text, note text);
INSERT INTO archive SELECT n, 'name ' || n, NULL FROM generate_series(1, 5) n;
CREATE TABLE categories (id int PRIMARY KEY, parent int, name text);
INSERT INTO categories VALUES (1, NULL, 'all'), (2, 1, 'books'), (3, 2, 'novels');
CREATE TABLE visits (at date NOT NULL, email text, page text) PARTITION BY RANGE (at);
CREATE TABLE visits_2026 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO visits SELECT date '2026-01-01' + n, 'Kd7mail' || n || '@example.org', '/p' || n FROM generate_series(1, 5) n;

-- Plain: its column is hidden under the view's own name.
CREATE VIEW contacts AS SELECT id, name, email AS mail FROM customers;
CREATE VIEW addresses AS SELECT id AS customer, mail AS address FROM contacts;
-- Computed: NULL, or nothing that can be followed.
CREATE VIEW areas AS SELECT id, substr(ssn, 1, 6) AS area, upper(name) AS loud FROM customers;
CREATE VIEW either AS SELECT id, email AS which FROM customers UNION ALL SELECT id, ssn FROM customers;
-- Its author looks at what is hidden, and shows none of it.
CREATE VIEW identified AS SELECT id, name FROM customers WHERE ssn IS NOT NULL ORDER BY ssn;
CREATE VIEW spending AS SELECT c.id, c.name, sum(o.total) AS total
    FROM customers c JOIN orders o ON o.customer = c.id GROUP BY c.id, c.name;
CREATE MATERIALIZED VIEW contact_copies AS SELECT id, email AS mail, ssn AS number FROM customers;

CREATE FUNCTION ssn_of(wanted int) RETURNS text LANGUAGE sql STABLE
    AS 'SELECT ssn FROM customers WHERE id = wanted';
CREATE FUNCTION customer_of(wanted int) RETURNS SETOF customers LANGUAGE sql STABLE
    AS 'SELECT * FROM customers WHERE id = wanted';
CREATE FUNCTION any_column(wanted text) RETURNS SETOF text LANGUAGE plpgsql STABLE
    AS $$ BEGIN RETURN QUERY EXECUTE format('SELECT %I::text FROM customers', wanted); END $$;
CREATE FUNCTION told(words text) RETURNS text LANGUAGE plpgsql
    AS $$ BEGIN RAISE NOTICE 'told: %', words; RETURN 'told'; END $$;
CREATE FUNCTION half(a numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT a / 2';
CREATE FUNCTION name_of(wanted int) RETURNS text LANGUAGE sql STABLE
    AS 'SELECT c.name FROM customers c WHERE c.id = wanted';
CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN NEW.note := 'touched'; RETURN NEW; END $$;
CREATE TRIGGER orders_touched BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touched();
CREATE FUNCTION copied() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN NEW.note := (SELECT ssn FROM customers WHERE id = NEW.id); RETURN NEW; END $$;
CREATE TRIGGER archive_copied BEFORE INSERT ON archive FOR EACH ROW EXECUTE FUNCTION copied();
CREATE FUNCTION same(a text, b text) RETURNS bool LANGUAGE sql STABLE
    AS 'SELECT EXISTS (SELECT FROM customers WHERE ssn = b)';
CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = same);
CREATE TABLE accounts (id int PRIMARY KEY, customer int REFERENCES customers, iban text);
INSERT INTO accounts SELECT n, n, 'DE' || n FROM generate_series(1, 20) n;

GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
GRANT CREATE ON SCHEMA public TO app;
-- As autovacuum leaves it.
ANALYZE;
