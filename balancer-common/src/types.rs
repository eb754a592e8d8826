//! Keys and values of the BPF maps.
//!
//! `repr(C)`, every byte named, integers for flags: what is here is read by the XDP program, by the daemon and, through
//! BTF, by `bpftool map dump`. Ports are in host byte order, addresses in network byte order. Loads are basis points of a
//! server's capacity (10,000 = 100 %) and may exceed it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::table::{FlowSet, Place};

/// 100 % of a server's capacity, in basis points.
pub const FULL: u32 = 10_000;

/// Peers that a server can know at one time.
pub const MAX_PEERS: u32 = 256;

/// Services that a server can offer.
pub const MAX_SERVICES: u32 = 16;

/// Interfaces that a server can be attached to at one time.
pub const MAX_INTERFACES: usize = 8;

/// IPv4, in a set of address families.
pub const FAMILY_V4: u8 = 1;
/// IPv6, in a set of address families.
pub const FAMILY_V6: u8 = 2;

/// An IPv4 (as `::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2) or IPv6 address.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// Network byte order.
    pub octets: [u8; 16],
}

impl Address {
    /// The address `a.b.c.d` whose octets, read big-endian, are `bits`.
    #[inline(always)]
    pub const fn v4(bits: u32) -> Self {
        // Two stores of eight bytes, where an array expression would become sixteen of one.
        Self {
            octets: (0xffff_0000_0000 | bits as u128).to_be_bytes(),
        }
    }

    /// The IPv6 address whose octets, read big-endian, are these two numbers.
    #[inline(always)]
    pub const fn v6(high: u64, low: u64) -> Self {
        Self {
            octets: ((high as u128) << 64 | low as u128).to_be_bytes(),
        }
    }

    /// The octets as they lie in memory, in two words. An IPv4 address is the last half of the second.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        let octets = u128::from_be_bytes(self.octets);
        [((octets >> 64) as u64).to_be(), (octets as u64).to_be()]
    }

    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    #[inline(always)]
    pub const fn family(&self) -> u8 {
        if u128::from_be_bytes(self.octets) >> 32 == 0xffff {
            FAMILY_V4
        } else {
            FAMILY_V6
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self { octets }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        IpAddr::V4(address).into()
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Ipv6Addr::from(address.octets).to_canonical()
    }
}

/// One flow: protocol, both addresses and ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Where the flow comes from.
    pub client: Address,
    /// The address of ours that it is for.
    pub identity: Address,
    /// The client's port.
    pub client_port: u16,
    /// The service's port.
    pub port: u16,
    /// IP protocol number. Wider than it need be: the key has no padding.
    pub protocol: u32,
}

/// Fragments of one packet come within this time, in nanoseconds; its id may be another packet's after it. As long as Linux'
/// `ipfrag_time`.
pub const SAME_PACKET_NS: u64 = 30_000_000_000;

/// In place of an index into `PEERS`: the flow is kept.
pub const KEPT: u32 = u32::MAX;

/// Where a client's last flow went. Value of `CLIENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastFlow {
    /// `CLOCK_MONOTONIC` of that, in nanoseconds.
    pub last_seen_ns: u64,
    /// Index into `PEERS`, or [`KEPT`].
    pub peer: u32,
    /// Index into `SERVICES`.
    pub service: u32,
}

/// A client of a service with `affinity = "client"`. Key of `CLIENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// Its address.
    pub client: Address,
    /// Index into `SERVICES`. Wider than it need be: the key has no padding.
    pub service: u64,
}

