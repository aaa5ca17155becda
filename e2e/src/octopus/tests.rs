//! The server over a database in memory.
