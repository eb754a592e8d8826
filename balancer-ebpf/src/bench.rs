//! The packet benchmark's own programs for the kernel.
//!
//! A test run (`BPF_PROG_TEST_RUN`) gives a program the same packet again and again, as the program left it. So that each
//! one is a packet as it comes in, `vary` makes it anew and then becomes the measured program by a tail call. What `vary`
//! takes is measured with `empty` in that one's place.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the macros of aya-ebpf make functions of their own beside those below"
)]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS};
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_get_buff_len};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use balancer_common::bench::Variation;

#[btf_map]
static VARIATION: Array<Variation, 1> = Array::new();

/// What is measured.
#[btf_map]
static PROGRAMS: ProgramArray<8> = ProgramArray::new();

/// Makes the packet anew, and hands it to the measured program.
#[xdp(frags)]
pub fn vary(ctx: XdpContext) -> u32 {
    let Some(variation) = VARIATION.get_ptr_mut(0) else {
        return XDP_ABORTED;
    };
    // SAFETY: of a map that lives as long as the program; only one CPU runs it at a time.
    let variation = unsafe { &mut *variation };
    if remake(&ctx, variation).is_none() {
        return XDP_ABORTED;
    }
    // SAFETY: nothing here is to be dropped.
    unsafe { PROGRAMS.tail_call(&ctx, variation.program) };
    XDP_ABORTED
}

/// What the others are compared with.
#[xdp(frags)]
pub fn empty(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Makes the frame as long as it was, restores its head, and sets the flow: the client's address and port. The checksums are
/// those of the first packet, and nobody checks them.
#[inline(always)]
fn remake(ctx: &XdpContext, variation: &mut Variation) -> Option<()> {
    // SAFETY: a plain helper call.
    let size = unsafe { bpf_xdp_get_buff_len(ctx.as_ptr().cast()) };
    let surplus = size as i32 - variation.size as i32;
    if surplus != 0 {
        // SAFETY: the context is the program's own; pointers into the packet are made after this.
        let failed = unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), surplus) };
        if failed != 0 {
            return None;
        }
    }
    let head = checked(ctx, 0, size_of_val(&variation.head))? as *mut u64;
    for (index, word) in variation.head.into_iter().enumerate() {
        // SAFETY: within the frame, as compared above; balancer's own program has to do with unaligned packets too.
        unsafe { *head.add(index) = word };
    }
    // Odd, so that 2^n numbers in a row give 2^n flows; large, so that neighbours lie apart as real flows do.
    let nth = variation.next.wrapping_mul(variation.step);
    let number = nth.wrapping_mul(0x9e37_79b1) & variation.mask;
    variation.next = variation.next.wrapping_add(1);
    let client = checked(ctx, variation.client_at, size_of::<u32>())? as *mut u32;
    // SAFETY: as above.
    unsafe { *client = variation.client.wrapping_add(number >> 16).to_be() };
    let port = checked(ctx, variation.port_at, size_of::<u16>())? as *mut u16;
    // SAFETY: as above.
    unsafe { *port = (number as u16).to_be() };
    Some(())
}

/// Address of `size` bytes at `offset`, all within the frame.
#[inline(always)]
fn checked(ctx: &XdpContext, offset: u32, size: usize) -> Option<usize> {
    // The verifier wants a bound of its own.
    const LONGEST: u32 = 0xff;
    let start = ctx.data() + (offset & LONGEST) as usize;
    (start + size <= ctx.data_end()).then_some(start)
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
