//! Functions that clients call by number: PostgreSQL never changes the numbers of its own.

/// Of libpq's large objects.
const LARGE_OBJECTS: &[(u32, &str)] = &[
    (715, "lo_create"),
    (764, "lo_import"),
    (765, "lo_export"),
    (767, "lo_import"),
    (952, "lo_open"),
    (953, "lo_close"),
    (954, "loread"),
    (955, "lowrite"),
    (956, "lo_lseek"),
    (957, "lo_creat"),
    (958, "lo_tell"),
    (964, "lo_unlink"),
    (1004, "lo_truncate"),
    (3170, "lo_lseek64"),
    (3171, "lo_tell64"),
    (3172, "lo_truncate64"),
];

/// The name of one of them, which is in `pg_catalog`.
pub(in crate::guard) fn large_object(oid: u32) -> Option<&'static str> {
    LARGE_OBJECTS.iter().find(|(number, _)| *number == oid).map(|(_, name)| *name)
}
