//! What becomes of a packet, top to bottom.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_ANY, BPF_F_CURRENT_NETNS, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1 as Tuple,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as TupleV4,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as TupleV6,
};
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_loop, bpf_sk_release, bpf_skc_lookup_tcp};
use balancer_common::decide::{self, Candidate, Own, Peers, Search, Verdict};
use balancer_common::hash::flow_hash;
use balancer_common::types::{
    Address, Connections, Counters, FAMILY_V4, FOREIGN, Flow, HELD, MAX_SERVICES, PEER_ALIVE, Peer,
    SAME_FLOW_NS, Settings,
};
use balancer_common::wire::{self, Headers, Packet};

use crate::atomic::{add_u32, add_u64};
use crate::maps::{
    CONNECTIONS, COUNTERS, FLOWS, HALF_OPEN, IDENTITIES, LOADS, PEER_COUNTERS, PEER_MACS, PEERS,
    PORTS, SERVICES, SETTINGS,
};
use crate::packet::XdpFrame;

/// What becomes of a packet.
pub enum Fate {
    /// The local stack gets it.
    Local,
    /// It goes on to the peer with this Ethernet address.
    Forward { mac: [u8; 6], redirect: bool },
}

#[inline(always)]
pub fn fate(frame: &XdpFrame) -> Fate {
    let headers = match Headers::parse(frame) {
        Ok(Some(headers)) => headers,
        Ok(None) => return local(0, |counters| &mut counters.not_ours),
        Err(_) => return local(0, |counters| &mut counters.odd),
    };
    let Some(service) = service_on(headers.port()) else {
        return local(0, |counters| &mut counters.not_ours);
    };
    let Some(settings) = SETTINGS.get(0) else {
        return local(service + 1, |counters| &mut counters.errors);
    };
    if !is_for_us(frame, settings) {
        return local(service + 1, |counters| &mut counters.not_ours);
    }
    let packet = headers.packet();
    #[cfg(feature = "packet-log")]
    log_packet(frame, &packet);
    let passage = Passage {
        frame,
        packet,
        service,
        settings,
        now: now(),
    };
    match passage.known_flow() {
        Some(fate) => fate,
        None if passage.packet.opens() => passage.first_packet(),
        None => passage.second_packet(),
    }
}

/// A line in the daemon's log. For debugging: it costs more than all else here.
#[cfg(feature = "packet-log")]
#[inline(always)]
fn log_packet(frame: &XdpFrame, packet: &Packet) {
    let flow = &packet.flow;
    aya_log_ebpf::info!(
        frame.ctx(),
        "[{:i}]:{} -> [{:i}]:{} flags {:x}",
        flow.client.octets,
        flow.client_port,
        flow.identity.octets,
        flow.port,
        packet.flags
    );
}

/// Index into `SERVICES` of the service on this port.
#[inline(always)]
fn service_on(port: u16) -> Option<u32> {
    let number = u32::from(PORTS.get(u32::from(port))?.tcp);
    (1..=MAX_SERVICES).contains(&number).then(|| number - 1)
}

/// Whether the frame is addressed to one of our interfaces. A switch floods others', and TCP ignores what is sent to a group
/// (RFC 1122 section 4.2.3.10).
#[inline(always)]
fn is_for_us(frame: &XdpFrame, settings: &Settings) -> bool {
    wire::destination_mac(frame).is_some_and(|mac| settings.macs.contains(&mac))
}

/// `CLOCK_MONOTONIC`, to a few milliseconds.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: a plain helper call.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// A packet of a service on its way.
struct Passage<'a> {
    frame: &'a XdpFrame<'a>,
    packet: Packet,
    service: u32,
    settings: &'static Settings,
    now: u64,
}

