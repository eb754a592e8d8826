//! Waiting for what is to come true, and not longer.
#![expect(clippy::disallowed_methods, reason = "a bound on a wait is real time")]

use std::thread;
use std::time::{Duration, Instant};

/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `holds` does, for `limit` at most.
///
/// # Panics
///
/// It never did; `what` says what was waited for.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    until_some(what, limit, || holds().then_some(()));
}

/// Waits until there is a value, for `limit` at most.
///
/// # Panics
///
/// There never was; `what` says what was waited for.
pub fn until_some<T>(what: &str, limit: Duration, mut value: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain: {what}");
        thread::sleep(PAUSE);
    }
}
