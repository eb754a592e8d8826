//! What a client's connection is doing, so that its worker can end those that take too long.
//!
//! No connection has a timer: the worker looks at all of them a few times a second. Times are those of its last look, so they
//! are as exact as that is frequent.
//!
//! ```text
//!             first byte of a head           all of the head
//!   IDLE ───────────────────────────> HEAD ───────────────────> ANSWERING
//!    ^                                                              │
//!    └──────────────────────────────────────────────────────────────┘
//!                               all answered
//! ```
//!
//! A new connection is in HEAD: who connects has something to say. With HTTP/2, whose frames come at any time, an open
//! connection is IDLE or ANSWERING.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::cluster::Timestamp;

/// How long a client may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a request's head, and for a handshake.
    pub head: Duration,
    /// From an answer to the next request.
    pub idle: Duration,
    /// To take anything of what is sent.
    pub send: Duration,
}

/// One connection, as its worker sees it.
pub struct Watch {
    /// The worker's clock, in nanoseconds.
    now: Arc<AtomicU64>,
    /// Requests that are being answered.
    requests: AtomicU32,
    /// When the present state began.
    since: AtomicU64,
    /// In HEAD, if no request is being answered.
    head: AtomicBool,
    /// HTTP/2.
    framed: AtomicBool,
    /// Since when nothing could be written, or 0.
    stuck: AtomicU64,
    /// A request's body was not read to its end.
    unread: AtomicBool,
    /// The client may go on sending when it gets nothing more: a WebSocket.
    two_way: AtomicBool,
    /// For each HTTP/2 request: since when there has been something of its answer that the client didn't take, or 0.
    offers: Mutex<Vec<Arc<AtomicU64>>>,
    /// Requests that were answered to the end, and that their client gave up.
    answered: AtomicU32,
    cancelled: AtomicU32,
    /// It has been idle for a while: it may give back the memory that requests take.
    rest: AtomicBool,
    order: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

/// How long a connection is idle before it may rest: who goes from page to page doesn't pay for it.
const REST: Duration = Duration::from_secs(1);

/// What a connection has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Nothing.
    GoOn,
    /// To take no further request.
    Finish,
    /// To be closed now.
    Close,
}

/// Cancelled requests that nobody is blamed for.
const CANCELLED_MAX: u32 = 100;

impl Watch {
    /// `now` is the worker's clock.
    pub fn new(now: Arc<AtomicU64>) -> Self {
        let since = now.load(Relaxed).into();
        Self {
            now,
            requests: AtomicU32::new(0),
            since,
            head: AtomicBool::new(true),
            framed: AtomicBool::new(false),
            stuck: AtomicU64::new(0),
            unread: AtomicBool::new(false),
            two_way: AtomicBool::new(false),
            offers: Mutex::default(),
            answered: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
            rest: AtomicBool::new(false),
            order: AtomicU8::new(Order::GoOn as u8),
            waker: Mutex::new(None),
        }
    }

    /// The task with this waker is told of orders.
    pub fn attend(&self, waker: &Waker) {
        let mut known = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(waker.clone());
    }

    /// Something came from the client.
    pub fn on_bytes(&self) {
        if self.requests.load(Relaxed) == 0
            && !self.framed.load(Relaxed)
            && !self.head.swap(true, Relaxed)
        {
            self.mark();
        }
    }

    /// It could be written, or it couldn't.
    pub fn on_write(&self, pending: bool) {
        if !pending {
            self.stuck.store(0, Relaxed);
        } else if self.stuck.load(Relaxed) == 0 {
            self.stuck.store(self.now.load(Relaxed), Relaxed);
        }
    }

