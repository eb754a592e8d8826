//! What has changed in the cluster: the last of it, for `status`.

use std::collections::VecDeque;

use crate::cluster::Timestamp;
use crate::control::status::Change;

/// Changes remembered.
const LENGTH: usize = 100;

/// The last changes, oldest first.
#[derive(Default)]
pub struct History(VecDeque<(Timestamp, String)>);

impl History {
    /// Logs a change, and remembers it.
    pub fn add(&mut self, now: Timestamp, text: String) {
        log::info!("{text}");
        if self.0.len() == LENGTH {
            self.0.pop_front();
        }
        self.0.push_back((now, text));
    }

    /// As `status` has it.
    pub fn report(&self, now: Timestamp) -> Vec<Change> {
        let change = |(at, text): &(Timestamp, String)| Change {
            ago_ms: now.since(*at).as_millis() as u64,
            text: text.clone(),
        };
        self.0.iter().map(change).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut history = History::default();
        for number in 0..150 {
            history.add(Timestamp(number * 1_000_000), number.to_string());
        }
        let report = history.report(Timestamp(149_000_000));
        assert_eq!(report.len(), LENGTH);
        assert_eq!((report[0].ago_ms, report[0].text.as_str()), (99, "50"));
    }
}
