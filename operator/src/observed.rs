//! What we know of something outside.

/// What a look at something outside gave. Nothing is ever deleted, moved or made again because of
/// `Unknown` (invariant 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed<T> {
    /// It certainly does not exist.
    Absent,
    /// We could not find out; why, in words for a condition.
    Unknown(String),
    /// It exists.
    Present(T),
}
