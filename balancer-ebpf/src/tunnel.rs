//! Tunnels to peers on other links: IP in UDP, without a header between (GUE variant 1, draft-ietf-intarea-gue-09 section 4;
//! the IP header's version field tells it from variant 0). The peer's own program takes the packet out: there is no device.

use aya_ebpf::helpers::bpf_csum_diff;
use balancer_common::types::{Address, FAMILY_V4, FOREIGN, Reason, SERVER};
use balancer_common::wire::{
    ETHERNET_LEN, Frame as _, Header as _, Headers, ICMP, ICMPV6, IPV4, IPV4_LEN, IPV6, IPV6_LEN,
    TUNNEL_PORT, UDP, UDP_LEN, destination_mac, source_mac_number,
};

use crate::account::{NO_SERVICE, count};
use crate::arrival::{is_for_us, service_on, unserved};
use crate::carry::{Fate, carry_out};
use crate::choice::words;
use crate::forward::{Way, give_up, leave};
use crate::maps::{PEERS, SETTINGS};
use crate::packet::XdpFrame;
use crate::steer::{Passage, identity};

/// TTL of what this server makes itself, Linux' default.
const HOPS: u8 = 64;

/// Puts the packet into the tunnel to its peer, or tells its sender that it is too big for that. Not inlined, as `arrive` isn't:
/// the stack is short, and both have theirs for themselves.
#[inline(never)]
pub fn send(frame: &XdpFrame, way: &Way) -> u32 {
    let v4 = way.peer.tunnel == FAMILY_V4;
    let overhead = if v4 { IPV4_LEN } else { IPV6_LEN } + UDP_LEN;
    let room = usize::from(way.peer.mtu).saturating_sub(overhead);
    if way.length > room {
        count(way.entry, Reason::TOO_BIG);
        return match too_big(frame, room as u32) {
            Some(()) => leave(frame, way, frame.interface()),
            None => give_up(way),
        };
    }
    let sent = frame.spend_hop(ETHERNET_LEN).and_then(|()| {
        if v4 {
            enclose_v4(frame, way)
        } else {
            enclose_v6(frame, way)
        }
    });
    match sent {
        Some(()) => leave(frame, way, way.peer.interface),
        None => give_up(way),
    }
}

/// RFC 791, RFC 768. The UDP checksum is left out, as RFC 8085 section 3.4 allows where the packet inside has its own.
#[inline(always)]
fn enclose_v4(frame: &XdpFrame, way: &Way) -> Option<()> {
    const LEN: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN;
    frame.grow_head((IPV4_LEN + UDP_LEN) as i32)?;
    frame.readdress(way.peer)?;
    let outer = frame.header_mut::<LEN>(0)?;
    outer.put::<_, 12>(IPV4.to_be());
    let length = (way.length + IPV4_LEN + UDP_LEN) as u16;
    let ip = HeaderV4 {
        length,
        protocol: UDP,
        from: last_word(&way.peer.tunnel_from),
        to: last_word(&way.peer.tunnel_to),
    };
    ip.write(frame)?;
    outer.put::<_, 34>(source_port(way).to_be());
    outer.put::<_, 36>(TUNNEL_PORT.to_be());
    outer.put::<_, 38>((length - IPV4_LEN as u16).to_be());
    outer.put::<_, 40>(0u16);
    Some(())
}

/// RFC 8200. The UDP checksum is 0, as RFC 6935 allows for tunnels.
#[inline(always)]
fn enclose_v6(frame: &XdpFrame, way: &Way) -> Option<()> {
    const LEN: usize = ETHERNET_LEN + IPV6_LEN + UDP_LEN;
    frame.grow_head((IPV6_LEN + UDP_LEN) as i32)?;
    frame.readdress(way.peer)?;
    let payload = (way.length + UDP_LEN) as u16;
    write_v6(
        frame,
        payload,
        UDP,
        &way.peer.tunnel_from,
        &way.peer.tunnel_to,
    )?;
    let outer = frame.header_mut::<LEN>(0)?;
    outer.put::<_, 54>(source_port(way).to_be());
    outer.put::<_, 56>(TUNNEL_PORT.to_be());
    outer.put::<_, 58>(payload.to_be());
    outer.put::<_, 60>(0u16);
    Some(())
}

