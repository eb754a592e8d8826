//! Keys and values of the BPF maps.
//!
//! `repr(C)`, every byte named, integers for flags: what is here is read by the XDP program, by the daemon and, through
//! BTF, by `bpftool map dump`. Ports are in host byte order, addresses in network byte order. Loads are basis points of a
//! server's capacity (10,000 = 100 %) and may exceed it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// One flow: protocol, both addresses and ports. Key of `HALF_OPEN` and `FLOWS`.
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

/// A first packet within this time of the last packet of its flow, in nanoseconds, is a repetition; after it, a new flow that
/// happens to have the same ports. As long as Linux' TIME-WAIT.
pub const SAME_FLOW_NS: u64 = 60_000_000_000;

/// Where a steered flow goes. Value of `HALF_OPEN` and `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// `CLOCK_MONOTONIC` of the last packet, in nanoseconds.
    pub last_seen_ns: u64,
    /// Index into `PEERS`.
    pub peer: u32,
    /// Index into `SERVICES`.
    pub service: u32,
}

/// What the whole program goes by. The only entry of `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// A peer whose last report is older than this many nanoseconds gets no new flows.
    pub timeout_ns: u64,
    /// Cookie of the network namespace whose sockets are counted (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
    /// Secret that the choice among peers is made with, so that no client can aim its flows at one of them.
    pub seed: u64,
    /// One more than the highest index in use in `PEERS`.
    pub peers: u32,
    /// How packets leave: 0 `XDP_TX`, 1 `bpf_redirect` to the interface that they came from (for veth).
    pub redirect: u32,
    /// Ethernet addresses of the interfaces that balancer is attached to, as [`Mac::number`] has them; 0 in what is left
    /// over. Frames for others come in by flooding, in promiscuous mode or by multicast, and are none of ours.
    pub macs: [u64; MAX_INTERFACES],
}

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

/// An address of the cluster. Value of `IDENTITIES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// [`FOREIGN`], [`HELD`] or [`SERVER`].
    pub kind: u32,
    /// Index into `PEERS` of the server that has it; for [`HELD`], index of this host's interface that has it.
    pub owner: u32,
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
    /// [`PEER_NONE`], [`PEER_ALIVE`] or [`PEER_DEAD`].
    pub state: u32,
    /// Interface of this host that the peer is linked to.
    pub interface: u32,
    /// The peer's Ethernet address on that link.
    pub mac: [u8; 6],
    /// Address families that it takes flows of: [`FAMILY_V4`], [`FAMILY_V6`].
    pub families: u8,
    /// Always 0.
    pub padding: u8,
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

counters! {
    /// Packets by what became of them, for each service. Value of `COUNTERS`, which is per CPU and indexed as `PORTS`
    /// names services: entry 0 is for packets of no service.
    Counters {
        /// Not for a service or an address of ours.
        not_ours,
        /// Of a flow with no entry: the local stack's.
        local,
        /// First packet of a flow that a peer steered here.
        guest,
        /// New flow kept: own load at or below the overload level (S204).
        kept_below_level,
        /// New flow kept: no peer is lower by the margin (S206), or none is fit at all.
        kept_no_candidate,
        /// New flow kept: its client is a server of the cluster.
        kept_for_peer,
        /// First packet of a flow that was kept before, again.
        kept_repeated,
        /// New flow steered: a peer was lower by more than the margin (S209).
        steered_new,
        /// New flow steered: the local service is down or draining.
        steered_not_ready,
        /// First packet of a flow that was steered before, again.
        steered_repeated,
        /// Later packet of a steered flow, sent on.
        steered,
        /// Packet of a steered flow whose peer is dead: left to the local stack.
        fallen_back,
        /// Frame of a peer's that would have been steered again: left to the local stack.
        not_steered_twice,
        /// Malformed, or with IP options: left to the local stack.
        odd,
        /// A map refused an entry: left to the local stack.
        errors,
    }
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
    Flow: 16,
    Settings: 96,
    Port: 2,
    Identity: 8,
    Service: 40,
    Connections: 32,
    Peer: 32,
    Mac: 8,
    PeerLoad: 24,
    Counters: 120,
    PeerCounters: 16,
}

#[cfg(test)]
mod tests;