/// What the whole program goes by. The only entry of `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Cookie of the network namespace whose sockets are counted (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
    /// Secret that flows are hashed with, so that no client can aim its flows at a peer or at another's place in `FLOWS`.
    pub seed: u64,
    /// Until this `CLOCK_MONOTONIC`, in nanoseconds, decisions go into `EVENTS`. Who reads them renews it.
    pub trace_until_ns: u64,
    /// Until this `CLOCK_MONOTONIC`, in nanoseconds, some identity has a grace (see [`Identity::grace_until_ns`]).
    pub grace_until_ns: u64,
    /// When this server last got an identity, or its network back: `CLOCK_MONOTONIC` in nanoseconds. In a grace within [`DOUBT_NS`] of
    /// it, what `FLOWS` tells of TCP flows without a packet since then isn't believed.
    pub got_ns: u64,
    /// One more than the highest index in use in `PEERS`.
    pub peers: u32,
    /// How packets leave by the interface that they came in by: 0 `XDP_TX`, 1 `bpf_redirect` (for veth).
    pub redirect: u32,
    /// How many of the identities are [`ASSUMED`].
    pub assumed: u32,
    /// Sets in `FLOWS`, a power of two, less one.
    pub flows_mask: u32,
    /// Ethernet addresses of the interfaces that balancer is attached to, as [`Mac::number`] has them; 0 in what is left
    /// over. Frames for others come in by flooding, in promiscuous mode or by multicast, and are none of ours.
    pub macs: [u64; MAX_INTERFACES],
    /// This server's end of its peers' tunnels over IPv4; `::` if it has none.
    pub tunnel_v4: Address,
    /// As above, over IPv6.
    pub tunnel_v6: Address,
}

/// How long a server has to learn what became of the flows on an identity while another one had it, in nanoseconds.
pub const DOUBT_NS: u64 = 1_000_000_000;

/// What a CPU has at hand. The only entry of `AT_HAND`, which is per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtHand {
    /// The flow of the packet that it handles.
    pub flow: FlowKey,
    /// Ethernet address of the last sender that was found to be no peer, as [`Mac::number`] has it: a router, mostly, from which all
    /// clients' packets come.
    pub stranger: u64,
    /// For so long, by `CLOCK_MONOTONIC` in nanoseconds, it isn't looked for again.
    pub stranger_until_ns: u64,
}

/// How long a sender is taken for no peer, in nanoseconds, before that is looked up again.
pub const STRANGER_NS: u64 = 50_000_000;

/// Which services listen on one port, by protocol. Value of `PORTS`, which is indexed by port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// One more than the index into `SERVICES`; 0 is none.
    pub tcp: u8,
    /// One more than the index into `SERVICES`; 0 is none.
    pub udp: u8,
}

/// [`Identity::kind`]: an identity that a peer holds. Packets for it that come here were steered here.
pub const FOREIGN: u32 = 0;
/// [`Identity::kind`]: an identity that this server holds. This server decides on its flows.
pub const HELD: u32 = 1;
/// [`Identity::kind`]: a peer's own address, no identity. Only clients have it.
pub const SERVER: u32 = 2;

/// [`Identity::kind`]: an identity that this server took over from a peer. It decides on its flows as on those of its own, and
/// none but the cluster's services answer there.
pub const ASSUMED: u32 = 3;

/// An address of the cluster. Value of `IDENTITIES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// [`FOREIGN`], [`HELD`], [`SERVER`] or [`ASSUMED`].
    pub kind: u32,
    /// Index into `PEERS` of the server that has it; for [`HELD`] and [`ASSUMED`], index of this host's interface that has it.
    pub owner: u32,
    /// Until this `CLOCK_MONOTONIC`, in nanoseconds, packets of flows that are not known here are dropped, so that their
    /// clients repeat them, rather than reset: the peers are still being asked whose they are.
    pub grace_until_ns: u64,
}