/// One for each flow, so that routers and cards spread flows over their paths and queues (RFC 6438).
#[inline(always)]
fn source_port(way: &Way) -> u16 {
    const EPHEMERAL: u16 = 0xc000;
    way.spread | EPHEMERAL
}

/// Makes the frame the ICMP error that says so: `room` bytes fit.
#[inline(always)]
fn too_big(frame: &XdpFrame, room: u32) -> Option<()> {
    if frame.header::<ETHERNET_LEN>(0)?.u16::<12>() == IPV4 {
        too_big_v4(frame, room)
    } else {
        too_big_v6(frame, room)
    }
}

/// Of the packet in question, what follows its IP header and is quoted.
const QUOTED: usize = 8;

/// RFC 792, RFC 1191 section 4: destination unreachable, fragmentation needed. Said to senders that allow fragments as well:
/// Linux goes by it, and nobody here could make them.
#[inline(always)]
fn too_big_v4(frame: &XdpFrame, room: u32) -> Option<()> {
    const QUOTE: usize = IPV4_LEN + QUOTED;
    const ICMP_LEN: usize = 8;
    const AT: usize = ETHERNET_LEN + IPV4_LEN;
    let ip = frame.header::<IPV4_LEN>(ETHERNET_LEN)?;
    let (client, identity) = (ip.u32::<12>().to_be(), ip.u32::<16>().to_be());
    let answer = answer(frame, ETHERNET_LEN + QUOTE, IPV4_LEN + ICMP_LEN)?;
    let ip = HeaderV4 {
        length: (IPV4_LEN + ICMP_LEN + QUOTE) as u16,
        protocol: ICMP,
        from: identity,
        to: client,
    };
    answer.write(frame, IPV4)?;
    ip.write(frame)?;
    let icmp = frame.header_mut::<{ ICMP_LEN + QUOTE }>(AT)?;
    icmp.put::<_, 0>(0x0304u16.to_be());
    icmp.put::<_, 2>(0u16);
    icmp.put::<_, 4>(room.to_be());
    // SAFETY: as many bytes of the packet were compared with its end.
    let sum = unsafe {
        bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            icmp.as_ptr(),
            (ICMP_LEN + QUOTE) as u32,
            0,
        )
    };
    icmp.put::<_, 2>(fold(sum));
    Some(())
}

/// RFC 4443 section 3.2.
#[inline(always)]
fn too_big_v6(frame: &XdpFrame, room: u32) -> Option<()> {
    const QUOTE: usize = IPV6_LEN + QUOTED;
    const ICMP_LEN: usize = 8;
    const AT: usize = ETHERNET_LEN + IPV6_LEN;
    /// Every link's (RFC 8200 section 5).
    const LEAST: u32 = 1280;
    let ip = frame.header::<IPV6_LEN>(ETHERNET_LEN)?;
    let client = Address::v6(ip.u64::<8>(), ip.u64::<16>());
    let identity = Address::v6(ip.u64::<24>(), ip.u64::<32>());
    let answer = answer(frame, ETHERNET_LEN + QUOTE, IPV6_LEN + ICMP_LEN)?;
    answer.write(frame, IPV6)?;
    write_v6(frame, (ICMP_LEN + QUOTE) as u16, ICMPV6, &identity, &client)?;
    let icmp = frame.header_mut::<{ ICMP_LEN + QUOTE }>(AT)?;
    icmp.put::<_, 0>(0x0200u16.to_be());
    icmp.put::<_, 2>(0u16);
    icmp.put::<_, 4>(room.max(LEAST).to_be());
    // The checksum is over addresses, length and next header, too (RFC 8200 section 8.1).
    let addresses = frame.header_mut::<32>(ETHERNET_LEN + 8)?;
    let seed = (ICMP_LEN + QUOTE) as u32 + u32::from(ICMPV6);
    // SAFETY: as many bytes of the packet were compared with its end.
    let sum = unsafe {
        let none = core::ptr::null_mut();
        let sum = bpf_csum_diff(none, 0, addresses.as_ptr(), 32, seed.to_be());
        bpf_csum_diff(
            none,
            0,
            icmp.as_ptr(),
            (ICMP_LEN + QUOTE) as u32,
            sum as u32,
        )
    };
    icmp.put::<_, 2>(fold(sum));
    Some(())
}