    /// Whether something waits to be written.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Relaxed) != 0
    }

    /// Nobody reads the rest of a request's body.
    pub fn on_unread(&self) {
        self.unread.store(true, Relaxed);
    }

    /// Whether the client may be sending what nobody reads.
    pub fn has_unread(&self) -> bool {
        self.unread.load(Relaxed)
    }

    /// It is a WebSocket from now on.
    pub fn on_two_way(&self) {
        self.two_way.store(true, Relaxed);
    }

    /// Whether the client may go on sending when it gets nothing more.
    pub fn is_two_way(&self) -> bool {
        self.two_way.load(Relaxed)
    }

    /// It speaks HTTP/2.
    pub fn on_framed(&self) {
        self.framed.store(true, Relaxed);
        self.head.store(false, Relaxed);
        self.mark();
    }

    /// A request's head is there. It is being answered until what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Relaxed);
        self.head.store(false, Relaxed);
        // What HTTP/1.1 can't send is stuck in the connection, what HTTP/2 can't send stays with its stream (RFC 9113, 5.2).
        let offer = self.framed.load(Relaxed).then(|| {
            let offer = Arc::<AtomicU64>::default();
            self.offers().push(offer.clone());
            offer
        });
        InFlight {
            watch: self.clone(),
            offer,
            ended: false,
        }
    }

    /// Gives an order, unless a stricter one was given before.
    pub fn order(&self, order: Order) {
        if self.order.fetch_max(order as u8, Relaxed) < order as u8 {
            self.wake();
        }
    }

    fn wake(&self) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = &*waker {
            waker.wake_by_ref();
        }
    }

    /// Whether the connection has just been found to be idle for a while, and still is.
    pub fn may_rest(&self) -> bool {
        self.rest.swap(false, Relaxed) && self.idle_since().is_some() && !self.is_stuck()
    }

    /// The order that stands.
    pub fn ordered(&self) -> Order {
        match self.order.load(Relaxed) {
            0 => Order::GoOn,
            1 => Order::Finish,
            _ => Order::Close,
        }
    }

    /// What comes out of `future`, unless the connection is to end before.
    pub async fn unless_ended<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|context| match self.ordered() {
            Order::GoOn => future.as_mut().poll(context).map(Some),
            Order::Finish | Order::Close => Poll::Ready(None),
        })
        .await
    }

    /// Whether a request has come.
    pub fn has_served(&self) -> bool {
        self.requests.load(Relaxed) > 0 || self.answered.load(Relaxed) > 0
    }

    /// Since when it has had nothing to do, if it has nothing to do.
    pub fn idle_since(&self) -> Option<Timestamp> {
        let idle = self.requests.load(Relaxed) == 0 && !self.head.load(Relaxed);
        idle.then(|| Timestamp(self.since.load(Relaxed)))
    }

    /// Gives the order that its client's slowness calls for.
    pub fn judge(&self, now: Timestamp, patience: Patience) {
        let longer = |since: u64, than: Duration| now.since(Timestamp(since)) > than;
        let stuck = self.stuck.load(Relaxed);
        let untaken = || {
            let offers = self.offers();
            let mut since = offers.iter().map(|offer| offer.load(Relaxed));
            since.any(|since| since != 0 && longer(since, patience.send))
        };
        if stuck != 0 && longer(stuck, patience.send) {
            self.order(Order::Close);
        } else if self.requests.load(Relaxed) > 0 {
            // What takes time then is the answer, and has limits of its own; or the client, that doesn't take it.
            if untaken() {
                self.order(Order::Close);
            }
        } else if self.head.load(Relaxed) {
            if longer(self.since.load(Relaxed), patience.head) {
                self.order(Order::Close);
            }
        } else if longer(self.since.load(Relaxed), patience.idle) {
            // Idle already: with nothing in flight it is over at once, if the client doesn't send a request just now. With
            // HTTP/2 it may wait for a client to take the last bytes of an answer.
            let long = longer(self.since.load(Relaxed), patience.idle + patience.send);
            self.order(if long { Order::Close } else { Order::Finish });
        } else if longer(self.since.load(Relaxed), REST)
            && !self.framed.load(Relaxed)
            && !self.rest.swap(true, Relaxed)
        {
            self.wake();
        }
    }

    fn offers(&self) -> MutexGuard<'_, Vec<Arc<AtomicU64>>> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self) {
        self.since.store(self.now.load(Relaxed), Relaxed);
    }
}

/// A request that is being answered.
pub struct InFlight {
    watch: Arc<Watch>,
    offer: Option<Arc<AtomicU64>>,
    ended: bool,
}

impl InFlight {
    /// A part of the answer is there for the client, or the client waits for one.
    pub fn on_offer(&self, there: bool) {
        if let Some(offer) = &self.offer {
            let since = if there {
                self.watch.now.load(Relaxed)
            } else {
                0
            };
            offer.store(since, Relaxed);
        }
    }

    /// Ends it. `complete`: the client has got all of the answer. One that is dropped without this was cancelled.
    pub fn end(mut self, complete: bool) {
        self.ended = complete;
    }

