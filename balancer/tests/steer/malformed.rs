//! Packets that are cut, contradict themselves, or are made to confuse: the written rule, line by line.
//!
//! What might hide a flow is odd, what can have none is not ours, and both pass as they are.

use balancer_common::wire::Headers;

use crate::exposure;
use crate::frame::{
    DATAGRAM, DATAGRAM_V6, FIRST, FIRST_V6, IDENTITY, IDENTITY_V6, Segment, TAG, TWO_TAGS,
};
use crate::frames::samples;
use crate::kinds::{atomic, error};
use crate::server::Server;

/// Where the headers begin in a frame without tags.
const ETHER_TYPE: usize = 12;
const IP: usize = 14;
const TCP: usize = 34;
/// Behind an IPv6 header.
const AFTER_V6: usize = 54;
/// What an ICMP error quotes.
const QUOTE: usize = 42;
const QUOTE_V6: usize = 62;

const ODD: &str = "odd";
const NOT_OURS: &str = "not_ours";
/// Of a later fragment, whose first was never seen.
const LOCAL: &str = "local";

#[test]
fn what_is_malformed_passes_by_the_rule() {
    let Some(mut server) = overloaded() else {
        return;
    };
    for (what, frame, counter) in cases() {
        println!("{what}: {frame:02x?}");
        server.passes(&frame, None, counter);
    }
}

/// To an identity that this server stands in for, nothing gets through that only looks broken.
#[test]
fn what_is_malformed_is_not_exposed() {
    let Some(mut server) = exposure::server(0) else {
        return;
    };
    for (what, frame, counter) in cases() {
        println!("{what}: {frame:02x?}");
        if counter != LOCAL && is_for_identity(&frame) {
            server.drops(&frame, None, "not_exposed");
        } else {
            server.passes(&frame, None, counter);
        }
    }
}

/// Whether a frame has an identity where an IP header has its destination, and isn't ICMP.
fn is_for_identity(frame: &[u8]) -> bool {
    let is_tag = |at: usize| {
        [[0x81, 0], [0x88, 0xa8]]
            .iter()
            .any(|tag| frame[at..].starts_with(tag))
    };
    let tags =
        usize::from(is_tag(ETHER_TYPE)) + usize::from(is_tag(ETHER_TYPE) && is_tag(ETHER_TYPE + 4));
    let (_, packet) = frame.split_at(ETHER_TYPE + 4 * tags);
    match packet {
        [0x08, 0x00, ip @ ..] if ip.len() >= 20 => ip[9] != 1 && ip[16..20] == IDENTITY.octets(),
        [0x86, 0xdd, ip @ ..] if ip.len() >= 40 => {
            ip[6] != 58 && ip[24..40] == IDENTITY_V6.octets()
        }
        // Behind a third tag may be anything.
        [0x81, 0x00, ..] | [0x88, 0xa8, ..] => true,
        _ => false,
    }
}

#[test]
fn what_is_cut_is_odd() {
    let Some(mut server) = overloaded() else {
        return;
    };
    for frame in samples() {
        let frame = frame.as_slice();
        let Ok(Some(headers)) = Headers::parse(&frame) else {
            continue;
        };
        let packet = headers.packet();
        let end = packet.at + packet.length;
        for size in (IP..end.min(120)).chain([end - 1]) {
            println!("{size} bytes of {frame:02x?}");
            server.passes(&frame[..size], None, ODD);
        }
    }
}

/// What it is, the frame, and what is counted for it.
fn cases() -> Vec<(String, Vec<u8>, &'static str)> {
    let mut cases = Vec::new();
    for (sort, whole, counter, changes) in RULE {
        for (at, bytes) in changes {
            let mut frame = whole();
            frame[*at..at + bytes.len()].copy_from_slice(bytes);
            cases.push((format!("{sort}, {bytes:02x?} at {at}"), frame, counter));
        }
    }
    for (what, frame, counter) in [
        ("no IPv4 header", syn()[..IP].to_vec(), ODD),
        ("no IPv6 header", syn_v6()[..IP].to_vec(), ODD),
        ("nothing but zeroes", vec![0; 14], NOT_OURS),
        ("nothing but ones", vec![0xff; 60], NOT_OURS),
        ("three VLAN tags", in_three_vlans(), NOT_OURS),
    ] {
        cases.push((what.to_owned(), frame, counter));
    }
    cases
}

