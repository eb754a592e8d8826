//! The maps. The daemon pins each under its name; `bpftool map dump pinned` prints them with field names.
//!
//! The daemon writes SETTINGS, PORTS, SERVICES, IDENTITIES, PEERS, PEER_MACS and LOADS (but for `sent`); the programs write
//! the rest.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use balancer_common::types::{
    Address, ClientKey, Connections, Counters, Event, Flow, FlowKey, HalfOpenSet, Identity,
    MAX_PEERS, MAX_SERVICES, Mac, Peer, PeerCounters, PeerLoad, Port, Service, Settings,
};

const PEER_SLOTS: usize = MAX_PEERS as usize;
const SERVICE_SLOTS: usize = MAX_SERVICES as usize;

#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map]
pub static PORTS: Array<Port, 65_536> = Array::new();

#[btf_map]
pub static SERVICES: Array<Service, SERVICE_SLOTS> = Array::new();

#[btf_map]
pub static IDENTITIES: HashMap<Address, Identity, 16_384> = HashMap::new();

#[btf_map]
pub static PEERS: Array<Peer, PEER_SLOTS> = Array::new();

#[btf_map]
pub static PEER_MACS: HashMap<Mac, u32, 4096> = HashMap::new();

#[btf_map]
pub static LOADS: Array<PeerLoad, { PEER_SLOTS * SERVICE_SLOTS }> = Array::new();

#[btf_map]
pub static CONNECTIONS: Array<Connections, SERVICE_SLOTS> = Array::new();

/// See `memory.rs`. Mappable, so that a set is a cache line: the kernel begins such a map on a page. The daemon sets its size.
#[btf_map]
pub static HALF_OPEN: Array<HalfOpenSet, 65_536, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Where clients' last flows went, for services with affinity.
#[btf_map]
pub static CLIENTS: LruHashMap<ClientKey, Flow, 65_536> = LruHashMap::new();

/// Flows of which more than first packets were seen: those that are steered, and UDP's that are kept. The daemon sets its size.
#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, Flow, 1_048_576> = LruHashMap::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<Counters, { SERVICE_SLOTS + 1 }> = PerCpuArray::new();

#[btf_map]
pub static PEER_COUNTERS: PerCpuArray<PeerCounters, PEER_SLOTS> = PerCpuArray::new();

/// Decisions, while somebody listens.
#[btf_map]
pub static EVENTS: RingBuf<Event, 262_144> = RingBuf::new();
