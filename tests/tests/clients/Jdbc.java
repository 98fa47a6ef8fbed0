import java.io.StringReader;
import java.sql.*;
import java.util.Properties;
import org.postgresql.PGConnection;

/** What pgjdbc gets from a server: simple and extended, prepared by name, batches, cursors, COPY, large objects. */
public class Jdbc {
    public static void main(String[] words) throws Exception {
        for (String mode : new String[] {"extended", "simple", "extendedForPrepared", "extendedCacheEverything"}) {
            Properties properties = new Properties();
            properties.setProperty("user", "postgres");
            properties.setProperty("preferQueryMode", mode);
            properties.setProperty("prepareThreshold", "2");
            try (Connection c = DriverManager.getConnection(words[0], properties)) {
                run(mode, c);
            }
        }
    }

    static void run(String mode, Connection c) throws Exception {
        try (Statement s = c.createStatement()) {
            s.execute("CREATE TEMP TABLE t (n int, x text, d numeric, b bytea, at timestamptz)");
            boolean more = s.execute("SELECT 1; SELECT 'zwei ü'; UPDATE t SET n = 1");
            for (; more || s.getUpdateCount() >= 0; more = s.getMoreResults()) {
                if (more) {
                    s.getResultSet().next();
                    System.out.println(mode + " " + s.getResultSet().getString(1));
                }
            }
            try {
                s.execute("SELECT 1/0");
            } catch (SQLException e) {
                System.out.println(mode + " " + e.getSQLState() + " " + e.getMessage());
            }
        }
        try (PreparedStatement p = c.prepareStatement("INSERT INTO t VALUES (?, ?, ?, ?, ?)")) {
            for (int n = 0; n < 200; n++) {
                p.setInt(1, n);
                p.setString(2, "x".repeat(n));
                p.setBigDecimal(3, new java.math.BigDecimal("1.50"));
                // This driver can't send bytes in a simple query.
                p.setBytes(4, mode.equals("simple") ? null : new byte[] {0, (byte) 255});
                p.setTimestamp(5, new Timestamp(0));
                p.addBatch();
            }
            System.out.println(mode + " " + p.executeBatch().length);
        }
        c.setAutoCommit(false);
        try (PreparedStatement p = c.prepareStatement("SELECT n, x, d, b FROM t WHERE n < ? ORDER BY n")) {
            p.setFetchSize(17);
            for (int n = 0; n < 6; n++) {
                p.setInt(1, 150);
                long sum = 0;
                try (ResultSet rows = p.executeQuery()) {
                    while (rows.next()) {
                        byte[] bytes = rows.getBytes(4);
                        sum += rows.getInt(1) + rows.getString(2).length() + (bytes == null ? 0 : bytes.length);
                    }
                }
                System.out.println(mode + " " + sum);
            }
        }
        Savepoint savepoint = c.setSavepoint();
        try (Statement s = c.createStatement()) {
            s.execute("SELECT nothing_such");
        } catch (SQLException e) {
            System.out.println(mode + " " + e.getSQLState() + " " + e.getMessage());
            c.rollback(savepoint);
        }
        PGConnection own = c.unwrap(PGConnection.class);
        System.out.println(mode + " copied " + own.getCopyAPI().copyIn("COPY t (n, x) FROM STDIN", new StringReader("1\ta\n2\tb\n")));
        java.io.StringWriter out = new java.io.StringWriter();
        System.out.println(mode + " copied " + own.getCopyAPI().copyOut("COPY (SELECT n, x FROM t) TO STDOUT", out) + " " + out.toString().length());
        if (!mode.equals("simple")) {
            // Calls of functions by number.
            var large = own.getLargeObjectAPI();
            var object = large.open(large.createLO());
            object.write("large words".getBytes());
            object.seek(0);
            System.out.println(mode + " " + new String(object.read(100)));
            object.close();
        }
        ResultSet tables = c.getMetaData().getTables(null, "shop", "%", null);
        while (tables.next()) System.out.println(mode + " " + tables.getString(3) + " " + tables.getString(4));
        c.rollback();
        c.setAutoCommit(true);
        try (Statement s = c.createStatement()) {
            s.setQueryTimeout(1);
            s.execute("SELECT pg_sleep(60)");
        } catch (SQLException e) {
            System.out.println(mode + " " + e.getSQLState() + " " + e.getMessage());
        }
    }
}
