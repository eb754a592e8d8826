//! Views of packet headers, and what of a packet the rest goes by.
//!
//! Generic over [`Frame`], so that the XDP program reads through checked pointers and the tests through slices.

use crate::types::{Address, FlowKey, Mac};

/// Length of an Ethernet header (IEEE 802.3).
pub const ETHERNET_LEN: usize = 14;

/// `EtherType` of IPv4.
pub const IPV4: u16 = 0x0800;

/// `EtherType` of IPv6.
pub const IPV6: u16 = 0x86dd;

/// `EtherType` of a VLAN's tag (IEEE 802.1Q).
pub const VLAN: u16 = 0x8100;

/// `EtherType` of a provider's tag (IEEE 802.1ad), with which a VLAN's may be inside.
pub const PROVIDER_VLAN: u16 = 0x88a8;

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
    /// The big-endian number at `AT`.
    fn u64<const AT: usize>(&self) -> u64;
}

/// Why a packet is not looked at further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// The frame ends within a header, or before the end that the IP header names.
    Truncated,
    /// A length or version field contradicts the rest, or an address has no place on a wire.
    BadHeader,
    /// IPv4 options or IPv6 extension headers.
    Options,
}

/// A TCP segment over IP over Ethernet: what the decision goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its flow.
    pub flow: FlowKey,
    /// TCP's flag bits, FIN being 1 (RFC 9293 section 3.1).
    pub flags: u8,
}

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

impl Packet {
    /// Whether this segment asks for a connection: SYN without ACK or RST.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST) == SYN
    }
}

/// The headers of a TCP segment, found to be there and to agree with each other.
///
/// Most packets are for ports of no service: only for the others is a [`Packet`] made.
pub struct Headers<'a, F: Frame + 'a> {
    ip: Ip<'a, F>,
    tcp: F::Header<'a, TCP_LEN>,
}

