//! Questions to other servers, and what shows that a report answers one of them.
//!
//! A seal says who wrote a report, not when: whoever recorded reports can send them again, to a server that has just
//! started and knows no better, or after the one that wrote them is gone. So each query carries a number that was never
//! used before, and only a report that carries it too is certainly younger than the query. A server that isn't known, or
//! that has been restarted, is believed once it has answered; after that the order of its reports is enough.
//!
//! Queries and answers get lost, and who repeats a report may do so from another address. So a start that hasn't answered is
//! asked again while its reports are heard, ever less often: a few times where it was heard first, then by a query to all.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use super::{Destination, MAX_PEERS, Message, ServerId, Timestamp, Timing};

/// Questions that may still be answered: what all servers that there can be are asked until the answers are too old.
const MAX_OPEN: usize = 4 * MAX_PEERS;

/// How often a start is asked where it was heard first.
const UNICASTS: u32 = 3;

/// A server, and which start of its daemon it is.
pub(super) type Start = (ServerId, u64);

/// Each time that it was asked so often, its pauses grow by a period.
const PATIENT: u32 = 16;

/// The numbers of queries that may still be answered.
#[derive(Debug)]
pub(super) struct Questions {
    next: u64,
    /// Oldest first.
    open: VecDeque<(u64, Timestamp)>,
    /// Starts of servers that have yet to show that they are there.
    unproven: BTreeMap<Start, Unproven>,
    /// All may be asked for them from then on.
    rested: Timestamp,
}

#[derive(Debug)]
struct Unproven {
    /// Where it was heard first, and when.
    from: SocketAddr,
    since: Timestamp,
    /// It is forgotten then, unless it is heard again.
    until: Timestamp,
    /// Its rhythm, which its answers go by.
    timing: Timing,
    asked: u32,
    /// When it is asked again: never if the server has shown that this start is over.
    due: Timestamp,
}

impl Unproven {
    /// Waits for the answer, which may take two gaps, twice as long each time up to a period. For one that never answers, as
    /// the recording of a server that is gone, the pauses go on growing, but slowly: others lose what they hear for seconds.
    fn is_asked(&mut self, now: Timestamp) {
        self.asked += 1;
        let (gap, period) = (self.timing.gap(), self.timing.period);
        let pause = gap.saturating_mul(2_u32.saturating_pow(self.asked));
        self.due = now + pause.min(period.max(gap * 2) * (1 + self.asked / PATIENT));
    }

    fn to(&self) -> Destination {
        if self.asked < UNICASTS {
            Destination::Unicast(self.from)
        } else {
            Destination::Group
        }
    }
}

