//! Who gets a new flow: S202 to S209, with the maps for a view of the cluster.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_ANY, BPF_F_CURRENT_NETNS};
use aya_ebpf::helpers::{bpf_loop, bpf_sk_release, bpf_skc_lookup_tcp};
use balancer_common::decide::{self, Candidate, Own, Peers, Search};
use balancer_common::table::NO_PEER;
use balancer_common::types::{
    Address, ClientKey, FAMILY_V4, FlowKey, KEPT, LastFlow, MAX_SERVICES, Reason, Settings,
};

use crate::carry::Verdict;
use crate::maps::{CLIENTS, CONNECTIONS, LOADS, SERVICES, SETTINGS};
use crate::steer::{Passage, identity, living_peer};

/// Decides on a new flow to an identity that this server holds.
#[inline(always)]
pub fn choose(passage: &Passage) -> Verdict {
    let interface = if passage.packet.is_tagged() {
        passage.frame.interface()
    } else {
        0
    };
    let place = u64::from(interface) << 32 | u64::from(passage.service());
    let flow = passage.flow;
    let answer = Answer::unpack(balancer_decide(flow, passage.tag, passage.now, place));
    if answer.peer == KEPT {
        return Verdict::Admit(answer.reason);
    }
    if passage.from_peer() {
        return Verdict::Admit(Reason::NOT_STEERED_TWICE);
    }
    // The peer that gets it might hold the client's address itself, and would drop a packet that comes from there.
    if identity(&passage.flow.client).is_some() {
        return Verdict::Admit(Reason::KEPT_FOR_PEER);
    }
    if !passage.is_udp() && has_socket(passage) {
        return Verdict::Local(Reason::KEPT_REPEATED);
    }
    if passage.packet.hops <= 1 {
        return Verdict::Admit(Reason::HOP_LIMIT);
    }
    Verdict::Steer(answer.reason, answer.peer)
}

/// What a decision comes to.
struct Answer {
    reason: Reason,
    /// KEPT: this server keeps it.
    peer: u32,
}

/// The decision. A function of its own to the verifier (not inlined, and global), which goes through it once, whatever the
/// ways to it are; it returns a number because it has to. `place` is the service, and in its upper half [`Sight::interface`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn balancer_decide(flow: *const FlowKey, tag: u64, now: u64, place: u64) -> u64 {
    if flow.is_null() {
        return 0;
    }
    let Some(settings) = SETTINGS.get(0) else {
        return Answer::keep(Reason::ERRORS).pack();
    };
    let sight = Sight {
        // SAFETY: the only caller passes a reference.
        flow: unsafe { &*flow },
        now,
        service: place as u32,
        interface: (place >> 32) as u32,
        settings,
    };
    sight.decide(tag).pack()
}

/// The peers as a packet sees them.
struct Sight<'a> {
    flow: &'a FlowKey,
    now: u64,
    /// Index into `SERVICES`.
    service: u32,
    /// A tagged frame can only go on within its VLAN: by this interface, and in no tunnel. 0: the frame isn't tagged.
    interface: u32,
    settings: &'static Settings,
}

impl Sight<'_> {
    #[inline(always)]
    fn decide(&self, tag: u64) -> Answer {
        let Some(own) = own(self.service) else {
            return Answer::keep(Reason::ERRORS);
        };
        let affinity_ns = affinity_ns(self.service);
        if affinity_ns != 0 {
            let answer = self.follow_client(own.ready, affinity_ns);
            if answer != 0 {
                return Answer::unpack(answer);
            }
        }
        match decide::decide(&own, self, tag) {
            decide::Verdict::KeepBelowLevel => Answer::keep(Reason::KEPT_BELOW_LEVEL),
            decide::Verdict::KeepNoCandidate => Answer::keep(Reason::KEPT_NO_CANDIDATE),
            decide::Verdict::Steer(peer) => Answer {
                reason: if own.ready {
                    Reason::STEERED_NEW
                } else {
                    Reason::STEERED_NOT_READY
                },
                peer,
            },
        }
    }

    /// Affinity: where the client's last flow went, if that server can still take one; a packed answer, or 0. Not inlined, for
    /// the stack's sake.
    #[inline(never)]
    fn follow_client(&self, own_ready: bool, affinity_ns: u64) -> u64 {
        self.last_of_client(own_ready, affinity_ns)
            .map_or(0, Answer::pack)
    }

    #[inline(always)]
    fn last_of_client(&self, own_ready: bool, affinity_ns: u64) -> Option<Answer> {
        let last = CLIENTS.get_ptr_mut(&client(self.flow, self.service))?;
        // SAFETY: the kernel frees no entry of a table that is allocated as a whole. It may give this one to another client
        // meanwhile: then this flow goes where that one's does, as if its own entry had been evicted a moment before.
        let last = unsafe { &mut *last };
        if self.now.saturating_sub(last.last_seen_ns) > affinity_ns {
            return None;
        }
        let answer = if last.peer == KEPT {
            own_ready.then_some(Answer::keep(Reason::KEPT_BY_AFFINITY))?
        } else {
            self.candidate(last.peer).filter(|peer| peer.ready)?;
            Answer {
                reason: Reason::STEERED_BY_AFFINITY,
                peer: last.peer,
            }
        };
        last.last_seen_ns = self.now;
        Some(answer)
    }
}