impl Passage<'_> {
    /// A flow that has an entry in FLOWS.
    #[inline(always)]
    fn known_flow(&self) -> Option<Fate> {
        let entry = FLOWS.get_ptr_mut(&self.packet.flow)?;
        // SAFETY: the kernel doesn't free an entry while the program runs; it may be written by others meanwhile, which
        // can at worst send this packet where the flow's next ones go.
        let flow = unsafe { &mut *entry };
        if self.packet.opens() && self.now.saturating_sub(flow.last_seen_ns) > SAME_FLOW_NS {
            let _ = FLOWS.remove(&self.packet.flow);
            return None;
        }
        let Some(peer) = living_peer(flow.peer) else {
            let _ = FLOWS.remove(&self.packet.flow);
            if self.packet.opens() {
                return None;
            }
            return Some(self.local(|counters| &mut counters.fallen_back));
        };
        if self.from_peer() {
            return Some(self.local(|counters| &mut counters.not_steered_twice));
        }
        flow.last_seen_ns = self.now;
        self.count(|counters| &mut counters.steered);
        Some(self.forward(flow.peer, peer))
    }

    /// The first packet of a flow, or its repetition: S201 to S209.
    #[inline(always)]
    fn first_packet(&self) -> Fate {
        // SAFETY: the value is copied at once.
        let Some(identity) = (unsafe { IDENTITIES.get(&self.packet.flow.identity) }).copied()
        else {
            return self.local(|counters| &mut counters.not_ours);
        };
        match identity.kind {
            HELD => {}
            FOREIGN => return self.arrived(|counters| &mut counters.guest),
            _ => return self.local(|counters| &mut counters.not_ours),
        }
        if let Some(flow) = self.half_open() {
            if self.now.saturating_sub(flow.last_seen_ns) <= SAME_FLOW_NS
                && let Some(peer) = living_peer(flow.peer)
            {
                if self.from_peer() {
                    return self.arrived(|counters| &mut counters.not_steered_twice);
                }
                self.count(|counters| &mut counters.steered_repeated);
                return self.forward(flow.peer, peer);
            }
            // A new flow: if it is kept now, its later packets must not find the entry of the one before.
            let _ = HALF_OPEN.remove(&self.packet.flow);
        }
        let Some(own) = self.own() else {
            return self.local(|counters| &mut counters.errors);
        };
        let sight = Sight {
            peers: self.settings.peers,
            service: self.service,
            interface: self.frame.interface(),
            family: self.packet.flow.client.family(),
            timeout_ns: self.settings.timeout_ns,
            now: self.now,
        };
        let random = flow_hash(&self.packet.flow, self.settings.seed);
        match decide::decide(&own, &sight, random) {
            Verdict::KeepBelowLevel => self.arrived(|counters| &mut counters.kept_below_level),
            Verdict::KeepNoCandidate => self.arrived(|counters| &mut counters.kept_no_candidate),
            Verdict::Steer(peer) => self.steer_new(peer, own.ready),
        }
    }

    /// The decision was to steer: do so, unless this is a flow that must stay here whatever the loads.
    #[inline(always)]
    fn steer_new(&self, index: u32, ready: bool) -> Fate {
        if self.from_peer() {
            return self.arrived(|counters| &mut counters.not_steered_twice);
        }
        // The peer that gets it might hold the client's address itself, and would drop a packet that comes from there.
        if is_of_cluster(&self.packet.flow.client) {
            return self.arrived(|counters| &mut counters.kept_for_peer);
        }
        if self.is_connecting_here() {
            return self.local(|counters| &mut counters.kept_repeated);
        }
        let flow = Flow {
            last_seen_ns: self.now,
            peer: index,
            service: self.service,
        };
        let Some(peer) = living_peer(index) else {
            return self.arrived(|counters| &mut counters.errors);
        };
        if HALF_OPEN
            .insert(&self.packet.flow, &flow, u64::from(BPF_ANY))
            .is_err()
        {
            return self.arrived(|counters| &mut counters.errors);
        }
        if let Some(load) = LOADS.get_ptr_mut(index * MAX_SERVICES + self.service) {
            // SAFETY: an aligned word of a map that lives as long as the program.
            unsafe { add_u32(&raw mut (*load).sent, 1) };
        }
        self.add_connections(|connections| &raw mut connections.steered);
        if let Some(counters) = PEER_COUNTERS.get_ptr_mut(index) {
            // SAFETY: this CPU's own copy.
            unsafe { (*counters).flows += 1 };
        }
        if ready {
            self.count(|counters| &mut counters.steered_new);
        } else {
            self.count(|counters| &mut counters.steered_not_ready);
        }
        self.forward(index, peer)
    }

    /// Any other packet of a flow without an entry: if its first packet was steered, the flow has now shown that it is
    /// more than a SYN of a flood.
    #[inline(always)]
    fn second_packet(&self) -> Fate {
        let Some(mut flow) = self.half_open() else {
            return self.local(|counters| &mut counters.local);
        };
        let Some(peer) = living_peer(flow.peer) else {
            return self.local(|counters| &mut counters.fallen_back);
        };
        if self.from_peer() {
            return self.local(|counters| &mut counters.not_steered_twice);
        }
        flow.last_seen_ns = self.now;
        if FLOWS
            .insert(&self.packet.flow, &flow, u64::from(BPF_ANY))
            .is_ok()
        {
            // Left there, it would be in the way: the kernel evicts what was never looked up first, which are the flows
            // that are still half open.
            let _ = HALF_OPEN.remove(&self.packet.flow);
        } else {
            self.count(|counters| &mut counters.errors);
        }
        self.count(|counters| &mut counters.steered);
        self.forward(flow.peer, peer)
    }

    #[inline(always)]
    fn half_open(&self) -> Option<Flow> {
        // SAFETY: the value is copied at once; a torn one is caught by `living_peer`.
        unsafe { HALF_OPEN.get(&self.packet.flow) }.copied()
    }

    /// S202: own load, from what the kernel counts at this moment and from the daemon's last sample.
    #[inline(always)]
    fn own(&self) -> Option<Own> {
        let service = SERVICES.get(self.service)?;
        let connections = CONNECTIONS.get(self.service)?;
        Some(Own::from_maps(service, connections))
    }

    /// Whether a peer sent the frame: then it was steered already, or is the peer's own request.
    #[inline(always)]
    fn from_peer(&self) -> bool {
        // SAFETY: only whether the entry is there counts.
        wire::source_mac(self.frame).is_some_and(|mac| unsafe { PEER_MACS.get(&mac) }.is_some())
    }

    /// Whether the local stack has a socket for this very flow, so that its first packet was kept before.
    #[inline(always)]
    fn is_connecting_here(&self) -> bool {
        const LISTEN: u32 = 10;
        const TIME_WAIT: u32 = 6;
        let (mut tuple, len) = self.socket_tuple();
        // SAFETY: the tuple is as long as is said; the socket is released on the one path that has one.
        unsafe {
            let socket = bpf_skc_lookup_tcp(
                self.frame.ctx().as_ptr(),
                &raw mut tuple,
                len as u32,
                BPF_F_CURRENT_NETNS as u64,
                0,
            );
            if socket.is_null() {
                return false;
            }
            let state = (*socket).state;
            bpf_sk_release(socket.cast());
            state != LISTEN && state != TIME_WAIT
        }
    }

    /// The flow as the kernel's socket tables are asked for it, and the length of that, which tells the family.
    #[inline(always)]
    fn socket_tuple(&self) -> (bpf_sock_tuple, usize) {
        let flow = &self.packet.flow;
        let (sport, dport) = (flow.client_port.to_be(), flow.port.to_be());
        let (client, identity) = (words(&flow.client), words(&flow.identity));
        if flow.client.family() == FAMILY_V4 {
            let ipv4 = TupleV4 {
                saddr: client[3],
                daddr: identity[3],
                sport,
                dport,
            };
            (sock_tuple(Tuple { ipv4 }), size_of::<TupleV4>())
        } else {
            let ipv6 = TupleV6 {
                saddr: client,
                daddr: identity,
                sport,
                dport,
            };
            (sock_tuple(Tuple { ipv6 }), size_of::<TupleV6>())
        }
    }

    #[inline(always)]
    fn forward(&self, index: u32, peer: &Peer) -> Fate {
        if let Some(counters) = PEER_COUNTERS.get_ptr_mut(index) {
            // SAFETY: this CPU's own copy.
            unsafe { (*counters).packets += 1 };
        }
        Fate::Forward {
            mac: peer.mac,
            redirect: self.settings.redirect != 0,
        }
    }

    /// A first packet that goes to the local stack: part of the load until it has become a connection.
    #[inline(always)]
    fn arrived(&self, counter: impl FnOnce(&mut Counters) -> &mut u64) -> Fate {
        self.add_connections(|connections| &raw mut connections.arrived);
        self.local(counter)
    }

    #[inline(always)]
    fn add_connections(&self, field: impl FnOnce(&mut Connections) -> *mut u64) {
        if let Some(connections) = CONNECTIONS.get_ptr_mut(self.service) {
            // SAFETY: an aligned word of a map that lives as long as the program.
            unsafe { add_u64(field(&mut *connections), 1) };
        }
    }

    #[inline(always)]
    fn local(&self, counter: impl FnOnce(&mut Counters) -> &mut u64) -> Fate {
        local(self.service + 1, counter)
    }

    #[inline(always)]
    fn count(&self, counter: impl FnOnce(&mut Counters) -> &mut u64) {
        count(self.service + 1, counter);
    }
}

