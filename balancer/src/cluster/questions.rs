//! Questions to other servers, and what shows that a report answers one of them.
//!
//! A seal says who wrote a report, not when: whoever recorded reports can send them again, to a server that has just
//! started and knows no better, or after the one that wrote them is gone. So each query carries a number that was never
//! used before, and only a report that carries it too is certainly younger than the query. A server that isn't known, or
//! that has been restarted, is believed once it has answered; after that the order of its reports is enough. Datagrams get
//! lost, so it is asked again, ever less often, while its reports are heard.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use super::{MAX_PEERS, Message, ServerId, Timestamp, Timing};

/// The numbers of queries that may still be answered.
#[derive(Debug)]
pub(super) struct Questions {
    next: u64,
    /// Oldest first.
    open: VecDeque<(u64, Timestamp)>,
    /// Starts of servers that were asked to prove themselves.
    challenged: BTreeMap<(ServerId, u64), Challenge>,
}

#[derive(Debug)]
struct Challenge {
    /// Where its last report came from, and when.
    from: SocketAddr,
    heard: Timestamp,
    asked: Timestamp,
    /// From then until it is asked again.
    pause: Duration,
}

impl Challenge {
    fn due(&self) -> Timestamp {
        self.asked + self.pause
    }

    /// Whether it is asked again though no other report of it comes.
    fn is_pursued(&self, timing: Timing) -> bool {
        self.due() < self.heard + timing.timeout()
    }
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

    /// Whether the start `boot` of server `id`, of which a report came from the address `from`, is to be asked now to prove
    /// itself: not again within the gap, so that nobody who repeats its reports makes this server flood others.
    pub fn challenges(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        id: ServerId,
        boot: u64,
        timing: Timing,
    ) -> bool {
        let (start, gap) = ((id, boot), timing.gap());
        let rests = |challenge: &Challenge| now.since(challenge.asked) >= gap;
        if let Some(challenge) = self.challenged.get_mut(&start) {
            let may = rests(challenge);
            challenge.from = from;
            challenge.heard = now;
            if may {
                challenge.asked = now;
            }
            return may;
        }
        if self.challenged.len() >= MAX_PEERS {
            self.challenged.retain(|_, challenge| !rests(challenge));
        }
        let may = self.challenged.len() < MAX_PEERS;
        if may {
            let challenge = Challenge {
                from,
                heard: now,
                asked: now,
                pause: gap,
            };
            self.challenged.insert(start, challenge);
        }
        may
    }

    /// The start `boot` of server `id` has shown that it is there.
    pub fn is_proven(&mut self, id: ServerId, boot: u64) {
        self.challenged.remove(&(id, boot));
    }

    /// Whom to ask again to prove themselves.
    pub fn handle_timeout(&mut self, now: Timestamp, timing: Timing) -> Vec<SocketAddr> {
        self.challenged.retain(|_, challenge| {
            challenge.is_pursued(timing) || now.since(challenge.asked) < timing.gap()
        });
        let due =
            |challenge: &&mut Challenge| challenge.is_pursued(timing) && challenge.due() <= now;
        (self.challenged.values_mut())
            .filter(due)
            .map(|challenge| {
                challenge.asked = now;
                challenge.pause = (challenge.pause * 2).min(timing.period);
                challenge.from
            })
            .collect()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_timeout(&self, timing: Timing) -> Timestamp {
        (self.challenged.values())
            .filter(|challenge| challenge.is_pursued(timing))
            .map(Challenge::due)
            .min()
            .unwrap_or(Timestamp::NEVER)
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
        let mut challenges = |millis, id, boot| {
            let at = Timestamp(0) + Duration::from_millis(millis);
            questions.challenges(at, address(1), ServerId(id), boot, timing)
        };
        assert!(challenges(1, 1, 7));
        assert!(!challenges(10, 1, 7));
        assert!(challenges(10, 1, 8));
        assert!(challenges(10, 2, 7));
        assert!(challenges(11, 1, 7));
        assert!(!challenges(20, 1, 7));

        // Those that were asked before make room.
        for boot in 0..MAX_PEERS as u64 {
            assert!(challenges(21, 3, boot));
        }
        assert!(!challenges(22, 4, 1));
        assert!(challenges(31, 4, 1));
    }

    #[test]
    fn who_has_not_answered_is_asked_again_while_it_is_heard() {
        let timing = Timing::new(Duration::from_millis(100), 3);
        let at = |millis| Timestamp(0) + Duration::from_millis(millis);
        let mut questions = Questions::new(0);
        assert_eq!(questions.next_timeout(timing), Timestamp::NEVER);
        assert!(questions.challenges(at(0), address(1), ServerId(1), 7, timing));
        assert!(questions.challenges(at(5), address(2), ServerId(2), 7, timing));
        questions.is_proven(ServerId(2), 7);

        let run = |questions: &mut Questions| {
            let mut asked = Vec::new();
            while questions.next_timeout(timing) != Timestamp::NEVER {
                let now = questions.next_timeout(timing);
                let to = questions.handle_timeout(now, timing);
                asked.extend(
                    to.iter()
                        .map(|to| (now.since(at(0)).as_millis(), to.port())),
                );
            }
            asked
        };
        let asked = [(10, 1), (30, 1), (70, 1), (150, 1), (250, 1)];
        assert_eq!(
            run(&mut questions),
            asked,
            "once each period at last, and no more after the time-out"
        );

        assert!(questions.challenges(at(400), address(3), ServerId(1), 7, timing));
        let asked = [(500, 3), (600, 3)];
        assert_eq!(
            run(&mut questions),
            asked,
            "where its last report came from"
        );
        assert!(questions.handle_timeout(at(700), timing).is_empty());
        assert!(questions.challenged.is_empty(), "it isn't heard any more");
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }
}
