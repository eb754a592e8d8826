//! The maps. The daemon pins each under its name, but for FLOWS (of a million places), EVENTS and AT_HAND, which are for
//! this program and its daemon alone; `bpftool map dump pinned` prints them with field names.
//!
//! The daemon writes SETTINGS, PORTS, SERVICES, IDENTITIES, PEERS, PEER_MACS and LOADS (but for `sent`); the programs write
//! the rest.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use balancer_common::table::FlowSet;
use balancer_common::types::{
    Address, AtHand, ClientKey, Connections, Counters, Event, Identity, LastFlow, MAX_PEERS,
    MAX_SERVICES, Mac, Peer, PeerCounters, PeerLoad, Port, Service, Settings,
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

/// Where clients' last flows went, for services with affinity.
#[btf_map]
pub static CLIENTS: LruHashMap<ClientKey, LastFlow, 65_536> = LruHashMap::new();

/// See `memory.rs`. Mappable: the daemon walks through it without asking the kernel for each set, and places are a cache line, since the kernel
/// begins such a map on a page. The daemon sets its size.
#[btf_map]
pub static FLOWS: Array<FlowSet, 262_144, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
pub static AT_HAND: PerCpuArray<AtHand, 1> = PerCpuArray::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<Counters, { SERVICE_SLOTS + 1 }> = PerCpuArray::new();

#[btf_map]
pub static PEER_COUNTERS: PerCpuArray<PeerCounters, PEER_SLOTS> = PerCpuArray::new();

/// Decisions, while somebody listens.
#[btf_map]
pub static EVENTS: RingBuf<Event, 262_144> = RingBuf::new();