impl Questions {
    /// `random` must differ from start to start.
    pub fn new(random: u64) -> Self {
        Self {
            next: random,
            open: VecDeque::new(),
            unproven: BTreeMap::new(),
            rested: Timestamp(0),
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
        if self.open.len() >= MAX_OPEN {
            self.open.pop_front();
        }
        self.open.push_back((nonce, now));
        Message::Query { nonce }
    }

    /// When the youngest question was asked that one of `answers` is to, if it is young enough ([`Timing::validity`]). An older
    /// answer says no more than silence.
    pub fn answered(
        &mut self,
        now: Timestamp,
        answers: &[u64],
        timing: Timing,
    ) -> Option<Timestamp> {
        while let Some((_, asked)) = self.open.front()
            && now.since(*asked) > timing.validity()
        {
            self.open.pop_front();
        }
        let mut youngest_first = self.open.iter().rev();
        let answered = youngest_first.find(|(nonce, _)| answers.contains(nonce));
        answered.map(|(_, asked)| *asked)
    }

    /// `start`, which reports each `period`, was heard from the address `from` and has yet to show that it is there. Gives
    /// whom to ask for it now: nobody if that was done, so that nobody who repeats its reports makes this server flood others.
    pub fn challenge(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        start: Start,
        period: Duration,
        timing: Timing,
    ) -> Option<Destination> {
        let its = timing.with_period(period);
        // One report may be lost.
        let until = now + its.period * 2;
        if let Some(known) = self.unproven.get_mut(&start)
            && now < known.until
        {
            known.until = known.until.max(until);
            if its.period > known.timing.period {
                known.timing = its;
            }
            return None;
        }
        if self.unproven.len() >= MAX_PEERS {
            self.unproven.retain(|_, known| now < known.until);
        }
        if self.unproven.len() >= MAX_PEERS {
            // These are recordings. Whoever is there among the others answers as well if all are asked.
            return (now >= self.rested).then(|| self.ask_all(now, timing));
        }
        let mut unproven = Unproven {
            from,
            since: now,
            until,
            timing: its,
            asked: 0,
            due: now,
        };
        let to = unproven.to();
        unproven.is_asked(now);
        self.unproven.insert(start, unproven);
        Some(to)
    }

    /// `start` has answered what was asked at `asked`: those of its server that were heard before are over.
    pub fn is_shown(&mut self, start: Start, asked: Timestamp) {
        self.unproven.remove(&start);
        let (id, _) = start;
        for (_, other) in self.unproven.range_mut((id, 0)..=(id, u64::MAX)) {
            if other.since <= asked {
                other.due = Timestamp::NEVER;
            }
        }
    }

    /// Whom to ask again, for those that haven't answered.
    pub fn handle_timeout(&mut self, now: Timestamp, timing: Timing) -> Vec<Destination> {
        self.unproven.retain(|_, known| now < known.until);
        let may_ask_all = now >= self.rested;
        let mut asks = Vec::new();
        let mut ask_all = false;
        for unproven in self.unproven.values_mut() {
            if unproven.due > now {
                continue;
            }
            match unproven.to() {
                Destination::Group if !may_ask_all => continue,
                Destination::Group => ask_all = true,
                to @ Destination::Unicast(_) => asks.push(to),
            }
            unproven.is_asked(now);
        }
        if ask_all {
            asks.push(self.ask_all(now, timing));
        }
        asks
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Timestamp {
        let due = |unproven: &Unproven| match unproven.to() {
            Destination::Group => unproven.due.max(self.rested),
            Destination::Unicast(_) => unproven.due,
        };
        (self.unproven.values())
            .map(|unproven| (due(unproven), unproven.until))
            .filter(|(due, until)| due < until)
            .map(|(due, _)| due)
            .min()
            .unwrap_or(Timestamp::NEVER)
    }

    fn ask_all(&mut self, now: Timestamp, timing: Timing) -> Destination {
        self.rested = now + timing.gap();
        Destination::Group
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing() -> Timing {
        Timing::new(Duration::from_millis(100), 3)
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp(0) + Duration::from_millis(millis)
    }

    fn address(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 9918))
    }

    fn name(to: Destination) -> String {
        match to {
            Destination::Group => "all".to_owned(),
            Destination::Unicast(to) => to.ip().to_string(),
        }
    }

    impl Questions {
        /// Server `id` is heard by another start than is known of it, from `host`.
        fn hear(&mut self, millis: u64, host: u8, id: u64, boot: u64) -> Option<String> {
            let (start, from, period) = ((ServerId(id), boot), address(host), timing().period);
            let to = self.challenge(at(millis), from, start, period, timing());
            to.map(name)
        }

        /// Whom it asks until then, and when.
        fn run(&mut self, end: u64) -> Vec<(u128, String)> {
            let mut asked = Vec::new();
            while self.next_timeout() <= at(end) {
                let now = self.next_timeout();
                let to = self.handle_timeout(now, timing());
                assert!(!to.is_empty(), "it was woken for nothing");
                let millis = now.since(at(0)).as_millis();
                asked.extend(to.into_iter().map(|to| (millis, name(to))));
            }
            asked
        }
    }

    #[test]
    fn answers_count_until_the_time_out() {
        let quick = Timing::new(Duration::from_millis(10), 3);
        assert_eq!(quick.validity(), Duration::from_millis(200));
        let mut questions = Questions::new(u64::MAX);
        assert_eq!(questions.ask(at(0)), Message::Query { nonce: u64::MAX });
        assert_eq!(questions.ask(at(200)), Message::Query { nonce: 0 });
        let mut answered = |millis, answers: &[u64]| {
            let asked = questions.answered(at(millis), answers, timing());
            asked.map(|asked| asked.since(at(0)).as_millis())
        };
        assert_eq!(answered(201, &[]), None);
        assert_eq!(answered(201, &[1, 2]), None);
        assert_eq!(answered(300, &[1, u64::MAX]), Some(0));
        assert_eq!(answered(300, &[0, u64::MAX]), Some(200), "the youngest");
        assert_eq!(answered(301, &[u64::MAX]), None);
        assert_eq!(answered(301, &[0]), Some(200));
    }

    #[test]
    fn questions_without_answers_take_no_room() {
        let mut questions = Questions::new(0);
        for _ in 0..10 * MAX_OPEN {
            questions.ask(at(0));
        }
        assert_eq!(questions.open.len(), MAX_OPEN);
        let last = 10 * MAX_OPEN as u64 - 1;
        assert!(questions.answered(at(1), &[last], timing()).is_some());
    }

    #[test]
    fn who_has_not_answered_is_asked_again_while_it_is_heard() {
        let mut questions = Questions::new(0);
        assert_eq!(questions.next_timeout(), Timestamp::NEVER);
        assert_eq!(questions.hear(0, 2, 2, 7), Some("10.0.0.2".into()));
        let one = (20, "10.0.0.2".to_owned());
        assert_eq!(questions.run(50), [one], "the answer may take two gaps");
        // Whoever repeats its reports elsewhere draws no questions to there.
        assert_eq!(questions.hear(50, 9, 2, 7), None);
        assert_eq!(questions.hear(199, 9, 2, 7), None);
        let more = [(60, "10.0.0.2"), (140, "all"), (240, "all"), (340, "all")];
        let more = more.map(|(millis, to)| (millis, to.to_owned()));
        assert_eq!(questions.run(10_000), more);

        assert_eq!(questions.hear(399, 9, 2, 7), Some("10.0.0.9".into()));
    }

    #[test]
    fn who_never_answers_is_asked_ever_less_often() {
        let mut questions = Questions::new(0);
        let mut asked = 0;
        for millis in (0..600_000).step_by(100) {
            questions.hear(millis, 2, 2, 7);
            asked += questions.run(millis + 99).len();
        }
        assert!((200..500).contains(&asked), "{asked} times in ten minutes");
    }

    #[test]
    fn the_longer_of_two_periods_that_a_start_is_known_by_counts() {
        let mut questions = Questions::new(0);
        // By its query for flows, and by its report.
        questions.hear(0, 2, 2, 7);
        let (start, long) = ((ServerId(2), 7), Duration::from_secs(1));
        let again = questions.challenge(at(1), address(2), start, long, timing());
        assert_eq!(again, None);
        questions.hear(2, 2, 2, 7);
        let times: Vec<_> = questions.run(5_000).into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [20, 220, 620, 1_420]);
    }

