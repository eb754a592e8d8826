//! Reads frames by the written rule, in the plainest way: what the parser is compared with.

use balancer_common::types::{Address, FlowKey};
use balancer_common::wire::{Kind, Packet};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;

/// What becomes of a frame that is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    /// It is cut, contradicts itself, or might hide a flow.
    Odd,
    /// It has no flow.
    Flow,
}

/// What of the frame the rest goes by.
pub fn read(frame: &[u8]) -> Result<Packet, No> {
    let mut at = 12;
    while matches!(number(frame, at)?, 0x8100 | 0x88a8) && at < 20 {
        at += 4;
    }
    let ether_type = number(frame, at)?;
    at += 2;
    let ip = match ether_type {
        0x0800 => read_v4(frame, at)?,
        0x86dd => read_v6(frame, at)?,
        _ => return Err(No::Flow),
    };
    let mut packet = Packet {
        flow: FlowKey {
            client: ip.from,
            identity: ip.to,
            client_port: 0,
            port: 0,
            protocol: ip.protocol.into(),
        },
        kind: Kind::Fragment,
        flags: 0,
        fragmented: ip.first,
        id: ip.id,
        at,
        length: ip.length,
        hops: ip.hops,
    };
    let body = ip.body;
    if matches!(ip.protocol, ICMP | ICMPV6) {
        if ip.first || ip.later {
            return Err(No::Flow);
        }
        return read_error(body, &ip, packet);
    }
    if ip.later {
        packet.flow = balancer_common::wire::fragments(&packet.flow, packet.id);
        return Ok(packet);
    }
    let least = if ip.protocol == TCP { 20 } else { 8 };
    if body.len() < least {
        return Err(No::Odd);
    }
    (packet.flow.client_port, packet.flow.port) = (number(body, 0)?, number(body, 2)?);
    let said = if ip.protocol == TCP {
        packet.kind = Kind::Tcp;
        packet.flags = body[13];
        usize::from(body[12] >> 4) * 4
    } else {
        packet.kind = Kind::Udp;
        usize::from(number(body, 4)?)
    };
    // Of a first fragment, the rest of a header or a datagram is yet to come.
    if said < least || (said > body.len() && !ip.first) {
        return Err(No::Odd);
    }
    Ok(packet)
}

/// An IP header, and what follows.
struct Ip<'a> {
    from: Address,
    to: Address,
    protocol: u8,
    hops: u8,
    length: usize,
    /// A first fragment.
    first: bool,
    /// A later one.
    later: bool,
    id: u32,
    body: &'a [u8],
}

fn read_v4(frame: &[u8], at: usize) -> Result<Ip<'_>, No> {
    let header = frame.get(at..at + 20).ok_or(No::Odd)?;
    let protocol = header[9];
    if !matches!(protocol, TCP | UDP | ICMP) {
        return Err(No::Flow);
    }
    let length = usize::from(number(header, 2)?);
    if header[0] != 0x45 || length < 20 {
        return Err(No::Odd);
    }
    let (more, later) = v4_part(header)?;
    Ok(Ip {
        from: v4_address(&header[12..16]),
        to: v4_address(&header[16..20]),
        protocol,
        hops: header[8],
        length,
        first: more && !later,
        later,
        id: number(header, 4)?.into(),
        body: frame.get(at + 20..at + length).ok_or(No::Odd)?,
    })
}

fn read_v6(frame: &[u8], at: usize) -> Result<Ip<'_>, No> {
    let header = frame.get(at..at + 40).ok_or(No::Odd)?;
    let next = header[6];
    if next != FRAGMENT {
        followed(next)?;
    }
    let payload = usize::from(number(header, 4)?);
    check_v6(header)?;
    let body = frame.get(at + 40..at + 40 + payload).ok_or(No::Odd)?;
    let mut ip = Ip {
        from: v6_address(&header[8..24]),
        to: v6_address(&header[24..40]),
        protocol: next,
        hops: header[7],
        length: 40 + payload,
        first: false,
        later: false,
        id: 0,
        body,
    };
    if next == FRAGMENT {
        let fragment = body.get(..8).ok_or(No::Odd)?;
        followed(fragment[0])?;
        let field = number(fragment, 2)?;
        ip.protocol = fragment[0];
        ip.later = field >> 3 != 0;
        ip.first = field & 1 != 0 && !ip.later;
        ip.id = u32::from(number(fragment, 4)?) << 16 | u32::from(number(fragment, 6)?);
        ip.body = &body[8..];
    }
    Ok(ip)
}

/// Whether this is an IPv6 header without addresses that stand for IPv4 ones.
fn check_v6(header: &[u8]) -> Result<(), No> {
    let mapped = |address: &[u8]| address[..10] == [0; 10] && address[10..12] == [0xff; 2];
    if header[0] >> 4 != 6 || mapped(&header[8..24]) || mapped(&header[24..40]) {
        return Err(No::Odd);
    }
    Ok(())
}

/// Whether this protocol is one that is read.
fn followed(next: u8) -> Result<(), No> {
    match next {
        TCP | UDP | ICMPV6 => Ok(()),
        0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 => Err(No::Odd),
        _ => Err(No::Flow),
    }
}

/// Whether more fragments follow, and whether this is a later one.
fn v4_part(header: &[u8]) -> Result<(bool, bool), No> {
    let field = number(header, 6)?;
    Ok((field >> 13 & 1 == 1, field << 3 != 0))
}

/// An ICMP error: the flow is that of the packet inside, the other way round.
fn read_error(body: &[u8], outer: &Ip, packet: Packet) -> Result<Packet, No> {
    if body.len() < 8 {
        return Err(No::Odd);
    }
    let quote = &body[8..];
    let (from, to, protocol, ports) = match (outer.protocol, body[0]) {
        (ICMP, 3 | 11 | 12) => {
            let header = quote.get(..28).ok_or(No::Odd)?;
            if header[0] != 0x45 {
                return Err(No::Odd);
            }
            if v4_part(header)?.1 {
                return Err(No::Flow);
            }
            let (from, to) = (v4_address(&header[12..16]), v4_address(&header[16..20]));
            (from, to, header[9], &header[20..])
        }
        (ICMPV6, 1..=4) => {
            let header = quote.get(..48).ok_or(No::Odd)?;
            check_v6(header)?;
            let (from, to) = (v6_address(&header[8..24]), v6_address(&header[24..40]));
            (from, to, header[6], &header[40..])
        }
        _ => return Err(No::Flow),
    };
    if !matches!(protocol, TCP | UDP) || from != outer.to {
        return Err(No::Flow);
    }
    Ok(Packet {
        flow: FlowKey {
            client: to,
            identity: from,
            client_port: number(ports, 2)?,
            port: number(ports, 0)?,
            protocol: protocol.into(),
        },
        kind: Kind::Error,
        id: 0,
        ..packet
    })
}

fn v4_address(bytes: &[u8]) -> Address {
    let octets: [u8; 4] = bytes.try_into().expect("4 bytes");
    core::net::IpAddr::from(octets).into()
}

fn v6_address(bytes: &[u8]) -> Address {
    let octets: [u8; 16] = bytes.try_into().expect("16 bytes");
    core::net::IpAddr::from(octets).into()
}

/// The big-endian number at `at`.
fn number(bytes: &[u8], at: usize) -> Result<u16, No> {
    let bytes = bytes.get(at..at + 2).ok_or(No::Odd)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}
