use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn an_ipv4_address_is_mapped_into_ipv6() {
    let octets = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 101];
    assert_eq!(Address::from(ip("10.0.0.101")), Address { octets });
    assert_eq!(
        Address::from(Ipv4Addr::new(10, 0, 0, 101)),
        Address { octets }
    );
    assert_eq!(Address::v4(0x0a00_0065), Address { octets });
    assert_eq!(Address { octets }.family(), FAMILY_V4);
}

#[test]
fn an_ipv6_address_is_two_numbers() {
    let address = Address::v6(0x2001_0db8_0007_0000, 0x0000_0000_0000_0101);
    assert_eq!(address, Address::from(ip("2001:db8:7::101")));
    for text in ["::", "::1", "::10.0.0.101", "2001:db8:7::101", "fe80::1"] {
        assert_eq!(Address::from(ip(text)).family(), FAMILY_V6, "{text}");
    }
}

#[test]
fn addresses_come_back_as_they_were() {
    for text in [
        "0.0.0.0",
        "10.0.0.101",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "2001:db8::65",
        // Not mapped, but of the old compatible form (RFC 4291 section 2.5.5.1).
        "::10.0.0.101",
    ] {
        assert_eq!(IpAddr::from(Address::from(ip(text))), ip(text));
    }
    // A mapped address is an IPv4 one.
    assert_eq!(
        IpAddr::from(Address::from(ip("::ffff:10.0.0.101"))),
        ip("10.0.0.101")
    );
}

/// A service of this capacity; all else is 0.
fn service(capacity: u32) -> Service {
    Service {
        cost: cost_of(capacity),
        ..Service::default()
    }
}

#[test]
fn open_and_pending_connections_are_load() {
    let service = service(20);
    let connections = Connections {
        open: 3,
        arrived: 10,
        established: 8,
        steered: 100,
    };
    assert_eq!(connections.opened(&service), 3);
    assert_eq!(connections.pending(&service), 2);
    assert_eq!(connections.load(&service), 2_500);
}

#[test]
fn uncounted_connections_may_be_less_than_nothing() {
    let connections = Connections {
        open: 5,
        ..Connections::default()
    };
    for (uncounted, opened) in [
        (0, 5),
        (7, 12),
        (-2, 3),
        (-5, 0),
        (-6, 0),
        (i64::MIN + 1, 0),
    ] {
        let service = Service {
            uncounted: uncounted.cast_unsigned(),
            ..service(20)
        };
        assert_eq!(
            connections.opened(&service),
            opened,
            "{uncounted} uncounted"
        );
    }
    // More closed than opened since the program was loaded, of those that are older.
    let closed = Connections {
        open: (-3_i64).cast_unsigned(),
        ..Connections::default()
    };
    assert_eq!(closed.opened(&service(20)), 0);
    let older = Service {
        uncounted: 4,
        ..service(20)
    };
    assert_eq!(closed.opened(&older), 1);
}

#[test]
fn first_packets_that_are_done_are_not_pending() {
    for (arrived, established, given_up, pending) in [
        (10, 4, 1, 5),
        (10, 10, 0, 0),
        (10, 9, 2, 0),
        (0, 1, 0, 0),
        // The counters go round.
        (2, u64::MAX, 0, 3),
        (2, u64::MAX, 4, 0),
    ] {
        let connections = Connections {
            arrived,
            established,
            ..Connections::default()
        };
        let service = Service {
            given_up,
            ..service(20)
        };
        assert_eq!(
            connections.pending(&service),
            pending,
            "{arrived} arrived, {established} established, {given_up} given up"
        );
    }
}

#[test]
fn the_higher_of_count_and_sample_is_the_load() {
    let connections = Connections {
        open: 10,
        ..Connections::default()
    };
    for (sample, load) in [
        (0, 5_000),
        (4_999, 5_000),
        (5_001, 5_001),
        (u32::MAX, u32::MAX),
    ] {
        let service = Service {
            sample,
            ..service(20)
        };
        assert_eq!(connections.load(&service), load, "sample {sample}");
    }
}

