//! Views of packet headers, and what of a packet the rest goes by.
//!
//! What is read, and by which rule: a frame with up to two VLAN tags; IPv4 without options, IPv6 without extension headers
//! but for a fragment header that comes first; in them TCP, UDP, and the ICMP errors about these. All else of IP is not ours
//! or, where it might hide one of these, [`Odd`].
//!
//! Generic over [`Frame`], so that the XDP program reads through checked pointers and the tests through slices.

use crate::types::{Address, FlowKey, Mac};

/// Length of an Ethernet header (IEEE 802.3).
pub const ETHERNET_LEN: usize = 14;

/// Length of an IPv4 header without options (RFC 791).
pub const IPV4_LEN: usize = 20;

/// Length of an IPv6 header (RFC 8200).
pub const IPV6_LEN: usize = 40;

/// Length of a UDP header (RFC 768).
pub const UDP_LEN: usize = 8;

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

/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// IP protocol number of ICMP (RFC 792).
pub const ICMP: u8 = 1;

/// IP protocol number of `ICMPv6` (RFC 4443).
pub const ICMPV6: u8 = 58;

/// UDP port of tunnels to peers (IANA: gue).
pub const TUNNEL_PORT: u16 = 6080;

/// Added to the protocol number in the key of a fragmented packet, which has its id in place of ports.
pub const FRAGMENTS: u32 = 0x1_0000;

/// A received frame.
pub trait Frame {
    /// The first bytes of a header of `N` bytes.
    type Header<'a, const N: usize>: Header
    where
        Self: 'a;

    /// The `N` bytes at `offset`, unless the frame ends before them.
    fn header<const N: usize>(&self, offset: usize) -> Option<Self::Header<'_, N>>;

    /// Whether the frame has as many bytes.
    fn holds(&self, size: usize) -> bool;
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

/// What a packet is of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment, or its first fragment.
    Tcp,
    /// A UDP datagram, or its first fragment.
    Udp,
    /// A later fragment of either: it has no ports.
    Fragment,
    /// An ICMP error about a packet that went to the flow's client.
    Error,
}

/// What of a packet the decision goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its flow; for a later fragment, the key of the fragmented packet.
    pub flow: FlowKey,
    /// What it is of that.
    pub kind: Kind,
    /// TCP's flag bits, FIN being 1 (RFC 9293 section 3.1). 0 for all else.
    pub flags: u8,
    /// This is a first fragment. Others follow, with the key of [`fragments`].
    pub fragmented: bool,
    /// The id of a fragmented packet.
    pub id: u32,
    /// Where the IP header begins in the frame.
    pub at: usize,
    /// Bytes of the IP packet.
    pub length: usize,
    /// IPv4's time to live, IPv6's hop limit.
    pub hops: u8,
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

impl Packet {
    /// Whether this segment asks for a connection: SYN without ACK or RST.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.kind == Kind::Tcp && self.flags & (SYN | ACK | RST) == SYN
    }

    /// Whether this segment ends a connection, in one direction or in both.
    #[inline(always)]
    pub fn closes(&self) -> bool {
        self.flags & (FIN | RST) != 0
    }

    /// Whether there is a VLAN tag before the IP header.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        self.at != ETHERNET_LEN
    }
}

/// The key that the later fragments have of a packet of this flow with this id.
#[inline(always)]
pub fn fragments(flow: &FlowKey, id: u32) -> FlowKey {
    FlowKey {
        client_port: (id >> 16) as u16,
        port: id as u16,
        protocol: flow.protocol | FRAGMENTS,
        ..*flow
    }
}

/// The headers of a packet, found to be there and to agree with each other.
///
/// Most packets are for ports of no service: only for the others is a [`Packet`] made.
pub struct Headers<'a, F: Frame + 'a> {
    /// Of an ICMP error, the one inside.
    ip: Ip<'a, F>,
    at: usize,
    length: usize,
    hops: u8,
    kind: Kind,
    flags: u8,
    protocol: u8,
    /// Source and destination port as they stand in the packet; of a later fragment, the two halves of its id.
    ports: (u16, u16),
    fragmented: bool,
    id: u32,
}