/// What it is about, a frame, what is counted for it, and the changes (where, to what) each of which makes it count so.
type Line = (
    &'static str,
    fn() -> Vec<u8>,
    &'static str,
    &'static [(usize, &'static [u8])],
);

const RULE: [Line; 24] = [
    (
        "EtherTypes of others, and a length",
        syn,
        NOT_OURS,
        &[
            (ETHER_TYPE, &[0x08, 0x06]),
            (ETHER_TYPE, &[0x88, 0x47]),
            (ETHER_TYPE, &[0, 46]),
        ],
    ),
    (
        "IPv4 version and header length",
        syn,
        ODD,
        &[
            (IP, &[0x05]),
            (IP, &[0x65]),
            (IP, &[0xf5]),
            (IP, &[0x40]),
            (IP, &[0x44]),
        ],
    ),
    (
        "IPv4 options",
        syn,
        ODD,
        &[(IP, &[0x46]), (IP, &[0x4a]), (IP, &[0x4f])],
    ),
    (
        "IPv4 length without room for TCP, or longer than the frame",
        syn,
        ODD,
        &[
            (IP + 2, &[0, 0]),
            (IP + 2, &[0, 19]),
            (IP + 2, &[0, 20]),
            (IP + 2, &[0, 39]),
            (IP + 2, &[0, 47]),
            (IP + 2, &[0xff, 0xff]),
        ],
    ),
    (
        "other protocols over IPv4: IPIP, ESP, ICMPv6, SCTP",
        syn,
        NOT_OURS,
        &[
            (IP + 9, &[4]),
            (IP + 9, &[50]),
            (IP + 9, &[58]),
            (IP + 9, &[132]),
        ],
    ),
    (
        "TCP header length",
        syn,
        ODD,
        &[
            (TCP + 12, &[0]),
            (TCP + 12, &[0x40]),
            (TCP + 12, &[0x60]),
            (TCP + 12, &[0xf0]),
        ],
    ),
    (
        "UDP length",
        datagram,
        ODD,
        &[
            (TCP + 4, &[0, 0]),
            (TCP + 4, &[0, 7]),
            (TCP + 4, &[0, 39]),
            (TCP + 4, &[0xff, 0xff]),
        ],
    ),
    (
        "IPv4 length without room for UDP",
        datagram,
        ODD,
        &[(IP + 2, &[0, 27])],
    ),
    (
        "tiny first fragments (RFC 1858)",
        syn,
        ODD,
        &[
            (IP + 2, &[0, 36, 0, 7, 0x20, 0]),
            (IP + 2, &[0, 28, 0, 7, 0x20, 0]),
        ],
    ),
    (
        "later fragments: over the first, over the end of all packets, empty",
        syn,
        LOCAL,
        &[
            (IP + 6, &[0x20, 1]),
            (IP + 6, &[0x1f, 0xff]),
            (IP + 6, &[0x3f, 0xff]),
            (IP + 2, &[0, 20, 0, 7, 0, 9]),
        ],
    ),
    (
        "IPv6 version",
        syn_v6,
        ODD,
        &[(IP, &[0x40]), (IP, &[0x50]), (IP, &[0x00])],
    ),
    (
        "IPv6 length: a jumbogram, none for TCP, longer than the frame",
        syn_v6,
        ODD,
        &[
            (IP + 4, &[0, 0]),
            (IP + 4, &[0, 19]),
            (IP + 4, &[0, 21]),
            (IP + 4, &[0xff, 0xff]),
        ],
    ),
    (
        "IPv6 extension headers",
        syn_v6,
        ODD,
        &[
            (IP + 6, &[0]),
            (IP + 6, &[43]),
            (IP + 6, &[51]),
            (IP + 6, &[60]),
            (IP + 6, &[135]),
            (IP + 6, &[139]),
            (IP + 6, &[140]),
        ],
    ),
    (
        "other protocols over IPv6: ICMP, IPv6, ESP, none, SCTP",
        syn_v6,
        NOT_OURS,
        &[
            (IP + 6, &[1]),
            (IP + 6, &[41]),
            (IP + 6, &[50]),
            (IP + 6, &[59]),
            (IP + 6, &[132]),
        ],
    ),
    (
        "from or to an IPv4-mapped address",
        syn_v6,
        ODD,
        &[(IP + 8, MAPPED), (IP + 24, MAPPED)],
    ),
    (
        "UDP length over IPv6",
        datagram_v6,
        ODD,
        &[(AFTER_V6 + 4, &[0, 0]), (AFTER_V6 + 4, &[0, 39])],
    ),
    (
        "a fragment header cut, and what may hide behind one",
        atomic_fragment,
        ODD,
        &[
            (IP + 4, &[0, 0]),
            (IP + 4, &[0, 7]),
            (IP + 4, &[0, 8]),
            (AFTER_V6, &[44]),
            (AFTER_V6, &[0]),
            (AFTER_V6, &[60]),
        ],
    ),
    (
        "fragments of what is not ours, ICMPv6 among it",
        atomic_fragment,
        NOT_OURS,
        &[(AFTER_V6, &[132]), (AFTER_V6, &[58, 0, 0, 1])],
    ),
    (
        "later fragments over IPv6: over the first, over the end of all packets",
        atomic_fragment,
        LOCAL,
        &[(AFTER_V6 + 2, &[0, 9]), (AFTER_V6 + 2, &[0xff, 0xf8])],
    ),
    (
        "ICMP without room for a header, or for what it quotes",
        icmp_error,
        ODD,
        &[(IP + 2, &[0, 27]), (IP + 2, &[0, 28]), (IP + 2, &[0, 55])],
    ),
    (
        "an ICMP error about what is no IPv4 packet, or has options",
        icmp_error,
        ODD,
        &[(QUOTE, &[0x65]), (QUOTE, &[0x44]), (QUOTE, &[0x46])],
    ),
    (
        "ICMP: in fragments, no error, about an error, about a later fragment, about another host's packet",
        icmp_error,
        NOT_OURS,
        &[
            (IP + 6, &[0x20, 0]),
            (IP + 6, &[0, 1]),
            (TCP, &[5]),
            (TCP, &[8]),
            (QUOTE + 9, &[1]),
            (QUOTE + 6, &[0, 1]),
            (QUOTE + 15, &[99]),
        ],
    ),
    (
        "ICMPv6 without room for what it quotes, or that quotes what is no IPv6 packet of ours",
        icmpv6_error,
        ODD,
        &[
            (IP + 4, &[0, 7]),
            (IP + 4, &[0, 55]),
            (QUOTE_V6, &[0x40]),
            (QUOTE_V6 + 24, MAPPED),
        ],
    ),
    (
        "ICMPv6: no error, about an error, about a fragment, about another host's packet",
        icmpv6_error,
        NOT_OURS,
        &[
            (AFTER_V6, &[128]),
            (AFTER_V6, &[137]),
            (QUOTE_V6 + 6, &[58]),
            (QUOTE_V6 + 6, &[44]),
            (QUOTE_V6 + 23, &[99]),
        ],
    ),
];

/// `::ffff:198.51.100.7`.
const MAPPED: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 7];

fn syn() -> Vec<u8> {
    FIRST.frame()
}

fn syn_v6() -> Vec<u8> {
    FIRST_V6.frame()
}

fn datagram() -> Vec<u8> {
    DATAGRAM.frame()
}

fn datagram_v6() -> Vec<u8> {
    DATAGRAM_V6.frame()
}

fn atomic_fragment() -> Vec<u8> {
    atomic(&DATAGRAM_V6)
}

fn icmp_error() -> Vec<u8> {
    error(&FIRST, 3)
}

fn icmpv6_error() -> Vec<u8> {
    error(&FIRST_V6, 1)
}

fn in_three_vlans() -> Vec<u8> {
    let tagged = Segment {
        tags: TWO_TAGS,
        ..FIRST
    };
    let frame = tagged.frame();
    [&frame[..ETHER_TYPE], TAG, &frame[ETHER_TYPE..]].concat()
}

/// A server that would steer any flow that it found in there.
fn overloaded() -> Option<Server> {
    let mut server = Server::new()?;
    server.add_peer(0);
    server.set_own_load(9_000);
    Some(server)
}
