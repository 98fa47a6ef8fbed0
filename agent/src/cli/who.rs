//! Who a row names: the columns that do, the best first.

/// Of a row that has the columns as fields, what is said of its sender by the best that is verified.
macro_rules! who {
    ($row:expr) => {{
        let row = $row;
        let names = [
            &row.principal,
            &row.login_user,
            &row.os_user,
            &row.unit,
            &row.container,
            &row.client_address,
        ];
        names.into_iter().flatten().next().map(String::as_str)
    }};
}
pub(super) use who;