enum Ip<'a, F: Frame + 'a> {
    V4(F::Header<'a, IPV4_LEN>),
    V6(F::Header<'a, IPV6_LEN>),
}

const TAG_LEN: usize = 4;
const FRAGMENT_LEN: usize = 8;
const TCP_LEN: usize = 20;
const ICMP_LEN: usize = 8;
/// Of the packet that an ICMP error is about, as much is there of what follows its IP header (RFC 792).
const QUOTED_LEN: usize = 8;

type Parsed<'a, F> = Result<Option<Headers<'a, F>>, Odd>;

impl<'a, F: Frame> Headers<'a, F> {
    /// Reads a frame with up to two VLAN tags: `Ok(None)` for what has no flow.
    ///
    /// # Errors
    ///
    /// [`Odd`]: to be left to the local stack.
    #[inline(always)]
    pub fn parse(frame: &'a F) -> Parsed<'a, F> {
        let ethernet = frame.header::<ETHERNET_LEN>(0).ok_or(Odd::Truncated)?;
        match ethernet.u16::<12>() {
            IPV4 => Self::parse_v4(frame, ETHERNET_LEN),
            IPV6 => Self::parse_v6(frame, ETHERNET_LEN),
            VLAN | PROVIDER_VLAN => Self::parse_tagged(frame),
            _ => Ok(None),
        }
    }

    /// Reads a frame without VLAN tags.
    ///
    /// # Errors
    ///
    /// As for [`Headers::parse`].
    #[inline(always)]
    pub fn parse_untagged(frame: &'a F) -> Parsed<'a, F> {
        let ethernet = frame.header::<ETHERNET_LEN>(0).ok_or(Odd::Truncated)?;
        match ethernet.u16::<12>() {
            IPV4 => Self::parse_v4(frame, ETHERNET_LEN),
            IPV6 => Self::parse_v6(frame, ETHERNET_LEN),
            _ => Ok(None),
        }
    }

    /// Whether this is a whole UDP datagram.
    #[inline(always)]
    pub fn is_datagram(&self) -> bool {
        self.kind == Kind::Udp && !self.fragmented
    }

    /// The flow's IP protocol number.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The service's port; none in a later fragment.
    #[inline(always)]
    pub fn port(&self) -> Option<u16> {
        match self.kind {
            Kind::Tcp | Kind::Udp => Some(self.ports.1),
            Kind::Error => Some(self.ports.0),
            Kind::Fragment => None,
        }
    }

    /// What of the packet the rest goes by.
    #[inline(always)]
    pub fn packet(&self) -> Packet {
        let (from, to) = self.ip.addresses();
        let mut flow = FlowKey {
            client: from,
            identity: to,
            client_port: self.ports.0,
            port: self.ports.1,
            protocol: u32::from(self.protocol),
        };
        match self.kind {
            Kind::Error => {
                (flow.client, flow.identity) = (to, from);
                (flow.client_port, flow.port) = (self.ports.1, self.ports.0);
            }
            Kind::Fragment => flow.protocol |= FRAGMENTS,
            Kind::Tcp | Kind::Udp => {}
        }
        Packet {
            flow,
            kind: self.kind,
            flags: self.flags,
            fragmented: self.fragmented,
            id: self.id,
            at: self.at,
            length: self.length,
            hops: self.hops,
        }
    }

    /// IEEE 802.1Q section 9.
    #[inline(always)]
    fn parse_tagged(frame: &'a F) -> Parsed<'a, F> {
        let (ether_type, at) = behind_tags(frame).ok_or(Odd::Truncated)?;
        match ether_type {
            IPV4 => Self::parse_v4(frame, at),
            IPV6 => Self::parse_v6(frame, at),
            _ => Ok(None),
        }
    }

    /// RFC 791 section 3.1.
    #[inline(always)]
    fn parse_v4(frame: &'a F, at: usize) -> Parsed<'a, F> {
        let ip = frame.header::<IPV4_LEN>(at).ok_or(Odd::Truncated)?;
        let protocol = ip.u8::<9>();
        if !matches!(protocol, TCP | UDP | ICMP) {
            return Ok(None);
        }
        match ip.u8::<0>() {
            0x45 => {}
            0x46..=0x4f => return Err(Odd::Options),
            _ => return Err(Odd::BadHeader),
        }
        let length = usize::from(ip.u16::<2>());
        if length < IPV4_LEN {
            return Err(Odd::BadHeader);
        }
        // A short frame is padded to 60 bytes: it may be longer than the packet, not shorter.
        if !frame.holds(at + length) {
            return Err(Odd::Truncated);
        }
        let hops = ip.u8::<8>();
        let part = Part::of_v4(ip.u16::<6>(), ip.u16::<4>());
        let rest = Rest {
            frame,
            at: at + IPV4_LEN,
            length: length - IPV4_LEN,
            part,
        };
        rest.parse(protocol, Ip::V4(ip)).map(|found| {
            found.map(|headers| Self {
                at,
                length,
                hops,
                ..headers
            })
        })
    }

    /// RFC 8200 section 3.
    #[inline(always)]
    fn parse_v6(frame: &'a F, at: usize) -> Parsed<'a, F> {
        let ip = frame.header::<IPV6_LEN>(at).ok_or(Odd::Truncated)?;
        let next = ip.u8::<6>();
        match next {
            TCP | UDP | ICMPV6 | FRAGMENT => {}
            next if is_extension(next) => return Err(Odd::Options),
            _ => return Ok(None),
        }
        if ip.u8::<0>() >> 4 != 6 {
            return Err(Odd::BadHeader);
        }
        let payload = usize::from(ip.u16::<4>());
        let length = IPV6_LEN + payload;
        if !frame.holds(at + length) {
            return Err(Odd::Truncated);
        }
        // It would pass for a flow over IPv4, and Linux drops it (ip6_rcv_core).
        if has_mapped(&ip) {
            return Err(Odd::BadHeader);
        }
        let hops = ip.u8::<7>();
        let mut rest = Rest {
            frame,
            at: at + IPV6_LEN,
            length: payload,
            part: Part::WHOLE,
        };
        let protocol = if next == FRAGMENT {
            let fragment = frame
                .header::<FRAGMENT_LEN>(rest.at)
                .ok_or(Odd::Truncated)?;
            rest.length = payload.checked_sub(FRAGMENT_LEN).ok_or(Odd::BadHeader)?;
            rest.at += FRAGMENT_LEN;
            rest.part = Part::of_v6(fragment.u16::<2>(), fragment.u32::<4>());
            match fragment.u8::<0>() {
                next @ (TCP | UDP | ICMPV6) => next,
                next if is_extension(next) => return Err(Odd::Options),
                _ => return Ok(None),
            }
        } else {
            next
        };
        rest.parse(protocol, Ip::V6(ip)).map(|found| {
            found.map(|headers| Self {
                at,
                length,
                hops,
                ..headers
            })
        })
    }
}

/// Next header of a fragment (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;

/// What of a packet is in the frame. No enum: to the kernel's verifier, a field that isn't always set is not set.
#[derive(Clone, Copy)]
struct Part {
    /// Not the first fragment.
    later: bool,
    /// Others follow.
    more: bool,
    /// The packet's.
    id: u32,
}

impl Part {
    const WHOLE: Self = Self {
        later: false,
        more: false,
        id: 0,
    };

    /// RFC 791 section 3.1: flags and offset, identification.
    #[inline(always)]
    fn of_v4(field: u16, id: u16) -> Self {
        const OFFSET: u16 = 0x1fff;
        const MORE: u16 = 0x2000;
        Self {
            later: field & OFFSET != 0,
            more: field & MORE != 0,
            id: id.into(),
        }
    }

    /// RFC 8200 section 4.5: offset and M flag, identification. A fragment that is the whole packet is no fragment (RFC 6946).
    #[inline(always)]
    fn of_v6(field: u16, id: u32) -> Self {
        const OFFSET: u16 = 0xfff8;
        const MORE: u16 = 1;
        Self {
            later: field & OFFSET != 0,
            more: field & MORE != 0,
            id,
        }
    }
}

/// What follows the IP headers.
struct Rest<'a, F> {
    frame: &'a F,
    at: usize,
    length: usize,
    part: Part,
}

impl<'a, F: Frame> Rest<'a, F> {
    #[inline(always)]
    fn parse(&self, protocol: u8, ip: Ip<'a, F>) -> Parsed<'a, F> {
        let Part { later, more, id } = self.part;
        if matches!(protocol, ICMP | ICMPV6) {
            return if later || more {
                Ok(None)
            } else {
                self.icmp(protocol, &ip)
            };
        }
        let (kind, flags, ports) = if later {
            (Kind::Fragment, 0, ((id >> 16) as u16, id as u16))
        } else if protocol == TCP {
            self.tcp()?
        } else {
            self.udp()?
        };
        Ok(Some(Headers {
            ip,
            at: 0,
            length: 0,
            hops: 0,
            kind,
            flags,
            protocol,
            ports,
            fragmented: more && !later,
            id,
        }))
    }

    /// RFC 9293 section 3.1.
    #[inline(always)]
    fn tcp(&self) -> Result<Transport, Odd> {
        if self.length < TCP_LEN {
            return Err(Odd::BadHeader);
        }
        let tcp = self
            .frame
            .header::<TCP_LEN>(self.at)
            .ok_or(Odd::Truncated)?;
        let header_len = usize::from(tcp.u8::<12>() >> 4) * 4;
        if header_len < TCP_LEN || (header_len > self.length && !self.part.more) {
            return Err(Odd::BadHeader);
        }
        let ports = (tcp.u16::<0>(), tcp.u16::<2>());
        Ok((Kind::Tcp, tcp.u8::<13>(), ports))
    }

    /// RFC 768.
    #[inline(always)]
    fn udp(&self) -> Result<Transport, Odd> {
        if self.length < UDP_LEN {
            return Err(Odd::BadHeader);
        }
        let udp = self
            .frame
            .header::<UDP_LEN>(self.at)
            .ok_or(Odd::Truncated)?;
        let length = usize::from(udp.u16::<4>());
        if length < UDP_LEN || (length > self.length && !self.part.more) {
            return Err(Odd::BadHeader);
        }
        Ok((Kind::Udp, 0, (udp.u16::<0>(), udp.u16::<2>())))
    }

    /// An error message about a packet of a flow (RFC 792, RFC 4443 section 3). Others are none of ours.
    #[inline(always)]
    fn icmp(&self, protocol: u8, outer: &Ip<'a, F>) -> Parsed<'a, F> {
        if self.length < ICMP_LEN {
            return Err(Odd::BadHeader);
        }
        let icmp = self
            .frame
            .header::<ICMP_LEN>(self.at)
            .ok_or(Odd::Truncated)?;
        let at = self.at + ICMP_LEN;
        let (ip, protocol, at) = match (protocol, icmp.u8::<0>()) {
            // Destination unreachable, time exceeded, parameter problem.
            (ICMP, 3 | 11 | 12) => self.quoted_v4(at)?,
            // The same, and packet too big.
            (ICMPV6, 1..=4) => self.quoted_v6(at)?,
            _ => return Ok(None),
        };
        // Sent to the host that it is about, or it is about something else.
        if !matches!(protocol, TCP | UDP) || outer.addresses().1 != ip.addresses().0 {
            return Ok(None);
        }
        let quoted = self.frame.header::<QUOTED_LEN>(at).ok_or(Odd::Truncated)?;
        Ok(Some(Headers {
            ip,
            at: 0,
            length: 0,
            hops: 0,
            kind: Kind::Error,
            flags: 0,
            protocol,
            ports: (quoted.u16::<0>(), quoted.u16::<2>()),
            fragmented: false,
            id: 0,
        }))
    }

    /// The IPv4 header at `at`, the protocol in it (0 if it isn't said here), and where that begins.
    #[inline(always)]
    fn quoted_v4(&self, at: usize) -> Result<(Ip<'a, F>, u8, usize), Odd> {
        if self.length < ICMP_LEN + IPV4_LEN + QUOTED_LEN {
            return Err(Odd::BadHeader);
        }
        let ip = self.frame.header::<IPV4_LEN>(at).ok_or(Odd::Truncated)?;
        if ip.u8::<0>() != 0x45 {
            return Err(Odd::Options);
        }
        let protocol = if Part::of_v4(ip.u16::<6>(), 0).later {
            0
        } else {
            ip.u8::<9>()
        };
        Ok((Ip::V4(ip), protocol, at + IPV4_LEN))
    }

    /// As above, for IPv6.
    #[inline(always)]
    fn quoted_v6(&self, at: usize) -> Result<(Ip<'a, F>, u8, usize), Odd> {
        if self.length < ICMP_LEN + IPV6_LEN + QUOTED_LEN {
            return Err(Odd::BadHeader);
        }
        let ip = self.frame.header::<IPV6_LEN>(at).ok_or(Odd::Truncated)?;
        if ip.u8::<0>() >> 4 != 6 || has_mapped(&ip) {
            return Err(Odd::BadHeader);
        }
        let protocol = ip.u8::<6>();
        Ok((Ip::V6(ip), protocol, at + IPV6_LEN))
    }
}

/// What it is, TCP's flags, source and destination port.
type Transport = (Kind, u8, (u16, u16));

impl<F: Frame> Ip<'_, F> {
    /// Source and destination.
    #[inline(always)]
    fn addresses(&self) -> (Address, Address) {
        match self {
            Self::V4(ip) => (Address::v4(ip.u32::<12>()), Address::v4(ip.u32::<16>())),
            Self::V6(ip) => (
                Address::v6(ip.u64::<8>(), ip.u64::<16>()),
                Address::v6(ip.u64::<24>(), ip.u64::<32>()),
            ),
        }
    }
}

/// Whether this number of a next header is an extension header's (RFC 8200 section 4, RFC 7045 section 4), behind which
/// TCP may be. What is encrypted (ESP) is none of ours in any case.
#[inline(always)]
fn is_extension(next: u8) -> bool {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
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

/// Whether an IPv6 header has an address that stands for an IPv4 one.
#[inline(always)]
fn has_mapped(ip: &impl Header) -> bool {
    is_mapped(ip.u64::<8>(), ip.u32::<16>()) || is_mapped(ip.u64::<24>(), ip.u32::<32>())
}

/// Whether an address that begins with these 12 octets stands for an IPv4 address (RFC 4291 section 2.5.5.2).
#[inline(always)]
fn is_mapped(first: u64, then: u32) -> bool {
    first == 0 && then == 0xffff
}

/// Source address of an Ethernet frame.
#[inline(always)]
pub fn source_mac(frame: &impl Frame) -> Option<Mac> {
    let [_, _, octets @ ..] = source_mac_number(frame)?.to_be_bytes();
    Some(Mac::new(octets))
}

/// As above, as [`Mac::number`] has it.
#[inline(always)]
pub fn source_mac_number(frame: &impl Frame) -> Option<u64> {
    let ethernet = frame.header::<ETHERNET_LEN>(0)?;
    Some(u64::from(ethernet.u16::<6>()) << 32 | u64::from(ethernet.u32::<8>()))
}

/// Destination address of an Ethernet frame, as [`Mac::number`] has it.
#[inline(always)]
pub fn destination_mac(frame: &impl Frame) -> Option<u64> {
    let ethernet = frame.header::<ETHERNET_LEN>(0)?;
    Some(ethernet.u64::<0>() >> 16)
}

/// Of a tagged frame the type and the place of what is behind one VLAN tag, or two.
#[inline(always)]
fn behind_tags(frame: &impl Frame) -> Option<(u16, usize)> {
    const ONE: usize = ETHERNET_LEN + TAG_LEN;
    match frame.header::<TAG_LEN>(ETHERNET_LEN)?.u16::<2>() {
        VLAN | PROVIDER_VLAN => {
            let tag = frame.header::<TAG_LEN>(ONE)?;
            Some((tag.u16::<2>(), ONE + TAG_LEN))
        }
        ether_type => Some((ether_type, ONE)),
    }
}

/// Whether a frame has three VLAN tags or more. Linux takes off as many as there are; nothing here looks behind them.
#[inline(always)]
pub fn is_overtagged(frame: &impl Frame) -> bool {
    let is_tag = |ether_type| matches!(ether_type, VLAN | PROVIDER_VLAN);
    frame
        .header::<ETHERNET_LEN>(0)
        .is_some_and(|ethernet| is_tag(ethernet.u16::<12>()))
        && behind_tags(frame).is_some_and(|(ether_type, _)| is_tag(ether_type))
}

/// Where a packet goes that is of no service, unless it may go there all the same: ICMP, and what is neither IPv4 nor IPv6.
#[inline(always)]
pub fn hidden_destination(frame: &impl Frame) -> Option<Address> {
    let ethernet = frame.header::<ETHERNET_LEN>(0)?;
    let (ether_type, at) = match ethernet.u16::<12>() {
        VLAN | PROVIDER_VLAN => behind_tags(frame)?,
        ether_type => (ether_type, ETHERNET_LEN),
    };
    match ether_type {
        IPV4 => {
            let ip = frame.header::<IPV4_LEN>(at)?;
            (ip.u8::<9>() != ICMP).then(|| Address::v4(ip.u32::<16>()))
        }
        IPV6 => {
            let ip = frame.header::<IPV6_LEN>(at)?;
            (ip.u8::<6>() != ICMPV6).then(|| Address::v6(ip.u64::<24>(), ip.u64::<32>()))
        }
        _ => None,
    }
}

impl Frame for &[u8] {
    type Header<'a, const N: usize>
        = &'a [u8; N]
    where
        Self: 'a;

    fn header<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.get(offset..)?.first_chunk()
    }

    fn holds(&self, size: usize) -> bool {
        size <= self.len()
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
