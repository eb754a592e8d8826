//! The received frame: the one place that touches packet memory.

use core::marker::PhantomData;
use core::mem::offset_of;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use balancer_common::types::Peer;
use balancer_common::wire::{ETHERNET_LEN, Frame, Header};

/// A frame as XDP hands it over. Of one that is longer than a page (`xdp.frags`), the beginning is in reach.
pub struct XdpFrame<'a> {
    ctx: &'a XdpContext,
}

impl<'a> XdpFrame<'a> {
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }

    /// Index of the interface that the frame came in by.
    #[inline(always)]
    pub fn interface(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    pub fn ctx(&self) -> &XdpContext {
        self.ctx
    }

    /// Addresses the frame to a peer, or to the next hop to it.
    #[inline(always)]
    pub fn readdress(&self, peer: &Peer) -> Option<()> {
        let ethernet = self.header_mut::<ETHERNET_LEN>(0)?;
        const { assert!(offset_of!(Peer, mac) % 4 == 0) };
        const { assert!(offset_of!(Peer, own_mac) == offset_of!(Peer, mac) + 6) };
        // SAFETY: both addresses, one behind the other, are three aligned words. Copied as what they are, they would be a call
        // of memmove.
        let [a, b, c] = unsafe {
            *(&raw const *peer)
                .byte_add(offset_of!(Peer, mac))
                .cast::<[u32; 3]>()
        };
        ethernet.put::<_, 0>(a);
        ethernet.put::<_, 4>(b);
        ethernet.put::<_, 8>(c);
        Some(())
    }

    /// Takes one off the TTL or hop limit of the IP header at `at`.
    #[inline(always)]
    pub fn spend_hop(&self, at: usize) -> Option<()> {
        const V4_LEN: usize = 20;
        let ip = self.header::<V4_LEN>(at)?;
        let changed = self.header_mut::<V4_LEN>(at)?;
        if ip.u8::<0>() >> 4 == 6 {
            changed.put::<_, 7>(ip.u8::<7>().wrapping_sub(1));
            return Some(());
        }
        changed.put::<_, 8>(ip.u8::<8>().wrapping_sub(1));
        // RFC 1624: the sum of all words is smaller by 0x0100, so the checksum, its complement, is larger by that.
        let sum = u32::from(ip.u16::<10>()) + 0x0100;
        changed.put::<_, 10>(((sum + (sum >> 16)) as u16).to_be());
        Some(())
    }

    /// Adds `count` bytes before the frame's first one, or takes as many away.
    #[inline(always)]
    pub fn grow_head(&self, count: i32) -> Option<()> {
        // SAFETY: the context is the program's own; pointers into the packet are made anew for each use.
        (unsafe { bpf_xdp_adjust_head(self.ctx.as_ptr().cast(), -count) } == 0).then_some(())
    }

    /// Leaves only the first `size` bytes of the frame.
    #[inline(always)]
    pub fn truncate(&self, size: usize) -> Option<()> {
        let delta = size as i32 - self.total() as i32;
        // SAFETY: as above.
        (unsafe { bpf_xdp_adjust_tail(self.ctx.as_ptr().cast(), delta) } == 0).then_some(())
    }

    /// The `N` bytes at `offset`, to be written.
    #[inline(always)]
    pub fn header_mut<const N: usize>(&self, offset: usize) -> Option<XdpHeaderMut<'_, N>> {
        Some(XdpHeaderMut {
            start: self.checked::<N>(offset)?,
            frame: PhantomData,
        })
    }

    /// Address of `N` bytes at `offset`, all within the frame.
    #[inline(always)]
    pub fn checked<const N: usize>(&self, offset: usize) -> Option<usize> {
        let start = self.ctx.data() + offset;
        (start + N <= self.ctx.data_end()).then_some(start)
    }

    /// Bytes of the frame, those out of reach included.
    #[inline(always)]
    fn total(&self) -> usize {
        // SAFETY: a plain helper call.
        (unsafe { bpf_xdp_get_buff_len(self.ctx.as_ptr().cast()) }) as usize
    }
}

impl Frame for XdpFrame<'_> {
    type Header<'b, const N: usize>
        = XdpHeader<'b, N>
    where
        Self: 'b;

    #[inline(always)]
    fn header<const N: usize>(&self, offset: usize) -> Option<XdpHeader<'_, N>> {
        Some(XdpHeader {
            start: self.checked::<N>(offset)?,
            frame: PhantomData,
        })
    }

    #[inline(always)]
    fn holds(&self, size: usize) -> bool {
        size <= self.ctx.data_end() - self.ctx.data() || size <= self.total()
    }
}

/// `N` bytes of a frame.
///
/// # Safety
///
/// Made only by [`XdpFrame::header`], after it compared all `N` bytes with the frame's end; the verifier checks that again
/// for each load. The loads are not aligned: the kernels that balancer runs on have unaligned packet access
/// (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`), and the verifier refuses the program on any other.
pub struct XdpHeader<'a, const N: usize> {
    start: usize,
    frame: PhantomData<&'a ()>,
}

impl<const N: usize> XdpHeader<'_, N> {
    #[inline(always)]
    fn load<T: Copy, const AT: usize>(&self) -> T {
        const { assert!(AT + size_of::<T>() <= N) };
        // SAFETY: within the header, by the assertion; see the type for alignment.
        unsafe { *((self.start + AT) as *const T) }
    }
}

impl<const N: usize> Header for XdpHeader<'_, N> {
    #[inline(always)]
    fn u8<const AT: usize>(&self) -> u8 {
        self.load::<u8, AT>()
    }

    #[inline(always)]
    fn u16<const AT: usize>(&self) -> u16 {
        u16::from_be(self.load::<u16, AT>())
    }

    #[inline(always)]
    fn u32<const AT: usize>(&self) -> u32 {
        u32::from_be(self.load::<u32, AT>())
    }

    #[inline(always)]
    fn u64<const AT: usize>(&self) -> u64 {
        u64::from_be(self.load::<u64, AT>())
    }
}

/// `N` bytes of a frame, to be written. As safe as [`XdpHeader`] is.
pub struct XdpHeaderMut<'a, const N: usize> {
    start: usize,
    frame: PhantomData<&'a ()>,
}

impl<const N: usize> XdpHeaderMut<'_, N> {
    /// Writes the bytes of `value`, as they are in memory, at `AT`.
    #[inline(always)]
    pub fn put<T: Copy, const AT: usize>(&self, value: T) {
        const { assert!(AT + size_of::<T>() <= N) };
        // SAFETY: within the header, by the assertion; see XdpHeader for alignment.
        unsafe { *((self.start + AT) as *mut T) = value };
    }

    /// Address of the bytes, for helpers.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut u32 {
        self.start as *mut u32
    }
}
