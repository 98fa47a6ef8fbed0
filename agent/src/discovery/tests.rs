//! Discovery against real servers and against processes that pretend to be some.
