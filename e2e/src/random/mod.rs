//! Random worlds: from a seed a plan of edits, faults, kills and waits ([`plan`]), what applies it to a sandbox ([`act`]),
//! what has to hold meanwhile ([`check`]), what has to come of it ([`end`]), and faults that are planted to see that they
//! are found ([`planted`]).

pub mod act;
pub mod check;
pub mod end;
pub mod plan;
pub mod planted;
pub mod state;

/// Dice that fall the same way for the same seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice for a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to below `sides`; 0 without sides.
    pub fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(sides).unwrap_or(0)
    }

    /// Whether something happens that does so in `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these; none of none.
    pub fn one<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let at = usize::try_from(self.below(u64::try_from(of.len()).unwrap_or(0))).unwrap_or(0);
        of.get(at).cloned()
    }
}