#[test]
fn capacity_is_full_load_to_a_basis_point() {
    for capacity in [1, 2, 3, 20, 150, 1_000, 65_536, 1_000_000] {
        let load = load_of(capacity.into(), cost_of(capacity));
        // The cost is rounded down by less than 1/65,536 of a basis point for each connection.
        let lost = capacity.div_ceil(1 << 16);
        assert!(
            (FULL - lost..=FULL).contains(&load),
            "{capacity} connections make {load}"
        );
    }
    assert_eq!(load_of(10, cost_of(20)), 5_000);
    assert_eq!(load_of(40, cost_of(20)), 20_000, "load may exceed 100 %");
    assert_eq!(cost_of(0), cost_of(1), "no capacity is the least there is");
}

#[test]
fn load_ends_at_the_largest_number() {
    for (connections, cost) in [
        (u64::MAX, u32::MAX),
        (u64::MAX, cost_of(1)),
        (u64::from(u32::MAX), u32::MAX),
        (1 << 32, 1 << 16),
        (429_497, cost_of(1)),
    ] {
        assert_eq!(
            load_of(connections, cost),
            u32::MAX,
            "{connections} of {cost}"
        );
    }
    assert_eq!(load_of(429_496, cost_of(1)), 4_294_960_000);
    assert_eq!(load_of(u64::MAX, 0), 0);
    assert_eq!(load_of(0, u32::MAX), 0);
}

#[test]
fn named_lists_each_counter_once_under_its_own_name() {
    let counters = Counters {
        not_ours: 1,
        steered: 2,
        errors: 3,
        ..Counters::default()
    };
    let distinct: BTreeSet<_> = counters.named().map(|(name, _)| name).collect();
    assert_eq!(distinct.len(), counters.named().count(), "a name twice");
    assert_eq!(distinct.len(), size_of::<Counters>() / size_of::<u64>());
    for (name, value) in counters.named() {
        let expected = match name {
            "not_ours" => 1,
            "steered" => 2,
            "errors" => 3,
            _ => 0,
        };
        assert_eq!(value, expected, "{name}");
    }
    let peer = PeerCounters {
        flows: 1,
        packets: 2,
    };
    assert!(peer.named().eq([("flows", 1), ("packets", 2)]));
}

#[test]
fn counters_are_summed_each_for_itself() {
    let mut sum = PeerCounters {
        flows: 1,
        packets: 20,
    };
    sum += PeerCounters {
        flows: 4,
        packets: 50,
    };
    assert_eq!(
        sum,
        PeerCounters {
            flows: 5,
            packets: 70
        }
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_address_comes_back(bits: u32, octets: [u8; 16]) {
        let v4 = IpAddr::from(Ipv4Addr::from(bits));
        prop_assert_eq!(Address::from(v4), Address::v4(bits));
        prop_assert_eq!(IpAddr::from(Address::v4(bits)), v4);
        prop_assert_eq!(Address::from(IpAddr::from(Address { octets })), Address { octets });
    }

    #[test]
    fn load_of_is_a_wide_product_cut_to_its_number(connections: u64, cost: u32, shift in 0..64_u32) {
        let connections = connections >> shift;
        // Beyond 32 bits of connections the load is capped by design, which shows only at costs below a basis point.
        let exact = (u128::from(connections.min(u32::MAX.into())) * u128::from(cost)) >> 16;
        prop_assert_eq!(u128::from(load_of(connections, cost)), exact.min(u32::MAX.into()));
    }

    #[test]
    fn any_counts_make_a_load(
        open: u64,
        arrived: u64,
        established: u64,
        uncounted: u64,
        given_up: u64,
        cost: u32,
        sample: u32,
    ) {
        let connections = Connections { open, arrived, established, steered: 0 };
        let service = Service { uncounted, given_up, cost, sample, ..Service::default() };
        prop_assert!(connections.load(&service) >= sample);
        prop_assert!(i64::try_from(connections.opened(&service)).is_ok());
        prop_assert!(i64::try_from(connections.pending(&service)).is_ok());
    }
}
