//! What the packet benchmark tells its own program in the kernel. Servers run nothing of this.

/// How each packet of a run is made, and which program gets it. The only entry of `VARIATION`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variation {
    /// The frame's first bytes, which the measured program may write over.
    pub head: [u64; HEAD_WORDS],
    /// Bytes of the frame, which the measured program may make longer or shorter at its head.
    pub size: u32,
    /// Where in the frame the client's address ends: its last four bytes are set.
    pub client_at: u32,
    /// Where in the frame the client's port is.
    pub port_at: u32,
    /// Client address (its last four bytes) of the first flows, read big-endian. Flows have it and the addresses after it,
    /// 65,536 flows to each.
    pub client: u32,
    /// Number of the next packet.
    pub next: u32,
    /// Every how many flows have a packet: with 16, those are met whose entries were made 16 apart.
    pub step: u32,
    /// The packet's flow: these bits of its scattered number. 0 is one flow, `0xffff` 65,536 in turn, [`u32::MAX`] a new one
    /// for each packet.
    pub mask: u32,
    /// Index into `PROGRAMS`.
    pub program: u32,
}

/// Words of [`Variation::head`]: Ethernet, IPv6 and UDP headers, and two bytes more.
pub const HEAD_WORDS: usize = 8;

const _: () = assert!(size_of::<Variation>() == 96);

// SAFETY: repr(C), integers and an array of them, no padding (the size is asserted above), and any bytes make a value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Variation {}
