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

/// A TCP segment in an IP packet in a frame.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    /// VLAN tags.
    pub tags: &'static [u8],
    pub from: SocketAddr,
    /// Of the same address family.
    pub to: SocketAddr,
    pub flags: u8,
}

/// The first packet of a client's flow to the service.
pub const FIRST: Segment = Segment {
    to_mac: OUR_MAC,
    from_mac: ROUTER_MAC,
    tags: &[],
    from: CLIENT,
    to: SocketAddr::new(IpAddr::V4(IDENTITY), 80),
    flags: SYN,
};

/// The second.
pub const SECOND: Segment = Segment {
    flags: ACK,
    ..FIRST
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

    /// The second packet of the flow.
    pub fn second(self) -> Self {
        Self { flags: ACK, ..self }
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
        let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0];
        header.extend(&addresses);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        header.extend(self.tcp(&addresses));
        header
    }

    fn ipv6(&self, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
        let addresses = [from.octets(), to.octets()].concat();
        let mut header = vec![0x60, 0, 0, 0, 0, TCP_LEN, TCP, 64];
        header.extend(&addresses);
        header.extend(self.tcp(&addresses));
        header
    }

    fn tcp(&self, addresses: &[u8]) -> Vec<u8> {
        let mut tcp = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        tcp.extend([0, 0, 0, 1, 0, 0, 0, 0]); // sequence and acknowledgement numbers
        tcp.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]); // length, flags, window, checksum, urgent pointer
        let sum = checksum(&[addresses, &[0, TCP, 0, TCP_LEN], &tcp].concat());
        tcp[16..18].copy_from_slice(&sum);
        tcp
    }
}

const TCP: u8 = 6;
const TCP_LEN: u8 = 20;

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
