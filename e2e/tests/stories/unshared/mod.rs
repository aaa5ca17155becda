//! Stories that need the machine for themselves: no other runs beside them. They come last, by their name.

mod bulkheads;
mod sixty;
