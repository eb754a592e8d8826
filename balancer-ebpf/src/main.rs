//! balancer in the kernel: `steer` decides on packets as they come in, `count_connections` counts what they become.
//!
//! This crate only reads packets, looks maps up and carries verdicts out. What is decided, and by which rule, is in
//! `balancer-common`, where it is tested on the host.
#![no_std]
#![no_main]
// Rust has no atomics for a target without compare-and-swap, and BPF counts as one.
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    reason = "the macros of aya-ebpf make functions of their own beside those below"
)]

mod account;
mod arrival;
mod atomic;
mod carry;
mod choice;
mod connections;
mod forward;
mod maps;
mod memory;
mod packet;
mod steer;
mod tunnel;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::{sock_ops, xdp};
use aya_ebpf::programs::{SockOpsContext, XdpContext};

use crate::carry::Fate;
use crate::packet::XdpFrame;

/// The way of a packet. Whatever goes wrong, the packet is the local stack's.
#[xdp(frags)]
#[inline(always)]
pub fn steer(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::new(&ctx);
    match arrival::fate(&frame) {
        Fate::Local => XDP_PASS,
        Fate::Drop => XDP_DROP,
        Fate::Forward(way) => forward::send(&frame, &way),
    }
}

/// The way of a connection: opened, closed.
#[sock_ops]
pub fn count_connections(ctx: SockOpsContext) -> u32 {
    connections::count(&ctx);
    1
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses a program that could get here.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