/// The peers as a packet at `now` sees them.
struct Sight {
    peers: u32,
    service: u32,
    /// Where the packet came in, and would go out.
    interface: u32,
    /// The flow's address family.
    family: u8,
    timeout_ns: u64,
    now: u64,
}

impl Peers for Sight {
    #[inline(always)]
    fn count(&self) -> u32 {
        self.peers
    }

    #[inline(always)]
    fn candidate(&self, index: u32) -> Option<Candidate> {
        let peer = living_peer(index)
            .filter(|peer| peer.interface == self.interface && peer.families & self.family != 0)?;
        // S207 by the kernel's clock: a daemon that stopped doesn't keep a dead peer on-line.
        if self.now.saturating_sub(peer.last_report_ns) > self.timeout_ns {
            return None;
        }
        Candidate::from_report(LOADS.get(index * MAX_SERVICES + self.service)?)
    }

    #[inline(always)]
    fn walk(&self, search: &mut Search) {
        let steps = search.steps();
        let mut walk = Walk {
            sight: self,
            search,
        };
        let callback = look as unsafe extern "C" fn(u32, *mut Walk) -> i64;
        // SAFETY: the kernel calls `look` with the walk, which outlives the call.
        unsafe { bpf_loop(steps, callback as *mut c_void, (&raw mut walk).cast(), 0) };
    }
}

