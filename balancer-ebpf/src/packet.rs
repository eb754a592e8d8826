//! The received frame: the one place that touches packet memory.

use core::marker::PhantomData;

use aya_ebpf::programs::XdpContext;
use balancer_common::wire::{ETHERNET_LEN, Frame, Header};

/// A frame as XDP hands it over.
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

    /// Addresses the frame to `mac`, from whom it was addressed to before: us.
    #[inline(always)]
    pub fn readdress(&self, mac: [u8; 6]) -> Option<()> {
        let start = self.checked::<ETHERNET_LEN>(0)?;
        // SAFETY: `checked` compared ETHERNET_LEN bytes from here with the frame's end; two addresses of six bytes are
        // its first twelve.
        unsafe {
            let addresses = start as *mut [u8; 6];
            *addresses.add(1) = *addresses;
            *addresses = mac;
        }
        Some(())
    }

    /// Address of `N` bytes at `offset`, all within the frame.
    #[inline(always)]
    fn checked<const N: usize>(&self, offset: usize) -> Option<usize> {
        let start = self.ctx.data() + offset;
        (start + N <= self.ctx.data_end()).then_some(start)
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
    fn size(&self) -> usize {
        self.ctx.data_end() - self.ctx.data()
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
