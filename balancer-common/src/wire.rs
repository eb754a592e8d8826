//! Views of packet headers, and what of a packet the rest goes by.
//!
//! Generic over [`Frame`], so that the XDP program reads through checked pointers and the tests through slices.

use crate::types::{Address, FlowKey, Mac};

/// Length of an Ethernet header (IEEE 802.3).
pub const ETHERNET_LEN: usize = 14;

/// `EtherType` of IPv4.
pub const IPV4: u16 = 0x0800;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;

/// A received frame.
pub trait Frame {
    /// The first bytes of a header of `N` bytes.
    type Header<'a, const N: usize>: Header
    where
        Self: 'a;

    /// The `N` bytes at `offset`, unless the frame ends before them.
    fn header<const N: usize>(&self, offset: usize) -> Option<Self::Header<'_, N>>;

    /// Bytes of the frame.
    fn size(&self) -> usize;
}

/// Bytes that are there. A field past their end does not compile.
pub trait Header {
    /// The byte at `AT`.
    fn u8<const AT: usize>(&self) -> u8;
    /// The big-endian number at `AT`.
    fn u16<const AT: usize>(&self) -> u16;
    /// The big-endian number at `AT`.
    fn u32<const AT: usize>(&self) -> u32;
}

/// Why a packet is not looked at further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// The frame ends within a header, or before the end that the IP header names.
    Truncated,
    /// A length or version field contradicts the rest.
    BadHeader,
    /// IP options.
    Options,
    /// TCP in a frame for a group, which TCP ignores (RFC 1122 section 4.2.3.10): all servers get it.
    Group,
}

/// A TCP segment over IP over Ethernet: what the decision goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its flow.
    pub flow: FlowKey,
    /// TCP's flag bits, FIN being 1 (RFC 9293 section 3.1).
    pub flags: u8,
}

/// In the first byte of an Ethernet address: a broadcast or multicast one (IEEE 802).
const GROUP: u8 = 0x01;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

impl Packet {
    /// Reads a frame: `Ok(None)` for what is not TCP over IPv4 or a fragment of it.
    ///
    /// # Errors
    ///
    /// [`Odd`]: to be left to the local stack.
    #[inline(always)]
    pub fn parse(frame: &impl Frame) -> Result<Option<Self>, Odd> {
        let ethernet = frame.header::<ETHERNET_LEN>(0).ok_or(Odd::Truncated)?;
        let packet = match ethernet.u16::<12>() {
            IPV4 => Self::parse_v4(frame, ETHERNET_LEN)?,
            _ => None,
        };
        if packet.is_some() && ethernet.u8::<0>() & GROUP != 0 {
            return Err(Odd::Group);
        }
        Ok(packet)
    }

    /// RFC 791 section 3.1.
    #[inline(always)]
    fn parse_v4(frame: &impl Frame, at: usize) -> Result<Option<Self>, Odd> {
        const HEADER_LEN: usize = 20;
        const FRAGMENT_OFFSET: u16 = 0x1fff;
        const MORE_FRAGMENTS: u16 = 0x2000;
        let ip = frame.header::<HEADER_LEN>(at).ok_or(Odd::Truncated)?;
        if ip.u8::<9>() != TCP {
            return Ok(None);
        }
        match ip.u8::<0>() {
            0x45 => {}
            0x46..=0x4f => return Err(Odd::Options),
            _ => return Err(Odd::BadHeader),
        }
        if ip.u16::<6>() & (FRAGMENT_OFFSET | MORE_FRAGMENTS) != 0 {
            return Ok(None);
        }
        let length = ip.u16::<2>() as usize;
        if length < HEADER_LEN + TCP_LEN {
            return Err(Odd::BadHeader);
        }
        // A short frame is padded to 60 bytes: it may be longer than the packet, not shorter.
        if at + length > frame.size() {
            return Err(Odd::Truncated);
        }
        let addresses = (Address::v4(ip.u32::<12>()), Address::v4(ip.u32::<16>()));
        Self::parse_tcp(frame, at + HEADER_LEN, length - HEADER_LEN, addresses)
    }

    /// RFC 9293 section 3.1.
    #[inline(always)]
    fn parse_tcp(
        frame: &impl Frame,
        at: usize,
        length: usize,
        (client, identity): (Address, Address),
    ) -> Result<Option<Self>, Odd> {
        let tcp = frame.header::<TCP_LEN>(at).ok_or(Odd::Truncated)?;
        let header_len = usize::from(tcp.u8::<12>() >> 4) * 4;
        if header_len < TCP_LEN || header_len > length {
            return Err(Odd::BadHeader);
        }
        let flow = FlowKey {
            client,
            identity,
            client_port: tcp.u16::<0>(),
            port: tcp.u16::<2>(),
            protocol: TCP,
            padding: [0; 3],
        };
        Ok(Some(Self {
            flow,
            flags: tcp.u8::<13>(),
        }))
    }

    /// Whether this segment asks for a connection: SYN without ACK or RST.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST) == SYN
    }
}

const TCP_LEN: usize = 20;

/// Source address of an Ethernet frame.
#[inline(always)]
pub fn source_mac(frame: &impl Frame) -> Option<Mac> {
    let ethernet = frame.header::<ETHERNET_LEN>(0)?;
    let number = u64::from(ethernet.u16::<6>()) << 32 | u64::from(ethernet.u32::<8>());
    let [_, _, octets @ ..] = number.to_be_bytes();
    Some(Mac {
        octets,
        padding: [0; 2],
    })
}

impl Frame for &[u8] {
    type Header<'a, const N: usize>
        = &'a [u8; N]
    where
        Self: 'a;

    fn header<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.get(offset..)?.first_chunk()
    }

    fn size(&self) -> usize {
        self.len()
    }
}

impl<const N: usize> Header for &[u8; N] {
    fn u8<const AT: usize>(&self) -> u8 {
        const { assert!(AT < N) };
        self[AT]
    }

    fn u16<const AT: usize>(&self) -> u16 {
        const { assert!(AT + 2 <= N) };
        u16::from_be_bytes([self[AT], self[AT + 1]])
    }

    fn u32<const AT: usize>(&self) -> u32 {
        const { assert!(AT + 4 <= N) };
        u32::from_be_bytes([self[AT], self[AT + 1], self[AT + 2], self[AT + 3]])
    }
}

#[cfg(test)]
mod tests;
