//! Atomic additions to words of maps (`BPF_ATOMIC | BPF_ADD`, RFC 9669 section 5.3).

use core::arch::asm;

/// Adds to a word that other CPUs add to at the same time; wraps.
///
/// # Safety
///
/// `word` points into a map's value and is aligned to four bytes.
#[inline(always)]
pub unsafe fn add_u32(word: *mut u32, amount: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("lock *(u32 *)({word} + 0) += {amount}", word = in(reg) word, amount = in(reg) amount)
    };
}

/// Adds to a word that other CPUs add to at the same time; wraps.
///
/// # Safety
///
/// `word` points into a map's value and is aligned to eight bytes.
#[inline(always)]
pub unsafe fn add_u64(word: *mut u64, amount: u64) {
    // SAFETY: the caller's.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) += {amount}", word = in(reg) word, amount = in(reg) amount)
    };
}
