//! What the tests with real servers share.
