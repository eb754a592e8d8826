//! How a connection's packets get to this server: only those that pass the XDP program, and that no server of the cluster has sent,
//! can be sent on from here.

use std::os::fd::AsFd;

use super::kernel;

/// Where a packet's headers begin that came in an Ethernet frame.
const ETHERNET: usize = 14;

/// What is known of the way of a connection's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The first one came in a frame.
    Frame {
        /// The Ethernet address that it was for.
        to: [u8; 6],
        /// The sender's.
        from: [u8; 6],
        /// How many routers it might still have passed.
        hops: u8,
    },
    /// They have been sent on before.
    SentOn,
    /// Nothing.
    Unknown,
}

impl Origin {
    /// That of a connection that a listener has accepted, once: the kernel forgets it then.
    pub fn of(stream: &impl AsFd) -> Self {
        kernel::first_packet(stream).map_or(Self::Unknown, |packet| Self::read(&packet))
    }

    fn read(packet: &[u8]) -> Self {
        let read = || {
            let (to, rest) = packet.split_first_chunk()?;
            let (from, _) = rest.split_first_chunk()?;
            let ip = packet.get(ETHERNET..)?;
            let hops = match ip.first()? >> 4 {
                4 => ip.get(8)?,
                6 => ip.get(7)?,
                _ => return None,
            };
            Some(Self::Frame {
                to: *to,
                from: *from,
                hops: *hops,
            })
        };
        read().unwrap_or(Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn it_is_read_from_the_first_packet() {
        let mut packet = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]].concat();
        packet.extend([8, 0]);
        packet.extend([0x45, 0, 0, 60, 0, 0, 0x40, 0, 63, 6]);
        let frame = Origin::Frame {
            to: [2, 0, 0, 0, 0, 1],
            from: [2, 0, 0, 0, 0, 2],
            hops: 63,
        };
        assert_eq!(Origin::read(&packet), frame);
        packet[14..].copy_from_slice(&[0x60, 0, 0, 0, 0, 40, 6, 63, 0, 0]);
        assert_eq!(Origin::read(&packet), frame);
        for length in 0..22 {
            assert_eq!(Origin::read(&packet[..length]), Origin::Unknown);
        }
        assert_eq!(Origin::read(&packet[14..]), Origin::Unknown);
    }

    #[test]
    fn what_was_not_kept_is_not_known() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(Origin::of(&listener.accept().unwrap().0), Origin::Unknown);
    }
}
