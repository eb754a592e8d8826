//! Counts the connections that services have open: own load without delay.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_TCP_CLOSE,
};
use aya_ebpf::helpers::bpf_get_netns_cookie;
use aya_ebpf::programs::SockOpsContext;
use balancer_common::types::{Connections, MAX_SERVICES};

use crate::atomic::add_u64;
use crate::maps::{CONNECTIONS, PORTS, SETTINGS};

#[inline(always)]
pub fn count(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => opened(ctx),
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
