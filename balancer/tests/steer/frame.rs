//! Frames as they come in.

use std::net::{Ipv4Addr, SocketAddrV4};

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
/// A client.
pub const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 40_000);

/// A TCP segment in an IPv4 packet in a frame.
#[derive(Clone, Copy)]
pub struct Segment {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub flags: u8,
}

/// The first packet of a client's flow to the service.
pub const FIRST: Segment = Segment {
    to_mac: OUR_MAC,
    from_mac: ROUTER_MAC,
    from: CLIENT,
    to: SocketAddrV4::new(IDENTITY, 80),
    flags: SYN,
};

/// The second.
pub const SECOND: Segment = Segment {
    flags: ACK,
    ..FIRST
};

impl Segment {
    /// This packet of another flow, one for each number.
    pub fn numbered(self, number: u16) -> Self {
        let port = self.from.port() + number;
        Self {
            from: SocketAddrV4::new(*self.from.ip(), port),
            ..self
        }
    }

    /// The frame with right checksums, padded to Ethernet's least length.
    pub fn frame(&self) -> Vec<u8> {
        const TCP: u8 = 6;
        const TCP_LEN: u16 = 20;
        let addresses = [self.from.ip().octets(), self.to.ip().octets()].concat();

        let mut tcp = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        tcp.extend([0, 0, 0, 1, 0, 0, 0, 0]); // sequence and acknowledgement numbers
        tcp.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]); // length, flags, window, checksum, urgent pointer
        let pseudo_header = [&addresses[..], &[0, TCP], &TCP_LEN.to_be_bytes()].concat();
        let sum = checksum(&[&pseudo_header[..], &tcp].concat());
        tcp[16..18].copy_from_slice(&sum);

        let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0];
        ip.extend(addresses);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum);

        let mut frame = [&self.to_mac[..], &self.from_mac, &[8, 0], &ip, &tcp].concat();
        frame.resize(60, 0);
        frame
    }
}

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