/// A service as the daemon sets it. Value of `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Connections that are open without having been counted, because they are older than the program; less than nothing
    /// (wrapped) where too many were counted.
    pub uncounted: u64,
    /// First packets that the daemon gave up waiting for to become connections.
    pub given_up: u64,
    /// What one open connection adds to the load, in 1/65,536 of a basis point: `(10,000 << 16) / capacity`.
    pub cost: u32,
    /// The daemon's last sample of this server's load (CPU and the like), in basis points.
    pub sample: u32,
    /// Overload level (S203), in basis points: up to it this server keeps every flow.
    pub overload: u32,
    /// Margin (S206), in basis points: a peer must be lower by more than this.
    pub margin: u32,
    /// A [`Policy`](crate::decide::Policy).
    pub policy: u32,
    /// 1: the local service is healthy and not draining; 0: any healthy peer is better than this server.
    pub ready: u32,
    /// For this many nanoseconds after a client's last new flow its flows go to the same server; 0: each is decided on.
    pub affinity_ns: u64,
}

/// A service's flows, counted in the kernel. Value of `CONNECTIONS`, which is indexed as `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Connections accepted here and not yet closed.
    pub open: u64,
    /// First packets that went to the local stack.
    pub arrived: u64,
    /// Connections accepted here.
    pub established: u64,
    /// First packets that were steered.
    pub steered: u64,
}

impl Connections {
    /// Connections that are open.
    #[inline(always)]
    pub fn opened(&self, service: &Service) -> u64 {
        at_least_zero(self.open.wrapping_add(service.uncounted))
    }

    /// First packets that went to the local stack and haven't become connections yet.
    #[inline(always)]
    pub fn pending(&self, service: &Service) -> u64 {
        let done = self.established.wrapping_add(service.given_up);
        at_least_zero(self.arrived.wrapping_sub(done))
    }

    /// S202: the load of this moment in basis points, by these counts or by the daemon's last sample.
    #[inline(always)]
    pub fn load(&self, service: &Service) -> u32 {
        let load = load_of(self.opened(service) + self.pending(service), service.cost);
        if load > service.sample {
            load
        } else {
            service.sample
        }
    }
}

/// Load that `connections` make, in basis points. `cost` is in 1/65,536 of a basis point for each.
#[inline(always)]
pub const fn load_of(connections: u64, cost: u32) -> u32 {
    // More connections than this are too many whatever the cost, and the product stays within 64 bits.
    let connections = if connections > u32::MAX as u64 {
        u32::MAX as u64
    } else {
        connections
    };
    let load = (connections * cost as u64) >> 16;
    if load > u32::MAX as u64 {
        u32::MAX
    } else {
        load as u32
    }
}

/// Cost of one connection for a service of this `capacity` (connections that mean 100 %), as [`load_of`] takes it.
pub const fn cost_of(capacity: u32) -> u32 {
    (FULL << 16) / if capacity == 0 { 1 } else { capacity }
}

/// The counters are read one after another while others write them, so that a difference may come out negative.
#[inline(always)]
const fn at_least_zero(difference: u64) -> u64 {
    if difference.cast_signed() < 0 {
        0
    } else {
        difference
    }
}

/// [`Peer::state`]: no such peer.
pub const PEER_NONE: u32 = 0;
/// [`Peer::state`]: its reports arrive, or its host answers though its reports don't.
pub const PEER_ALIVE: u32 = 1;
/// [`Peer::state`]: its host is dead. Its flows fall back to the local stack.
pub const PEER_DEAD: u32 = 2;

/// A peer. Value of `PEERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The peer's server id.
    pub id: u64,
    /// `CLOCK_MONOTONIC` of this host when its last report came in, in nanoseconds.
    pub last_report_ns: u64,
    /// When that is older than this many nanoseconds, by the period that the peer reports in, it gets no new flows.
    pub timeout_ns: u64,
    /// [`PEER_NONE`], [`PEER_ALIVE`] or [`PEER_DEAD`].
    pub state: u32,
    /// Interface of this host that packets for the peer leave by.
    pub interface: u32,
    /// The peer's Ethernet address on that link; if it is behind a tunnel, that of the next hop.
    pub mac: [u8; 6],
    /// Ethernet address of this host's interface.
    pub own_mac: [u8; 6],
    /// Address families that it takes flows of: [`FAMILY_V4`], [`FAMILY_V6`].
    pub families: u8,
    /// Family of the tunnel to the peer; 0: it is on the link, and frames are addressed to it.
    pub tunnel: u8,
    /// The longest IP packet that fits the way to it, in bytes.
    pub mtu: u16,
    /// The tunnel's end here.
    pub tunnel_from: Address,
    /// The tunnel's end at the peer.
    pub tunnel_to: Address,
}