    /// A client that cancels most of what it asks for ([CVE-2023-44487](https://nvd.nist.gov/vuln/detail/CVE-2023-44487))
    /// gets no further answer on this connection.
    fn count(&self) {
        let watch = &self.watch;
        if self.ended {
            watch.answered.fetch_add(1, Relaxed);
            return;
        }
        let cancelled = watch.cancelled.fetch_add(1, Relaxed) + 1;
        if cancelled > CANCELLED_MAX && cancelled > watch.answered.load(Relaxed) {
            watch.order(Order::Close);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.count();
        let watch = &self.watch;
        if let Some(offer) = &self.offer {
            watch.offers().retain(|known| !Arc::ptr_eq(known, offer));
        }
        if watch.requests.fetch_sub(1, Relaxed) == 1 {
            watch.mark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_mins(1),
        send: Duration::from_secs(30),
    };

    struct Client {
        clock: Arc<AtomicU64>,
        watch: Arc<Watch>,
    }

    impl Client {
        fn new() -> Self {
            let clock = Arc::new(AtomicU64::new(1));
            let watch = Arc::new(Watch::new(clock.clone()));
            Self { clock, watch }
        }

        /// What it is told so many seconds later.
        fn after(&self, seconds: u64) -> Order {
            let now = self.clock.fetch_add(seconds * 1_000_000_000, Relaxed);
            let now = Timestamp(now) + Duration::from_secs(seconds);
            self.watch.judge(now, PATIENCE);
            self.watch.ordered()
        }
    }

    #[test]
    fn a_head_must_come_in_its_time() {
        let client = Client::new();
        assert_eq!(client.after(10), Order::GoOn);
        client.watch.on_bytes();
        assert_eq!(
            client.after(1),
            Order::Close,
            "bytes of the same head are no new start"
        );
    }

    #[test]
    fn an_answer_may_take_its_time_and_then_it_is_idle() {
        let client = Client::new();
        let request = client.watch.begin();
        assert_eq!(client.after(1_000), Order::GoOn);
        assert_eq!(client.watch.idle_since(), None);
        request.end(true);
        assert!(client.watch.idle_since().is_some());
        assert_eq!(client.after(60), Order::GoOn);
        assert_eq!(client.after(1), Order::Finish);
    }

    #[test]
    fn who_is_idle_for_a_while_may_rest() {
        let client = Client::new();
        client.watch.begin().end(true);
        assert_eq!(client.after(1), Order::GoOn);
        assert!(!client.watch.may_rest(), "that is too short");
        client.after(1);
        assert!(client.watch.may_rest());
        assert!(!client.watch.may_rest(), "once");
        client.after(1);
        client.watch.on_bytes();
        assert!(!client.watch.may_rest(), "the next request has come first");
    }

    #[test]
    fn the_next_head_begins_with_its_first_byte() {
        let client = Client::new();
        client.watch.begin().end(true);
        assert_eq!(client.after(50), Order::GoOn);
        client.watch.on_bytes();
        assert_eq!(client.after(10), Order::GoOn);
        assert_eq!(client.after(1), Order::Close);
    }

    #[test]
    fn who_takes_nothing_is_let_go() {
        let client = Client::new();
        let request = client.watch.begin();
        client.watch.on_write(true);
        assert_eq!(client.after(29), Order::GoOn);
        client.watch.on_write(false);
        client.watch.on_write(true);
        assert_eq!(client.after(29), Order::GoOn);
        assert_eq!(client.after(2), Order::Close);
        drop(request);
    }

    #[test]
    fn who_takes_nothing_of_one_answer_is_let_go() {
        let client = Client::new();
        client.watch.on_framed();
        let (one, two) = (client.watch.begin(), client.watch.begin());
        one.on_offer(true);
        assert_eq!(client.after(29), Order::GoOn);
        one.on_offer(true);
        two.on_offer(true);
        assert_eq!(client.after(29), Order::GoOn);
        two.on_offer(false);
        one.end(true);
        assert_eq!(
            client.after(100),
            Order::GoOn,
            "the web server takes its time"
        );
        two.on_offer(true);
        assert_eq!(client.after(31), Order::Close);
    }

    #[test]
    fn who_takes_nothing_of_what_was_sent_is_let_go() {
        let client = Client::new();
        client.watch.on_framed();
        client.watch.begin().end(true);
        assert_eq!(client.after(61), Order::Finish);
        assert_eq!(client.after(30), Order::Close);
    }

    #[test]
    fn frames_between_requests_are_no_head() {
        let client = Client::new();
        client.watch.on_framed();
        client.watch.on_bytes();
        assert_eq!(client.after(59), Order::GoOn);
        client.watch.on_bytes();
        assert_eq!(client.after(2), Order::Finish);
    }

    #[test]
    fn who_cancels_most_is_let_go() {
        let client = Client::new();
        for _ in 0..CANCELLED_MAX {
            client.watch.begin().end(false);
        }
        assert_eq!(client.watch.ordered(), Order::GoOn);
        // Also one that is given up before it has an answer.
        drop(client.watch.begin());
        assert_eq!(client.watch.ordered(), Order::Close);

        let client = Client::new();
        for _ in 0..2 * CANCELLED_MAX {
            client.watch.begin().end(true);
            client.watch.begin().end(false);
        }
        assert_eq!(client.watch.ordered(), Order::GoOn);
    }
}