/// What [`look`] works on.
struct Walk<'a> {
    sight: &'a Sight,
    search: &'a mut Search,
}

/// One step of a walk over the peers; 1 ends it.
///
/// # Safety
///
/// `walk` is the one that [`Sight::walk`] made.
unsafe extern "C" fn look(step: u32, walk: *mut Walk) -> i64 {
    // SAFETY: the caller's.
    let walk = unsafe { &mut *walk };
    i64::from(!walk.search.look(walk.sight, step))
}

/// The peer at `index`, unless its host is dead.
#[inline(always)]
fn living_peer(index: u32) -> Option<&'static Peer> {
    PEERS.get(index).filter(|peer| peer.state == PEER_ALIVE)
}

#[inline(always)]
fn is_of_cluster(address: &Address) -> bool {
    // SAFETY: only whether the entry is there counts.
    unsafe { IDENTITIES.get(address) }.is_some()
}

/// An address in network byte order; one of IPv4 is the last word.
#[inline(always)]
fn words(address: &Address) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

#[inline(always)]
fn sock_tuple(tuple: Tuple) -> bpf_sock_tuple {
    bpf_sock_tuple {
        __bindgen_anon_1: tuple,
    }
}

#[inline(always)]
fn local(entry: u32, counter: impl FnOnce(&mut Counters) -> &mut u64) -> Fate {
    count(entry, counter);
    Fate::Local
}

#[inline(always)]
fn count(entry: u32, counter: impl FnOnce(&mut Counters) -> &mut u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(entry) {
        // SAFETY: this CPU's own copy.
        unsafe { *counter(&mut *counters) += 1 };
    }
}
