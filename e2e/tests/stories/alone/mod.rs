//! The longest story. It comes first, by its name, and needs the machine for itself until its rows go one after the other.

mod bad_situations;
