//! Frames as they come in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP's flag bits (RFC 9293 section 3.1).
pub const SYN: u8 = 0x02;
/// As above.
pub const RST: u8 = 0x04;
/// As above.
pub const ACK: u8 = 0x10;

/// The tested server's Ethernet address.
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The router's that clients are behind.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

/// The identity that the tested server holds.
pub const IDENTITY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 101);
/// As above.
pub const IDENTITY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x101);
/// A client.
pub const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 40_000);
/// As above.
pub const CLIENT_V6: SocketAddr = SocketAddr::new(
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 9)),
    40_000,
);

/// A TCP segment or a UDP datagram in an IP packet in a frame.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    /// VLAN tags.
    pub tags: &'static [u8],
    pub from: SocketAddr,
    /// Of the same address family.
    pub to: SocketAddr,
    pub transport: Transport,
    /// TTL or hop limit.
    pub hops: u8,
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP with these flags, and no payload.
    Tcp(u8),
    /// UDP with so many bytes of payload.
    Udp(usize),
}

/// The first packet of a client's flow to the service.
pub const FIRST: Segment = Segment {
    to_mac: OUR_MAC,
    from_mac: ROUTER_MAC,
    tags: &[],
    from: CLIENT,
    to: SocketAddr::new(IpAddr::V4(IDENTITY), 80),
    transport: Transport::Tcp(SYN),
    hops: 64,
};

/// The second.
pub const SECOND: Segment = Segment {
    transport: Transport::Tcp(ACK),
    ..FIRST
};

/// A datagram of a client's flow to the service.
pub const DATAGRAM: Segment = Segment {
    transport: Transport::Udp(30),
    ..FIRST
};

/// As above, over IPv6.
pub const DATAGRAM_V6: Segment = Segment {
    transport: Transport::Udp(30),
    ..FIRST_V6
};

/// The first packet of a flow over IPv6.
pub const FIRST_V6: Segment = Segment {
    from: CLIENT_V6,
    to: SocketAddr::new(IpAddr::V6(IDENTITY_V6), 80),
    ..FIRST
};

/// VLAN 10.
pub const TAG: &[u8] = &[0x81, 0, 0, 10];
/// VLAN 10 in a provider's VLAN 20, with priority 3.
pub const TWO_TAGS: &[u8] = &[0x88, 0xa8, 0x60, 20, 0x81, 0, 0, 10];

/// A first packet of each sort that is balanced.
pub const SORTS: [Segment; 6] = [
    FIRST,
    Segment { tags: TAG, ..FIRST },
    Segment {
        tags: TWO_TAGS,
        ..FIRST
    },
    FIRST_V6,
    Segment {
        tags: TAG,
        ..FIRST_V6
    },
    Segment {
        tags: TWO_TAGS,
        ..FIRST_V6
    },
];

impl Segment {
    /// This packet of another flow, one for each number.
    pub fn numbered(self, number: u16) -> Self {
        let port = self.from.port() + number;
        Self {
            from: SocketAddr::new(self.from.ip(), port),
            ..self
        }
    }

    /// This packet with these flags of TCP.
    pub fn with_flags(self, flags: u8) -> Self {
        Self {
            transport: Transport::Tcp(flags),
            ..self
        }
    }

    /// The second packet of the flow.
    pub fn second(self) -> Self {
        self.with_flags(ACK)
    }

    /// The frame with right checksums, padded to Ethernet's least length.
    pub fn frame(&self) -> Vec<u8> {
        let (ether_type, ip) = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ([8, 0], self.ipv4(from, to)),
            (IpAddr::V6(from), IpAddr::V6(to)) => ([0x86, 0xdd], self.ipv6(from, to)),
            _ => panic!("{self:?} is of two families"),
        };
        let mut frame = [
            &self.to_mac[..],
            &self.from_mac,
            self.tags,
            &ether_type,
            &ip,
        ]
        .concat();
        frame.resize(frame.len().max(60), 0);
        frame
    }

    fn ipv4(&self, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
        let addresses = [from.octets(), to.octets()].concat();
        let (protocol, payload) = self.payload(&addresses);
        ipv4(from, to, protocol, self.hops, &payload)
    }

    fn ipv6(&self, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
        let addresses = [from.octets(), to.octets()].concat();
        let (protocol, payload) = self.payload(&addresses);
        ipv6(from, to, protocol, self.hops, &payload)
    }

    /// Protocol number, and what follows the IP header.
    fn payload(&self, addresses: &[u8]) -> (u8, Vec<u8>) {
        let mut bytes = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        let (protocol, at) = match self.transport {
            Transport::Tcp(flags) => {
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 0]); // sequence and acknowledgement numbers
                bytes.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]); // length, flags, window, checksum, urgent pointer
                (TCP, 16)
            }
            Transport::Udp(size) => {
                bytes.extend(((8 + size) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend((0..size).map(|nth| nth as u8));
                (UDP, 6)
            }
        };
        let sum = checksum(&[addresses, &pseudo(protocol, bytes.len()), &bytes].concat());
        bytes[at..at + 2].copy_from_slice(&sum);
        (protocol, bytes)
    }
}

/// An IPv4 packet with right header checksum, not to be fragmented.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = ((20 + payload.len()) as u16).to_be_bytes();
    let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, hops, protocol, 0, 0];
    header.extend([from.octets(), to.octets()].concat());
    mend_ipv4(&mut header);
    [&header[..], payload].concat()
}

/// Makes the checksum of an IPv4 header right.
pub fn mend_ipv4(ip: &mut [u8]) {
    ip[10..12].fill(0);
    let sum = checksum(&ip[..20]);
    ip[10..12].copy_from_slice(&sum);
}

/// An IPv6 packet.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, high, low, protocol, hops];
    packet.extend([from.octets(), to.octets()].concat());
    packet.extend(payload);
    packet
}

/// What checksums cover beside addresses and payload.
pub fn pseudo(protocol: u8, length: usize) -> [u8; 4] {
    let [high, low] = (length as u16).to_be_bytes();
    [0, protocol, high, low]
}

/// IP protocol numbers.
pub const TCP: u8 = 6;
/// As above.
pub const UDP: u8 = 17;

/// RFC 1071.
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
