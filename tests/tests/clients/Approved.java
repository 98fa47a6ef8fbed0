import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.*;
import java.util.Properties;
import org.postgresql.util.PSQLException;

/** What pgjdbc gets for a statement that needs a ticket, and what becomes of it once that was approved. */
public class Approved {
    static final BufferedReader input = new BufferedReader(new InputStreamReader(System.in));

    public static void main(String[] words) throws Exception {
        int id = 20;
        for (String mode : new String[] {"extended", "simple", "extendedForPrepared", "extendedCacheEverything"}) {
            Properties properties = new Properties();
            properties.setProperty("user", "app");
            properties.setProperty("preferQueryMode", mode);
            properties.setProperty("prepareThreshold", "2");
            try (Connection c = DriverManager.getConnection(words[0], properties)) {
                String first = denied(c, id);
                approve(first);
                int n = update(c, id);
                System.out.println(mode + " autocommit WA001 updated " + n + " then " + denied(c, id).substring(0, 5));
                id++;
                c.setAutoCommit(false);
                String second = denied(c, id);
                c.rollback();
                approve(second);
                System.out.println(mode + " transaction WA001 updated " + update(c, id));
                c.commit();
                id++;
            }
        }
    }

    static int update(Connection c, int id) throws SQLException {
        try (PreparedStatement p = c.prepareStatement("UPDATE customers SET name = ? WHERE id = ?")) {
            p.setString(1, "by pgjdbc");
            p.setInt(2, id);
            return p.executeUpdate();
        }
    }

    /** The state, and the approval's id behind it. */
    static String denied(Connection c, int id) throws SQLException {
        try {
            update(c, id);
            throw new IllegalStateException("not denied");
        } catch (PSQLException e) {
            if (!e.getSQLState().equals("WA001")) throw e;
            return e.getSQLState() + " " + e.getServerErrorMessage().getDetail().split(" ")[1];
        }
    }

    /** Whoever has started this has somebody approve it. */
    static void approve(String ticket) throws Exception {
        System.out.println("approve " + ticket.split(" ")[1]);
        if (!"approved".equals(input.readLine())) throw new IllegalStateException("not approved");
    }
}
