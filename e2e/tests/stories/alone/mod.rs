//! Stories that need the machine for themselves: no other runs beside them. They come first, by their name.

mod bad_situations;
mod bulkheads;
mod instances_killed;
mod sixty;