/// An Ethernet address. Key of `PEER_MACS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac {
    /// The address.
    pub octets: [u8; 6],
    /// Always 0.
    pub padding: [u8; 2],
}

impl Mac {
    /// The address with these octets.
    #[inline(always)]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self {
            octets,
            padding: [0; 2],
        }
    }

    /// Its octets, read big-endian.
    #[inline(always)]
    pub fn number(self) -> u64 {
        let mut octets = [0; 8];
        octets.split_at_mut(2).1.copy_from_slice(&self.octets);
        u64::from_be_bytes(octets)
    }
}

/// [`PeerLoad::flags`]: the peer offers the service.
pub const OFFERED: u32 = 1;
/// [`PeerLoad::flags`]: the service is healthy there, and the peer is not draining.
pub const READY: u32 = 2;

/// What a peer last said of one of our services. Value of `LOADS`, indexed by `peer * MAX_SERVICES + service`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerLoad {
    /// Its load, in basis points.
    pub load: u32,
    /// What one connection adds to its load, in 1/65,536 of a basis point.
    pub cost: u32,
    /// Flows that we steered to it since that report.
    pub sent: u32,
    /// Its capacity relative to the largest peer's, 65,535 being the same.
    pub weight: u32,
    /// [`OFFERED`], [`READY`].
    pub flags: u32,
    /// Always 0.
    pub padding: u32,
}

/// Declares a struct of counters, so that they can be summed and printed by name.
macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $field:ident,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: u64,)*
        }

        impl $name {
            /// Each counter with its name, in the order of the map's value.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }
        }

        impl core::ops::AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

