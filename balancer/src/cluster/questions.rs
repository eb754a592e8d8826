//! Questions to other servers, and what shows that a report answers one of them.
//!
//! A seal says who wrote a report, not when: whoever recorded reports can send them again, to a server that has just
//! started and knows no better, or after the one that wrote them is gone. So each query carries a number that was never
//! used before, and only a report that carries it too is certainly younger than the query. A server that isn't known, or
//! that has been restarted, is believed once it has answered; after that the order of its reports is enough.

use std::collections::{BTreeMap, VecDeque};

use super::{MAX_PEERS, Message, ServerId, Timestamp, Timing};

/// The numbers of queries that may still be answered.
#[derive(Debug)]
pub(super) struct Questions {
    next: u64,
    /// Oldest first.
    open: VecDeque<(u64, Timestamp)>,
    /// Starts of servers that were asked to prove themselves, and when.
    challenged: BTreeMap<(ServerId, u64), Timestamp>,
}

impl Questions {
    /// `random` must differ from start to start.
    pub fn new(random: u64) -> Self {
        Self {
            next: random,
            open: VecDeque::new(),
            challenged: BTreeMap::new(),
        }
    }

    /// A number that was never used before.
    pub fn number(&mut self) -> u64 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        number
    }

    /// A new question.
    pub fn ask(&mut self, now: Timestamp) -> Message {
        let nonce = self.number();
        self.open.push_back((nonce, now));
        Message::Query { nonce }
    }

    /// Whether one of `answers` is to a question that is young enough ([`Timing::validity`]). An older answer says no more than silence.
    pub fn are_answered(&mut self, now: Timestamp, answers: &[u64], timing: Timing) -> bool {
        while let Some((_, asked)) = self.open.front()
            && now.since(*asked) > timing.validity()
        {
            self.open.pop_front();
        }
        self.open.iter().any(|(nonce, _)| answers.contains(nonce))
    }

    /// Whether the start `boot` of server `id` is to be asked now to prove itself: not again within the gap, so that nobody
    /// who repeats its reports makes this server flood others.
    pub fn challenges(&mut self, now: Timestamp, id: ServerId, boot: u64, timing: Timing) -> bool {
        self.challenged
            .retain(|_, asked| now.since(*asked) < timing.gap());
        let start = (id, boot);
        let may = self.challenged.len() < MAX_PEERS && !self.challenged.contains_key(&start);
        if may {
            self.challenged.insert(start, now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn answers_count_until_the_time_out() {
        let quick = Timing::new(Duration::from_millis(10), 3);
        assert_eq!(quick.validity(), Duration::from_millis(200));
        let timing = Timing::new(Duration::from_millis(100), 3);
        let mut questions = Questions::new(u64::MAX);
        let at = |millis| Timestamp(0) + Duration::from_millis(millis);
        assert_eq!(questions.ask(at(0)), Message::Query { nonce: u64::MAX });
        assert_eq!(questions.ask(at(200)), Message::Query { nonce: 0 });
        assert!(!questions.are_answered(at(1), &[], timing));
        assert!(!questions.are_answered(at(1), &[1, 2], timing));
        assert!(questions.are_answered(at(300), &[1, u64::MAX], timing));
        assert!(!questions.are_answered(at(301), &[u64::MAX], timing));
        assert!(questions.are_answered(at(301), &[0], timing));
    }

    #[test]
    fn challenges_have_a_gap() {
        let timing = Timing::new(Duration::from_millis(100), 3);
        let mut questions = Questions::new(0);
        let at = |millis| Timestamp(0) + Duration::from_millis(millis);
        assert!(questions.challenges(at(1), ServerId(1), 7, timing));
        assert!(!questions.challenges(at(10), ServerId(1), 7, timing));
        assert!(questions.challenges(at(10), ServerId(1), 8, timing));
        assert!(questions.challenges(at(10), ServerId(2), 7, timing));
        assert!(questions.challenges(at(11), ServerId(1), 7, timing));
    }
}
