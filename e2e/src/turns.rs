//! Turns of the stories of one test program: most run beside each other, and some need the machine for themselves.

use std::{
    cell::Cell,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Who has a turn now.
#[derive(Default)]
struct Turns {
    together: usize,
    is_alone: bool,
    waits_alone: usize,
}

static TURNS: Mutex<Turns> = Mutex::new(Turns { together: 0, is_alone: false, waits_alone: 0 });
static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// How many turns this thread has: each story has a thread of its own, and a story's second sandbox waits for nobody.
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// A turn, until it is dropped.
pub struct Turn {
    is_alone: AtomicBool,
}

/// Waits until nobody runs alone, or is about to.
pub fn together() -> Turn {
    let is_first = HERE.get() == 0;
    let wait = |turns: &mut Turns| is_first && (turns.is_alone || turns.waits_alone > 0);
    let mut turns = CHANGED.wait_while(lock(), wait).unwrap_or_else(PoisonError::into_inner);
    turns.together += 1;
    HERE.set(HERE.get() + 1);
    Turn { is_alone: AtomicBool::new(false) }
}

/// Waits until nobody else runs.
pub fn alone() -> Turn {
    let mut turns = lock();
    turns.waits_alone += 1;
    let wait = |turns: &mut Turns| turns.is_alone || turns.together > 0;
    let mut turns = CHANGED.wait_while(turns, wait).unwrap_or_else(PoisonError::into_inner);
    turns.waits_alone -= 1;
    turns.is_alone = true;
    HERE.set(HERE.get() + 1);
    Turn { is_alone: AtomicBool::new(true) }
}

impl Turn {
    /// Lets others run beside from now on.
    pub fn share(&self) {
        let mut turns = lock();
        if self.is_alone.swap(false, Ordering::Relaxed) {
            turns.is_alone = false;
            turns.together += 1;
        }
        CHANGED.notify_all();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = lock();
        if self.is_alone.load(Ordering::Relaxed) {
            turns.is_alone = false;
        } else {
            turns.together -= 1;
        }
        HERE.set(HERE.get().saturating_sub(1));
        CHANGED.notify_all();
    }
}

fn lock() -> MutexGuard<'static, Turns> {
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::atomic::AtomicUsize, thread};

    #[test]
    fn who_is_alone_is_alone() {
        let running = AtomicUsize::new(0);
        thread::scope(|scope| {
            for n in 0..16 {
                let running = &running;
                scope.spawn(move || {
                    for _ in 0..50 {
                        if n % 4 == 0 {
                            let turn = alone();
                            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                            thread::yield_now();
                            if n % 8 == 0 {
                                turn.share();
                                running.fetch_sub(1, Ordering::SeqCst);
                            } else {
                                assert_eq!(running.fetch_sub(1, Ordering::SeqCst), 1);
                            }
                        } else {
                            let _turn = together();
                            running.fetch_add(1, Ordering::SeqCst);
                            let _second = together();
                            running.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(running.load(Ordering::SeqCst), 0);
    }
}
