//! Counts the connections that services have open: own load without delay.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_TCP_CLOSE,
};
use aya_ebpf::helpers::bpf_get_netns_cookie;
use aya_ebpf::programs::SockOpsContext;
use balancer_common::types::{Address, Connections, FOREIGN, MAX_SERVICES};

use crate::atomic::add_u64;
use crate::maps::{CONNECTIONS, PORTS, SETTINGS};
use crate::steer::identity;

/// `AF_INET` of socket.h.
const AF_INET: u32 = 2;

#[inline(always)]
pub fn count(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => opened(ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB if is_given(ctx) => opened(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => closed(ctx),
        _ => {}
    }
}

#[inline(always)]
fn opened(ctx: &SockOpsContext) {
    let Some(connections) = connections_of(ctx) else {
        return;
    };
    // Without the callback for its end a connection would count forever.
    if ctx
        .set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32)
        .is_err()
    {
        return;
    }
    // SAFETY: aligned words of a map that lives as long as the program.
    unsafe {
        add_u64(&raw mut (*connections).open, 1);
        add_u64(&raw mut (*connections).established, 1);
    }
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let Some(connections) = connections_of(ctx) else {
        return;
    };
    // SAFETY: as above.
    unsafe { add_u64(&raw mut (*connections).open, 1u64.wrapping_neg()) };
}

/// Whether a peer has given this server the connection: it was not accepted here, and nobody here connects from a peer's address.
#[inline(always)]
fn is_given(ctx: &SockOpsContext) -> bool {
    let address = if ctx.family() == AF_INET {
        Address::v4(u32::from_be(ctx.local_ip4()))
    } else {
        // SAFETY: of the context; read by the word, as the verifier wants it.
        let word = |index: usize| unsafe {
            u64::from(u32::from_be(
                (&raw const (*ctx.ops).local_ip6[index]).read_volatile(),
            ))
        };
        Address::v6(word(0) << 32 | word(1), word(2) << 32 | word(3))
    };
    identity(&address).is_some_and(|identity| identity.kind == FOREIGN)
}

/// The count that a socket belongs to. The program sees the sockets of all network namespaces.
#[inline(always)]
fn connections_of(ctx: &SockOpsContext) -> Option<*mut Connections> {
    let number = u32::from(PORTS.get(ctx.local_port() & 0xffff)?.tcp);
    if !(1..=MAX_SERVICES).contains(&number) {
        return None;
    }
    // SAFETY: a plain helper call.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if cookie != SETTINGS.get(0)?.netns_cookie {
        return None;
    }
    CONNECTIONS.get_ptr_mut(number - 1)
}
