//! The conversation between servers: sockets, seals and clocks around the [`cluster`](crate::cluster) core.
//!
//! The way of a report: [`Exchange::next`] reads a datagram, its seal is opened ([`seal`]), the message decoded and
//! handed to the core; what the core has to say and what has happened go the other way.

mod counters;

pub mod clock;
pub mod key;
pub mod seal;
pub mod socket;

use log::{info, warn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use counters::ExchangeCounters;
pub use key::{Key, KeyError};
pub use seal::{Keyring, OpenError, SealError};
pub use socket::{Audience, Interface, SocketError};

use crate::cluster::{
    Cluster, Destination, Event, FlowAt, Invalid, MAX_ENCODED, Message, OwnState, Refused, Require,
    ServerId, Timestamp, Timing, Transmit,
};
use counters::Dropped;
use socket::{MOST_WAITING, Socket};

/// The longest datagram that peers send.
pub const MAX_DATAGRAM: usize = MAX_ENCODED + seal::OVERHEAD;

/// How often the membership in the group is renewed. Snooping switches forget a member after some 4 minutes (RFC 3376,
/// section 8.4) unless a querier makes it speak up, and there may be none.
const RENEWAL: Duration = Duration::from_mins(1);

/// Goodbyes, and the time between them: datagrams get lost.
const GOODBYES: u32 = 3;
const GOODBYE_GAP: Duration = Duration::from_millis(10);

/// How long a stranger that speaks another version or has another key is remembered.
const STRANGENESS: Duration = Duration::from_mins(1);

/// Where and under which keys servers talk.
pub struct Options {
    /// The interface that they talk on.
    pub interface: Interface,
    /// To whom.
    pub audience: Audience,
    /// The cluster's keys.
    pub keyring: Keyring,
}

/// The driver of a [`Cluster`].
pub struct Exchange {
    cluster: Cluster,
    socket: Socket,
    keyring: Keyring,
    counters: ExchangeCounters,
    /// The last that came from a balancer which can't be understood: when, from whom, why.
    stranger: Option<(Timestamp, SocketAddr, OpenError)>,
    /// Whether the last datagram to each of the audience failed.
    failing: Vec<bool>,
    renewal: Timestamp,
    renewal_failing: bool,
    buffer: Vec<u8>,
}

impl Exchange {
    /// Opens the socket, in the network namespace of the calling thread and inside a tokio runtime.
    pub fn open(options: Options, cluster: Cluster) -> Result<Self, SocketError> {
        let socket = Socket::open(options.interface, options.audience)?;
        Ok(Self {
            cluster,
            keyring: options.keyring,
            counters: ExchangeCounters::default(),
            stranger: None,
            failing: vec![false; socket.audience().len()],
            socket,
            renewal: clock::monotonic() + RENEWAL,
            renewal_failing: false,
            // One byte more than any message has, to notice longer ones.
            buffer: vec![0; MAX_DATAGRAM + 1],
        })
    }

    /// Talks until something has happened. Cancel-safe: what has happened and wasn't returned is returned next time.
    /// Reports go out and come in only while this is awaited.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.cluster.poll_event() {
                return event;
            }
            // In this order: whoever was late must hear what others said meanwhile before judging them.
            let all_read = self.receive();
            self.cluster.handle_timeout(clock::monotonic());
            self.transmit();
            self.renew_membership();
            if let Some(event) = self.cluster.poll_event() {
                return event;
            }
            if !all_read {
                tokio::task::yield_now().await;
                continue;
            }
            let pause = self
                .cluster
                .next_timeout()
                .min(self.renewal)
                .since(clock::monotonic());
            tokio::select! {
                () = self.socket.readable() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether peers would accept this state: [`Cluster::check_own`].
    pub fn check_own(&self, own: &OwnState) -> Result<(), Invalid> {
        self.cluster.check_own(own)
    }

    /// Says how this server is: [`Cluster::set_own`].
    pub fn set_own(&mut self, own: OwnState) -> Result<(), Invalid> {
        self.cluster.set_own(clock::monotonic(), own)
    }

    /// Answers [`Event::Probe`]: [`Cluster::handle_probe`].
    pub fn probe_result(&mut self, id: ServerId, answered: bool) {
        self.cluster.handle_probe(clock::monotonic(), id, answered);
    }

    /// Answers [`Event::ProbeIdentity`]: [`Cluster::handle_identity_probe`].
    pub fn identity_probe_result(&mut self, address: IpAddr, used: bool) {
        self.cluster
            .handle_identity_probe(clock::monotonic(), address, used);
    }

    /// Another host uses an identity of this server's: [`Cluster::handle_conflict`].
    pub fn conflict(&mut self, address: IpAddr, mac: [u8; 6]) {
        self.cluster
            .handle_conflict(clock::monotonic(), address, mac);
    }

    /// A link of this host's carries again: [`Cluster::handle_link_up`].
    pub fn link_up(&mut self) -> bool {
        self.cluster.handle_link_up(clock::monotonic())
    }

    /// This host can't take what it was told to assume: [`Cluster::renounce`].
    pub fn renounce(&mut self, address: IpAddr) {
        self.cluster.renounce(clock::monotonic(), address);
    }

    /// This host keeps an address when balancer ends: [`Cluster::keep`].
    pub fn keep(&mut self, address: IpAddr) {
        self.cluster.keep(address);
    }

    /// Asks for the flows on identities of this server's: [`Cluster::recover`].
    pub fn recover(&mut self, identities: &[IpAddr], of: Option<ServerId>) {
        self.cluster.recover(clock::monotonic(), identities, of);
    }

    /// Answers [`Event::FlowsWanted`]: [`Cluster::tell_flows`].
    pub fn tell_flows(&mut self, by: ServerId, session: u64, flows: &[FlowAt], complete: bool) {
        self.cluster.tell_flows(by, session, flows, complete);
    }

    /// Changes how often this server reports, and how long a silence is suspect: [`Cluster::set_timing`].
    pub fn set_timing(&mut self, timing: Timing) {
        self.cluster.set_timing(clock::monotonic(), timing);
    }

    /// Changes when this server takes over identities: [`Cluster::set_require`].
    pub fn set_require(&mut self, require: Require) {
        self.cluster.set_require(require);
    }

    /// The keys that it goes by.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Goes by other keys from now on.
    pub fn set_keyring(&mut self, keyring: Keyring) {
        self.keyring = keyring;
    }

    /// The balancer that was heard last among those that speak another version or have another key, if that was within
    /// the last minute, and which of the two. Anybody can pretend to be one: it's only worth a warning.
    pub fn stranger(&self) -> Option<(SocketAddr, OpenError)> {
        let (heard, from, why) = self.stranger?;
        (clock::monotonic().since(heard) < STRANGENESS).then_some((from, why))
    }

    /// What is known of the cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What became of the datagrams.
    pub fn counters(&self) -> &ExchangeCounters {
        &self.counters
    }

    /// Tells the peers that this server goes. Nothing more is to be said after it.
    pub async fn goodbye(&mut self) {
        for round in 0..GOODBYES {
            if round > 0 {
                tokio::time::sleep(GOODBYE_GAP).await;
            }
            self.cluster.leave();
            self.transmit();
        }
    }

    /// Reads what waits, and gives whether that was all. What comes while it is at it may have to wait for the next
    /// round, so that no flood keeps this server from reporting.
    fn receive(&mut self) -> bool {
        for _ in 0..MOST_WAITING {
            match self.socket.receive(&mut self.buffer) {
                Ok((length, from)) => match self.accept(length, from) {
                    Ok(()) => self.counters.received += 1,
                    Err(why) => self.drop_datagram(&why, from),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                // An error of something sent before (ICMP). Reading has taken it off the socket.
                Err(_) => {}
            }
        }
        false
    }

    fn accept(&mut self, length: usize, from: SocketAddr) -> Result<(), Dropped> {
        if length > MAX_DATAGRAM {
            return Err(Dropped::Oversized);
        }
        let message = Message::decode(&self.keyring.open(&self.buffer[..length])?)?;
        Ok(self.cluster.handle(clock::monotonic(), from, message)?)
    }

    fn drop_datagram(&mut self, why: &Dropped, from: SocketAddr) {
        if let Dropped::Open(why @ (OpenError::Version(_) | OpenError::UnknownKey)) = why {
            self.stranger = Some((clock::monotonic(), from, *why));
        }
        let first = self.counters.dropped(why) == 1;
        if first && !matches!(why, Dropped::Refused(Refused::Unproven | Refused::Unasked)) {
            info!("dropped a datagram from {from}: {why}; more of this kind are only counted");
        }
    }

    fn transmit(&mut self) {
        while let Some(Transmit { to, message }) = self.cluster.poll_transmit() {
            let datagram = match self.seal(&message) {
                Ok(datagram) => datagram,
                Err(error) => {
                    self.counters.send_errors += 1;
                    warn!("a message was not sent: {error:#}");
                    continue;
                }
            };
            match to {
                Destination::Unicast(to) => {
                    self.send(to, &datagram);
                }
                Destination::Group => self.send_to_audience(&datagram),
            }
        }
    }

    fn seal(&self, message: &Message) -> anyhow::Result<Vec<u8>> {
        Ok(self.keyring.seal(&message.encode()?)?)
    }

    fn send_to_audience(&mut self, datagram: &[u8]) {
        for index in 0..self.failing.len() {
            let to = self.socket.audience()[index];
            let error = self.send(to, datagram);
            match (&error, self.failing[index]) {
                (Some(error), false) => warn!("reports don't reach {to}: {error}; trying on"),
                (None, true) => info!("reports are sent to {to} again"),
                (Some(_), true) | (None, false) => {}
            }
            self.failing[index] = error.is_some();
        }
    }

    fn send(&mut self, to: SocketAddr, datagram: &[u8]) -> Option<io::Error> {
        let error = self.socket.send(to, datagram).err();
        match error {
            Some(_) => self.counters.send_errors += 1,
            None => self.counters.sent += 1,
        }
        error
    }

    fn renew_membership(&mut self) {
        let now = clock::monotonic();
        if now < self.renewal {
            return;
        }
        self.renewal = now + RENEWAL;
        let result = self.socket.renew();
        match (&result, self.renewal_failing) {
            (Err(error), false) => {
                warn!("can't join the multicast group again, reports may not come in: {error}");
            }
            (Ok(()), true) => info!("joined the multicast group again"),
            (Err(_), true) | (Ok(()), false) => {}
        }
        self.renewal_failing = result.is_err();
    }
}
