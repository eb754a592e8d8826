//! A queue: jobs in the order of their arrival, to the first of some workers that is free, of several the fastest.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Nanoseconds since the start.
pub type Time = u64;

/// Workers with one queue before them.
pub struct Queue {
    /// Workers that are free, by their speeds.
    idle: BinaryHeap<Speed>,
    /// Workers that are not, and when they will be with all jobs that have arrived.
    busy: BinaryHeap<(Reverse<Time>, Speed)>,
    /// When the jobs that are here will be done.
    ends: BinaryHeap<Reverse<Time>>,
}

/// Work per time, in thousandths.
pub type Speed = u64;

impl Queue {
    /// A queue before workers of these speeds.
    pub fn new(workers: impl IntoIterator<Item = Speed>) -> Self {
        Self {
            idle: workers.into_iter().collect(),
            busy: BinaryHeap::new(),
            ends: BinaryHeap::new(),
        }
    }

    /// Jobs that are here at `now`, waiting or being worked on. `now` doesn't go back from call to call.
    pub fn jobs(&mut self, now: Time) -> u64 {
        while self.ends.peek().is_some_and(|end| end.0 <= now) {
            self.ends.pop();
        }
        self.ends.len() as u64
    }

    /// A job that takes a worker of speed 1,000 a time of `work`. Returns when it will be done.
    pub fn arrive(&mut self, now: Time, work: Time) -> Time {
        while let Some((Reverse(free), speed)) = self.busy.peek()
            && *free <= now
        {
            self.idle.push(*speed);
            self.busy.pop();
        }
        let (start, speed) = if let Some(speed) = self.idle.pop() {
            (now, speed)
        } else {
            let (Reverse(free), speed) = self.busy.pop().expect("a queue has a worker");
            (free, speed)
        };
        let end = start + work * 1_000 / speed;
        self.busy.push((Reverse(end), speed));
        self.ends.push(Reverse(end));
        end
    }
}