/// The Ethernet addresses of a frame, as [`Mac::number`](balancer_common::types::Mac::number) has them.
struct Link {
    to: u64,
    from: u64,
}

/// Cuts the frame down to its first `size` bytes, makes room for `more` before its IP header, and swaps its addresses.
#[inline(always)]
fn answer(frame: &XdpFrame, size: usize, more: usize) -> Option<Link> {
    let Link { to, from } = Link::read(frame)?;
    frame.truncate(size)?;
    frame.grow_head(more as i32)?;
    Some(Link { to: from, from: to })
}

impl Link {
    #[inline(always)]
    fn read(frame: &XdpFrame) -> Option<Self> {
        Some(Self {
            to: destination_mac(frame)?,
            from: source_mac_number(frame)?,
        })
    }

    #[inline(always)]
    fn write(&self, frame: &XdpFrame, ether_type: u16) -> Option<()> {
        let ethernet = frame.header_mut::<ETHERNET_LEN>(0)?;
        ethernet.put::<_, 0>(((self.to >> 16) as u32).to_be());
        ethernet.put::<_, 4>((self.to as u16).to_be());
        ethernet.put::<_, 6>(((self.from >> 32) as u16).to_be());
        ethernet.put::<_, 8>((self.from as u32).to_be());
        ethernet.put::<_, 12>(ether_type.to_be());
        Some(())
    }
}

/// An IPv4 header of this server's making. Addresses are in network byte order.
struct HeaderV4 {
    length: u16,
    protocol: u8,
    from: u32,
    to: u32,
}

impl HeaderV4 {
    /// Writes it behind the Ethernet header.
    #[inline(always)]
    fn write(&self, frame: &XdpFrame) -> Option<()> {
        const VERSION_AND_LENGTH: u16 = 0x4500;
        const DONT_FRAGMENT: u16 = 0x4000;
        let hops = u16::from_be_bytes([HOPS, self.protocol]);
        let ip = frame.header_mut::<IPV4_LEN>(ETHERNET_LEN)?;
        ip.put::<_, 0>(VERSION_AND_LENGTH.to_be());
        ip.put::<_, 2>(self.length.to_be());
        ip.put::<_, 4>(0u16);
        ip.put::<_, 6>(DONT_FRAGMENT.to_be());
        ip.put::<_, 8>(hops.to_be());
        ip.put::<_, 12>(self.from);
        ip.put::<_, 16>(self.to);
        let words = [VERSION_AND_LENGTH, self.length, DONT_FRAGMENT, hops];
        let addresses = [self.from, self.to].map(u32::from_be);
        let mut sum = 0;
        for word in words {
            sum += u32::from(word);
        }
        for address in addresses {
            sum += (address >> 16) + (address & 0xffff);
        }
        sum = (sum & 0xffff) + (sum >> 16);
        sum += sum >> 16;
        ip.put::<_, 10>((!sum as u16).to_be());
        Some(())
    }
}

/// Writes an IPv6 header behind the Ethernet header.
#[inline(always)]
fn write_v6(frame: &XdpFrame, payload: u16, next: u8, from: &Address, to: &Address) -> Option<()> {
    let ethernet = frame.header_mut::<ETHERNET_LEN>(0)?;
    ethernet.put::<_, 12>(IPV6.to_be());
    let ip = frame.header_mut::<IPV6_LEN>(ETHERNET_LEN)?;
    ip.put::<_, 0>(0x6000_0000u32.to_be());
    ip.put::<_, 4>(payload.to_be());
    ip.put::<_, 6>(next);
    ip.put::<_, 7>(HOPS);
    ip.put::<_, 8>(from.words());
    ip.put::<_, 24>(to.words());
    Some(())
}