    #[test]
    fn who_has_answered_is_not_asked_again_by_any_start_before() {
        let mut questions = Questions::new(0);
        questions.hear(0, 2, 2, 7);
        questions.hear(5, 2, 2, 8);
        questions.hear(5, 3, 3, 7);
        questions.is_shown((ServerId(2), 9), at(4));
        let asked: Vec<_> = questions.run(50).into_iter().collect();
        let of = [(25, "10.0.0.2".to_owned()), (25, "10.0.0.3".to_owned())];
        assert_eq!(asked, of, "the start 8 was heard later than that");
        questions.is_shown((ServerId(2), 9), at(5));
        questions.is_shown((ServerId(3), 7), at(4));
        assert_eq!(questions.run(10_000), []);
        assert_eq!(questions.hear(60, 2, 2, 8), None, "it is over for good");
    }

    #[test]
    fn more_recorded_starts_than_there_are_servers_hide_nobody() {
        let mut questions = Questions::new(0);
        for boot in 0..MAX_PEERS as u64 {
            assert!(questions.hear(0, 9, 2, boot).is_some());
        }
        questions.is_shown((ServerId(2), 1_000), at(0));
        assert_eq!(questions.hear(1, 3, 3, 1), Some("all".into()));
        assert_eq!(questions.hear(2, 3, 3, 1), None, "the gap");
        assert_eq!(questions.hear(11, 3, 3, 1), Some("all".into()));
        assert_eq!(questions.hear(200, 3, 3, 1), Some("10.0.0.3".into()));
    }

    #[test]
    fn all_are_asked_for_many_and_not_again_within_the_gap() {
        let mut questions = Questions::new(0);
        for host in 0..100 {
            questions.hear(u64::from(host) / 10, host, host.into(), 1);
        }
        let mut asked = questions.run(198);
        asked.retain(|(_, to)| to == "all");
        assert_eq!(asked, [140, 150].map(|millis| (millis, "all".to_owned())));
    }
}
