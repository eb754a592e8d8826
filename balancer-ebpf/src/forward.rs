//! On to a peer.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_TX};
use aya_ebpf::helpers::bpf_redirect;
use balancer_common::types::{Peer, Reason};
use balancer_common::wire::ETHERNET_LEN;

use crate::account::count;
use crate::packet::XdpFrame;
use crate::tunnel;

/// Where a packet goes, and what of it that takes.
pub struct Way {
    pub peer: &'static Peer,
    /// Its service's entry in `COUNTERS`.
    pub entry: u32,
    /// Where the IP header begins in the frame.
    pub at: usize,
    /// Bytes of the IP packet.
    pub length: usize,
    /// Whether even packets that leave by the interface that they came in by are redirected there.
    pub redirect: bool,
    /// Of the flow's hash: spreads flows over a tunnel's paths and the peer's queues.
    pub spread: u16,
}

/// Sends the packet on. If the frame can't be made fit, it is dropped: the local stack doesn't know its flow, and would reset it.
#[inline(always)]
pub fn send(frame: &XdpFrame, way: &Way) -> u32 {
    if way.peer.tunnel != 0 {
        // What the tag was for doesn't exist at the tunnel's other end.
        if way.at != ETHERNET_LEN {
            return give_up(way);
        }
        return tunnel::send(frame, way);
    }
    if frame.spend_hop(way.at).is_none() || frame.readdress(way.peer).is_none() {
        return give_up(way);
    }
    leave(frame, way, way.peer.interface)
}

#[inline(always)]
pub fn give_up(way: &Way) -> u32 {
    count(way.entry, Reason::ERRORS);
    XDP_DROP
}

/// Out by an interface.
#[inline(always)]
pub fn leave(frame: &XdpFrame, way: &Way, interface: u32) -> u32 {
    if way.redirect || interface != frame.interface() {
        // SAFETY: a plain helper call.
        unsafe { bpf_redirect(interface, 0) as u32 }
    } else {
        XDP_TX
    }
}
