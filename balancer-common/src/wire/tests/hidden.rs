//! Destinations at which nothing but services is to be seen.

use super::*;

fn hidden(frame: &[u8]) -> Option<String> {
    hidden_destination(&frame).map(|address| IpAddr::from(address).to_string())
}

#[test]
fn it_is_told_whatever_else_is_wrong() {
    let to = Some("10.0.0.101".to_owned());
    for (what, at, byte) in [
        ("nothing", IP + 8, 64),
        ("version", IP, 0x65),
        ("options", IP, 0x4f),
        ("length", IP + 3, 1),
        ("protocol", IP + 9, 132),
        ("TCP's header length", TCP_AT + 12, 0),
    ] {
        assert_eq!(hidden(&syn_with(&[(at, byte)])), to, "{what}");
    }
    let to = Some("2001:db8::101".to_owned());
    for next in [6, 17, 0, 44, 60, 132] {
        assert_eq!(hidden(&v6_with(6, &[next])), to, "next header {next}");
    }
}

#[test]
fn icmp_and_what_is_no_ip_may_go_there() {
    assert_eq!(hidden(&syn_with(&[(IP + 9, ICMP)])), None);
    assert_eq!(hidden(&v6_with(6, &[ICMPV6])), None);
    assert_eq!(hidden(&syn_with(&[(13, 0x06)])), None, "ARP");
    // Each in its own family only.
    assert!(hidden(&syn_with(&[(IP + 9, ICMPV6)])).is_some());
    assert!(hidden(&v6_with(6, &[ICMP])).is_some());
}

#[test]
fn it_is_found_behind_tags() {
    const TAG: [u8; 4] = [0x81, 0x00, 0xe0, 0x0a];
    for tags in [&[][..], &[TAG], &[TAG, TAG]] {
        for (frame, ip_len, to) in [
            (&SYN_FRAME[..], IPV4_LEN, "10.0.0.101"),
            (&V6_FRAME, IPV6_LEN, "2001:db8::101"),
        ] {
            let frame = tagged(frame, tags);
            let end = IP + 4 * tags.len() + ip_len;
            assert_eq!(hidden(&frame[..end]), Some(to.to_owned()));
            assert!(!is_overtagged(&frame.as_slice()));
            for len in 0..end {
                assert_eq!(hidden(&frame[..len]), None, "{len} bytes");
            }
        }
    }
    assert_eq!(hidden(&tagged(&SYN_FRAME, &[TAG; 3])), None);
    assert!(is_overtagged(&tagged(&SYN_FRAME, &[TAG; 3]).as_slice()));
}
