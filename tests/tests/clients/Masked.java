import java.sql.*;
import java.util.Properties;

/** What pgjdbc gets for a masked client: the same rows in every mode, and by pieces. */
public class Masked {
    public static void main(String[] words) throws Exception {
        String first = null;
        for (String mode : new String[] {"extended", "simple", "extendedForPrepared", "extendedCacheEverything"}) {
            Properties properties = new Properties();
            properties.setProperty("user", "postgres");
            properties.setProperty("preferQueryMode", mode);
            properties.setProperty("prepareThreshold", "2");
            try (Connection c = DriverManager.getConnection(words[0], properties)) {
                c.setAutoCommit(false);
                for (int size : new int[] {0, 7}) {
                    for (int n = 0; n < 4; n++) {
                        String rows = rows(c, size);
                        if (first == null) {
                            first = rows;
                        }
                        if (!rows.equals(first)) {
                            throw new Exception(mode + " " + size + " " + n + ": " + rows);
                        }
                    }
                }
            }
        }
        System.out.println(first);
    }

    static String rows(Connection c, int size) throws Exception {
        StringBuilder said = new StringBuilder();
        try (PreparedStatement p = c.prepareStatement("SELECT id, ssn, mail, born FROM people WHERE id > ? ORDER BY id")) {
            p.setInt(1, 0);
            p.setFetchSize(size);
            try (ResultSet rows = p.executeQuery()) {
                while (rows.next()) {
                    said.append(rows.getInt(1)).append(' ').append(rows.getString(2)).append(' ')
                        .append(rows.getString(3)).append(' ').append(rows.getDate(4)).append('\n');
                }
            }
        }
        return said.toString();
    }
}
