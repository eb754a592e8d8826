//! The hash that spreads flows.

use crate::types::FlowKey;

/// Hash of a flow under a secret `seed`: who doesn't know the seed can't choose flows that hash alike.
///
/// Multiply-and-fold over the key's eight-byte words, as in wyhash; not cryptographic.
#[inline(always)]
pub fn flow_hash(key: &FlowKey, seed: u64) -> u64 {
    let ends =
        u64::from(key.client_port) << 48 | u64::from(key.port) << 32 | u64::from(key.protocol);
    let mut hash = fold(seed ^ ends);
    let ([a, b], [c, d]) = (key.client.words(), key.identity.words());
    hash = fold(hash ^ a);
    hash = fold(hash ^ b);
    hash = fold(hash ^ c);
    fold(hash ^ d)
}

/// Mixes all bits of `x` into all bits of the result (the finaliser of `MurmurHash3`, public domain).
#[inline(always)]
pub fn fold(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Address;

    #[test]
    fn spreads_neighbouring_ports_evenly() {
        let mut buckets = [0u32; 64];
        for client_port in 1024..=u16::MAX {
            let key = FlowKey {
                client: Address::v4(0x0a00_0001),
                identity: Address::v4(0x0a00_0065),
                client_port,
                port: 80,
                protocol: 6,
            };
            buckets[(flow_hash(&key, 42) % 64) as usize] += 1;
        }
        let mean = (65_536 - 1024) / 64;
        for count in buckets {
            assert!(
                count.abs_diff(mean) < mean / 5,
                "{count} flows in a bucket, {mean} expected"
            );
        }
    }

    #[test]
    fn depends_on_every_part_and_on_the_seed() {
        let key = FlowKey {
            client_port: 1,
            port: 2,
            protocol: 6,
            ..FlowKey::default()
        };
        let others = [
            FlowKey {
                client_port: 2,
                port: 1,
                ..key
            },
            FlowKey {
                protocol: 17,
                ..key
            },
            // As fragmented packets have them, whose ids are in place of the ports.
            FlowKey {
                protocol: 6 | 1 << 16,
                ..key
            },
            FlowKey {
                protocol: 6 | 1 << 16,
                port: 3,
                ..key
            },
            FlowKey {
                client: Address::v4(1),
                ..key
            },
            FlowKey {
                identity: Address::v4(1),
                ..key
            },
        ];
        let mut hashes: Vec<u64> = others.iter().map(|other| flow_hash(other, 7)).collect();
        hashes.push(flow_hash(&key, 7));
        let different: std::collections::BTreeSet<_> = hashes.iter().collect();
        assert_eq!(different.len(), hashes.len());
        assert_ne!(flow_hash(&key, 7), flow_hash(&key, 8));
    }
}