enum Ip<'a, F: Frame + 'a> {
    V4(F::Header<'a, IPV4_LEN>),
    V6(F::Header<'a, IPV6_LEN>),
}

const TAG_LEN: usize = 4;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;

impl<'a, F: Frame> Headers<'a, F> {
    /// Reads a frame with up to two VLAN tags: `Ok(None)` for what is not TCP over IP, or is a fragment of it.
    ///
    /// # Errors
    ///
    /// [`Odd`]: to be left to the local stack.
    #[inline(always)]
    pub fn parse(frame: &'a F) -> Result<Option<Self>, Odd> {
        let ethernet = frame.header::<ETHERNET_LEN>(0).ok_or(Odd::Truncated)?;
        match ethernet.u16::<12>() {
            IPV4 => Self::parse_v4(frame, ETHERNET_LEN),
            IPV6 => Self::parse_v6(frame, ETHERNET_LEN),
            VLAN | PROVIDER_VLAN => Self::parse_tagged(frame),
            _ => Ok(None),
        }
    }

    /// The service's port.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        self.tcp.u16::<2>()
    }

    /// What of the packet the rest goes by.
    #[inline(always)]
    pub fn packet(&self) -> Packet {
        let (client, identity) = match &self.ip {
            Ip::V4(ip) => (Address::v4(ip.u32::<12>()), Address::v4(ip.u32::<16>())),
            Ip::V6(ip) => (
                Address::v6(ip.u64::<8>(), ip.u64::<16>()),
                Address::v6(ip.u64::<24>(), ip.u64::<32>()),
            ),
        };
        Packet {
            flow: FlowKey {
                client,
                identity,
                client_port: self.tcp.u16::<0>(),
                port: self.port(),
                protocol: u32::from(TCP),
            },
            flags: self.tcp.u8::<13>(),
        }
    }

    /// IEEE 802.1Q section 9.
    #[inline(always)]
    fn parse_tagged(frame: &'a F) -> Result<Option<Self>, Odd> {
        const ONE: usize = ETHERNET_LEN + TAG_LEN;
        const TWO: usize = ONE + TAG_LEN;
        let tag = frame
            .header::<TAG_LEN>(ETHERNET_LEN)
            .ok_or(Odd::Truncated)?;
        let (ether_type, at) = match tag.u16::<2>() {
            VLAN | PROVIDER_VLAN => {
                let tag = frame.header::<TAG_LEN>(ONE).ok_or(Odd::Truncated)?;
                (tag.u16::<2>(), TWO)
            }
            ether_type => (ether_type, ONE),
        };
        match ether_type {
            IPV4 => Self::parse_v4(frame, at),
            IPV6 => Self::parse_v6(frame, at),
            _ => Ok(None),
        }
    }

    /// RFC 791 section 3.1.
    #[inline(always)]
    fn parse_v4(frame: &'a F, at: usize) -> Result<Option<Self>, Odd> {
        const FRAGMENT_OFFSET: u16 = 0x1fff;
        const MORE_FRAGMENTS: u16 = 0x2000;
        let ip = frame.header::<IPV4_LEN>(at).ok_or(Odd::Truncated)?;
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
        if length < IPV4_LEN + TCP_LEN {
            return Err(Odd::BadHeader);
        }
        // A short frame is padded to 60 bytes: it may be longer than the packet, not shorter.
        if at + length > frame.size() {
            return Err(Odd::Truncated);
        }
        let tcp = parse_tcp(frame, at + IPV4_LEN, length - IPV4_LEN)?;
        Ok(Some(Self {
            ip: Ip::V4(ip),
            tcp,
        }))
    }

    /// RFC 8200 section 3.
    #[inline(always)]
    fn parse_v6(frame: &'a F, at: usize) -> Result<Option<Self>, Odd> {
        let ip = frame.header::<IPV6_LEN>(at).ok_or(Odd::Truncated)?;
        match ip.u8::<6>() {
            TCP => {}
            next if is_extension(next) => return Err(Odd::Options),
            _ => return Ok(None),
        }
        if ip.u8::<0>() >> 4 != 6 {
            return Err(Odd::BadHeader);
        }
        let length = ip.u16::<4>() as usize;
        if length < TCP_LEN {
            return Err(Odd::BadHeader);
        }
        if at + IPV6_LEN + length > frame.size() {
            return Err(Odd::Truncated);
        }
        // It would pass for a flow over IPv4, and Linux drops it (ip6_rcv_core).
        if is_mapped(ip.u64::<8>(), ip.u32::<16>()) || is_mapped(ip.u64::<24>(), ip.u32::<32>()) {
            return Err(Odd::BadHeader);
        }
        let tcp = parse_tcp(frame, at + IPV6_LEN, length)?;
        Ok(Some(Self {
            ip: Ip::V6(ip),
            tcp,
        }))
    }
}

/// RFC 9293 section 3.1. `length`: bytes of the segment.
#[inline(always)]
fn parse_tcp<F: Frame>(frame: &F, at: usize, length: usize) -> Result<F::Header<'_, TCP_LEN>, Odd> {
    let tcp = frame.header::<TCP_LEN>(at).ok_or(Odd::Truncated)?;
    let header_len = usize::from(tcp.u8::<12>() >> 4) * 4;
    if header_len < TCP_LEN || header_len > length {
        return Err(Odd::BadHeader);
    }
    Ok(tcp)
}

/// Whether this number of a next header is an extension header's (RFC 8200 section 4, RFC 7045 section 4), behind which
/// TCP may be. What is encrypted (ESP) is none of ours in any case.
#[inline(always)]
fn is_extension(next: u8) -> bool {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    const MOBILITY: u8 = 135;
    const HOST_IDENTITY: u8 = 139;
    const SHIM6: u8 = 140;
    matches!(
        next,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
    )
}

/// Whether an address that begins with these 12 octets stands for an IPv4 address (RFC 4291 section 2.5.5.2).
#[inline(always)]
fn is_mapped(first: u64, then: u32) -> bool {
    first == 0 && then == 0xffff
}

/// Source address of an Ethernet frame.
#[inline(always)]
pub fn source_mac(frame: &impl Frame) -> Option<Mac> {
    let ethernet = frame.header::<ETHERNET_LEN>(0)?;
    let number = u64::from(ethernet.u16::<6>()) << 32 | u64::from(ethernet.u32::<8>());
    let [_, _, octets @ ..] = number.to_be_bytes();
    Some(Mac::new(octets))
}

/// Destination address of an Ethernet frame, as [`Mac::number`] has it.
#[inline(always)]
pub fn destination_mac(frame: &impl Frame) -> Option<u64> {
    let ethernet = frame.header::<ETHERNET_LEN>(0)?;
    Some(ethernet.u64::<0>() >> 16)
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

    fn u64<const AT: usize>(&self) -> u64 {
        const { assert!(AT + 8 <= N) };
        self[AT..AT + 8]
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests;