/// Declares why packets go where they go, and a counter for each reason.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $reason:ident $field:ident,)*) => {
        /// Why a packet goes where it goes: the place of its counter in [`Counters`].
        ///
        /// No enum, since the compiler would leave out the kernel's bounds checks for its numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Reason(u32);

        impl Reason {
            $(
                $(#[doc = $doc])+
                pub const $reason: Self = Self((core::mem::offset_of!(Counters, $field) / size_of::<u64>()) as u32);
            )*

            /// All reasons, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$reason),*];

            /// The reason with this number; it need not be any.
            #[inline(always)]
            pub const fn from_number(number: u32) -> Self {
                Self(number)
            }

            /// Its number.
            #[inline(always)]
            pub const fn number(self) -> u32 {
                self.0
            }

            /// The name of its counter.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => stringify!($field),)*
                    _ => "unknown",
                }
            }
        }

        counters! {
            /// Packets by what became of them, for each service. Value of `COUNTERS`, which is per CPU and indexed as `PORTS`
            /// names services: entry 0 is for packets of no service.
            Counters { $($(#[doc = $doc])+ $field,)* }
        }
    };
}

reasons! {
    /// Not for a service or an address of ours.
    NOT_OURS not_ours,
    /// Of a flow that is kept: the local stack's.
    LOCAL local,
    /// First packet of a flow that a peer steered here.
    GUEST guest,
    /// New flow kept: own load at or below the overload level (S204).
    KEPT_BELOW_LEVEL kept_below_level,
    /// New flow kept: no peer is lower by the margin (S206), or none is fit at all.
    KEPT_NO_CANDIDATE kept_no_candidate,
    /// New flow kept: its client is a server of the cluster.
    KEPT_FOR_PEER kept_for_peer,
    /// New flow kept: its client's flows are (affinity).
    KEPT_BY_AFFINITY kept_by_affinity,
    /// New flow kept: it would have been steered, but the table of flows has no place for it.
    KEPT_NO_ROOM kept_no_room,
    /// First packet of a flow that was kept before, again.
    KEPT_REPEATED kept_repeated,
    /// New flow steered: a peer was lower by more than the margin (S209).
    STEERED_NEW steered_new,
    /// New flow steered: the local service is down or draining.
    STEERED_NOT_READY steered_not_ready,
    /// New flow steered: its client's flows are (affinity).
    STEERED_BY_AFFINITY steered_by_affinity,
    /// First packet of a flow that was steered before, again.
    STEERED_REPEATED steered_repeated,
    /// Later packet of a steered flow, sent on.
    STEERED steered,
    /// Later fragment of a steered packet, sent on.
    STEERED_FRAGMENT steered_fragment,
    /// ICMP error about a steered flow, sent on.
    STEERED_ERROR steered_error,
    /// Packet of a steered flow whose peer is dead: left to the local stack.
    FALLEN_BACK fallen_back,
    /// Frame of a peer's that would have been steered again: left to the local stack.
    NOT_STEERED_TWICE not_steered_twice,
    /// Would have been steered, but its hop limit is used up: a new flow is kept, a packet of another one is dropped.
    HOP_LIMIT hop_limit,
    /// Too big for the tunnel to the flow's peer: its sender is told so (RFC 1191, RFC 8201).
    TOO_BIG too_big,
    /// Came out of a peer's tunnel, for an identity of the cluster: taken.
    DECAPSULATED decapsulated,
    /// Dropped: came to the tunnel's end, but not from a peer.
    TUNNEL_SPOOFED tunnel_spoofed,
    /// Dropped: came out of a peer's tunnel, but is for no service on an identity.
    TUNNEL_REFUSED tunnel_refused,
    /// Dropped: for an assumed identity, but for none of the cluster's services.
    NOT_EXPOSED not_exposed,
    /// Dropped: of a flow not known here, while the peers are asked whose it is.
    GRACE grace,
    /// Malformed, or with IP options or extension headers: left to the local stack.
    ODD odd,
    /// A decision that whoever traces was not told of: the ring buffer was full. Counted beside what it was.
    UNTOLD untold,
    /// A map or a helper refused: left to the local stack, or dropped if it is of a steered flow.
    ERRORS errors,
}

counters! {
    /// What was sent to one peer. Value of `PEER_COUNTERS`, which is per CPU and indexed as `PEERS`.
    PeerCounters {
        /// New flows.
        flows,
        /// Packets, the first ones included.
        packets,
    }
}

/// One decision. Record of the ring buffer `EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, in nanoseconds, to a few milliseconds.
    pub time_ns: u64,
    /// The flow.
    pub flow: FlowKey,
    /// A [`Reason`].
    pub reason: u32,
    /// Index into `SERVICES`.
    pub service: u32,
    /// Index into `PEERS`, or [`KEPT`].
    pub peer: u32,
    /// Own load at that moment, in basis points (S202).
    pub load: u32,
}

macro_rules! map_type {
    ($($type:ty: $size:literal),* $(,)?) => {$(
        const _: () = assert!(size_of::<$type>() == $size);

        // SAFETY: repr(C), integers and arrays of them only, no implicit padding (the size is asserted above), and any
        // bytes make a value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    )*};
}

map_type! {
    Address: 16,
    FlowKey: 40,
    LastFlow: 16,
    AtHand: 56,
    Place: 16,
    FlowSet: 256,
    ClientKey: 24,
    Settings: 152,
    Port: 2,
    Identity: 16,
    Service: 48,
    Connections: 32,
    Peer: 80,
    Mac: 8,
    PeerLoad: 24,
    Counters: 224,
    PeerCounters: 16,
    Event: 64,
}

#[cfg(test)]
mod tests;