/// The checksum of a 32-bit sum (RFC 1071), in network byte order as that is.
#[inline(always)]
fn fold(sum: i64) -> u16 {
    let sum = sum as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

/// The IPv4 address, in network byte order.
#[inline(always)]
fn last_word(address: &Address) -> u32 {
    words(address)[3]
}

/// A datagram to the port of tunnels: one for this server is unpacked, if a peer sent it.
#[inline(always)]
pub fn arrive(frame: &XdpFrame) -> Fate {
    if !is_for_tunnel(frame) {
        return unserved(frame, Reason::NOT_OURS);
    }
    if !open(frame) {
        return Fate::Drop;
    }
    if guest(frame) {
        Fate::Local
    } else {
        Fate::Drop
    }
}

/// Whether the datagram is for this server's end of its tunnels.
#[inline(always)]
fn is_for_tunnel(frame: &XdpFrame) -> bool {
    let (Some(settings), Some((_, to))) = (SETTINGS.get(0), addresses(frame)) else {
        return false;
    };
    (to == settings.tunnel_v4 || to == settings.tunnel_v6) && is_for_us(frame, settings)
}

/// `false`: it is to be dropped, which is counted.
#[inline(never)]
fn open(frame: &XdpFrame) -> bool {
    let Some((from, _)) = addresses(frame) else {
        return false;
    };
    if !is_tunnels_end(&from) {
        count(NO_SERVICE, Reason::TUNNEL_SPOOFED);
        return false;
    }
    let overhead = if from.family() == FAMILY_V4 {
        IPV4_LEN + UDP_LEN
    } else {
        IPV6_LEN + UDP_LEN
    };
    let unpacked = unpack(frame, overhead).is_some();
    if !unpacked {
        count(NO_SERVICE, Reason::TUNNEL_REFUSED);
    }
    unpacked
}

/// Source and destination of a packet in no VLAN.
#[inline(always)]
fn addresses(frame: &XdpFrame) -> Option<(Address, Address)> {
    match frame.header::<ETHERNET_LEN>(0)?.u16::<12>() {
        IPV4 => {
            let ip = frame.header::<IPV4_LEN>(ETHERNET_LEN)?;
            Some((Address::v4(ip.u32::<12>()), Address::v4(ip.u32::<16>())))
        }
        IPV6 => {
            let ip = frame.header::<IPV6_LEN>(ETHERNET_LEN)?;
            Some((
                Address::v6(ip.u64::<8>(), ip.u64::<16>()),
                Address::v6(ip.u64::<24>(), ip.u64::<32>()),
            ))
        }
        _ => None,
    }
}

/// Takes the packet out of its outer headers.
#[inline(always)]
fn unpack(frame: &XdpFrame, overhead: usize) -> Option<()> {
    let link = Link::read(frame)?;
    let ether_type = match frame.header::<1>(ETHERNET_LEN + overhead)?.u8::<0>() >> 4 {
        4 => IPV4,
        6 => IPV6,
        _ => return None,
    };
    frame.grow_head(-(overhead as i32))?;
    link.write(frame, ether_type)
}

/// What came out of a peer's tunnel: never steered again, and nothing but packets of services on identities. `false`: it is to
/// be dropped, which is counted.
#[inline(never)]
fn guest(frame: &XdpFrame) -> bool {
    matches!(guests_fate(frame), Some(Fate::Local))
}

#[inline(always)]
fn guests_fate(frame: &XdpFrame) -> Option<Fate> {
    let settings = SETTINGS.get(0)?;
    let refuse = || count(NO_SERVICE, Reason::TUNNEL_REFUSED);
    let Ok(Some(headers)) = Headers::parse_untagged(frame) else {
        refuse();
        return None;
    };
    let entry = match headers.port() {
        Some(port) => match service_on(headers.protocol(), port) {
            Some(service) => service + 1,
            None => {
                refuse();
                return None;
            }
        },
        None => NO_SERVICE,
    };
    let passage = Passage::new(frame, headers.packet(), entry, settings)?;
    Some(carry_out(&passage, passage.unpacked()))
}

/// Whether this is a peer's end of the tunnel to it.
#[inline(always)]
fn is_tunnels_end(address: &Address) -> bool {
    let peer = match identity(address) {
        Some(identity) if matches!(identity.kind, SERVER | FOREIGN) => PEERS.get(identity.owner),
        _ => None,
    };
    peer.is_some_and(|peer| peer.tunnel != 0 && peer.tunnel_to == *address)
}
