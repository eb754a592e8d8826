//! What the packet benchmark tells its own program in the kernel. Servers run nothing of this.

/// How each packet of a run is made from the one before, and which program gets it. The only entry of `VARIATION`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variation {
    /// The frame's first twelve bytes: both Ethernet addresses, which the measured program writes over.
    pub macs: [u32; 3],
    /// Client address of the first flows, read big-endian. Flows have it and the addresses after it, 65,536 flows to each.
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

const _: () = assert!(size_of::<Variation>() == 32);

// SAFETY: repr(C), integers and an array of them, no padding (the size is asserted above), and any bytes make a value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Variation {}
