//! The maps. The daemon pins each under its name; `bpftool map dump pinned` prints them with field names.
//!
//! The daemon writes SETTINGS, PORTS, SERVICES, IDENTITIES, PEERS, PEER_MACS and LOADS (but for `sent`); the programs write
//! the rest.

use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use balancer_common::types::{
    Address, Connections, Counters, Flow, FlowKey, Identity, MAX_PEERS, MAX_SERVICES, Mac, Peer,
    PeerCounters, PeerLoad, Port, Service, Settings,
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

/// Flows of which only first packets were seen: a SYN flood evicts nothing but these.
#[btf_map]
pub static HALF_OPEN: LruHashMap<FlowKey, Flow, 65_536> = LruHashMap::new();

#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, Flow, 1_048_576> = LruHashMap::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<Counters, { SERVICE_SLOTS + 1 }> = PerCpuArray::new();

#[btf_map]
pub static PEER_COUNTERS: PerCpuArray<PeerCounters, PEER_SLOTS> = PerCpuArray::new();