impl Answer {
    #[inline(always)]
    fn keep(reason: Reason) -> Self {
        Self { reason, peer: KEPT }
    }

    #[inline(always)]
    fn pack(self) -> u64 {
        u64::from(self.peer) << 32 | u64::from(self.reason.number())
    }

    #[inline(always)]
    fn unpack(number: u64) -> Self {
        Self {
            reason: Reason::from_number(number as u32),
            peer: (number >> 32) as u32,
        }
    }
}

/// Affinity: the client's next flows go where this one goes.
#[inline(always)]
pub fn keep_client_with(passage: &Passage, peer: u16) {
    if affinity_ns(passage.service()) == 0 {
        return;
    }
    let flow = LastFlow {
        last_seen_ns: passage.now,
        peer: if peer == NO_PEER { KEPT } else { peer.into() },
        service: passage.service(),
    };
    // A table that refuses is like one that forgets.
    let _ = CLIENTS.insert(
        &client(passage.flow, passage.service()),
        &flow,
        u64::from(BPF_ANY),
    );
}

#[inline(always)]
pub fn affinity_ns(service: u32) -> u64 {
    SERVICES.get(service).map_or(0, |sheet| sheet.affinity_ns)
}

#[inline(always)]
fn client(flow: &FlowKey, service: u32) -> ClientKey {
    ClientKey {
        client: flow.client,
        service: service.into(),
    }
}

/// S202: own load, from what the kernel counts at this moment and from the daemon's last sample.
#[inline(always)]
pub fn own(service: u32) -> Option<Own> {
    let sheet = SERVICES.get(service)?;
    let connections = CONNECTIONS.get(service)?;
    Some(Own::from_maps(sheet, connections))
}

impl Peers for Sight<'_> {
    #[inline(always)]
    fn count(&self) -> u32 {
        self.settings.peers
    }

    #[inline(always)]
    fn candidate(&self, index: u32) -> Option<Candidate> {
        let Self { interface, now, .. } = *self;
        let family = self.flow.client.family();
        let peer = living_peer(index).filter(|peer| peer.families & family != 0)?;
        if interface != 0 && (peer.interface != interface || peer.tunnel != 0) {
            return None;
        }
        // S207 by the kernel's clock: a daemon that stopped doesn't keep a dead peer on-line.
        if now.saturating_sub(peer.last_report_ns) > peer.timeout_ns {
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
    sight: &'a Sight<'a>,
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

/// Whether the local stack has a socket for this very flow, so that its first packet was kept before.
#[inline(always)]
pub fn has_socket(passage: &Passage) -> bool {
    socket_of(passage.frame.ctx().as_ptr(), passage.flow)
}

/// Not inlined: the stack that its tuple takes is free again when it returns.
#[inline(never)]
fn socket_of(ctx: *mut c_void, flow: &FlowKey) -> bool {
    const LISTEN: u32 = 10;
    const TIME_WAIT: u32 = 6;
    let (mut tuple, len) = socket_tuple(flow);
    // SAFETY: the tuple is as long as is said; the socket is released on the one path that has one.
    unsafe {
        let socket = bpf_skc_lookup_tcp(
            ctx,
            (&raw mut tuple).cast(),
            len,
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

/// A `bpf_sock_tuple`: addresses, then ports, as many words as the family has.
type SockTuple = [u32; 9];

/// The flow as the kernel's socket tables are asked for it, and the length of that in bytes, which tells the family.
#[inline(always)]
fn socket_tuple(flow: &FlowKey) -> (SockTuple, u32) {
    const V4_LEN: u32 = 12;
    const V6_LEN: u32 = 36;
    let ports = u32::from(flow.client_port.to_be()) | u32::from(flow.port.to_be()) << 16;
    let ([a, b, c, d], [e, f, g, h]) = (words(&flow.client), words(&flow.identity));
    if flow.client.family() == FAMILY_V4 {
        // An IPv4 address is the last word. What follows the ports isn't looked at, but must not be left unset.
        ([d, h, ports, a, b, c, e, f, g], V4_LEN)
    } else {
        ([a, b, c, d, e, f, g, h, ports], V6_LEN)
    }
}

/// An address in network byte order, in four words.
#[inline(always)]
pub fn words(address: &Address) -> [u32; 4] {
    let [first, second] = address.words();
    let half = |word: u64| {
        let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
        [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes)
    };
    let ([a, b], [c, d]) = (half(first), half(second));
    [a, b, c, d]
}
