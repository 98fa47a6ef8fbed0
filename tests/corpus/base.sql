-- What each case of the corpus finds in its database.
CREATE TABLE victims (id int PRIMARY KEY, name text NOT NULL, balance numeric(10,2) NOT NULL DEFAULT 0, note text);
INSERT INTO victims SELECT n, 'name ' || n, n * 10.25, NULL FROM generate_series(1, 20) n;
CREATE TABLE orders (id int PRIMARY KEY, victim int, note text);
INSERT INTO orders SELECT n, n, NULL FROM generate_series(1, 10) n;
GRANT SELECT, INSERT, UPDATE, DELETE ON victims, orders TO app;
CREATE TABLE shelf (id int, name text);
CREATE VIEW shown AS SELECT id, name FROM shelf WHERE id < 5;
CREATE FUNCTION half(a int) RETURNS int LANGUAGE sql AS 'SELECT a / 2';
CREATE SEQUENCE numbers;
CREATE TYPE colour AS ENUM ('red', 'green');
CREATE INDEX orders_of_victim ON orders (victim);
-- As autovacuum leaves it.
ANALYZE;
