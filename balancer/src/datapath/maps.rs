//! The pinned maps, typed.

use std::fmt::Display;
use std::fs;
use std::io;
use std::ops::AddAssign;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramInfo, loaded_programs};
use balancer_common::types::{
    Address, ClientKey, Connections, Counters, Identity, LastFlow, MAX_PEERS, MAX_SERVICES, Mac,
    Peer, PeerCounters, PeerLoad, Port, Service, Settings,
};

use super::flows::FlowTable;

/// The programs' maps that are pinned: name (also that of the pin), size of a key, size of a value.
///
/// FLOWS and EVENTS aren't: `bpftool map dump` of a ring buffer fails, and of a million places it would print a gigabyte.
pub const MAPS: [(&str, usize, usize); 11] = [
    ("SETTINGS", 4, size_of::<Settings>()),
    ("PORTS", 4, size_of::<Port>()),
    ("SERVICES", 4, size_of::<Service>()),
    ("IDENTITIES", size_of::<Address>(), size_of::<Identity>()),
    ("PEERS", 4, size_of::<Peer>()),
    ("PEER_MACS", size_of::<Mac>(), 4),
    ("LOADS", 4, size_of::<PeerLoad>()),
    ("CONNECTIONS", 4, size_of::<Connections>()),
    ("CLIENTS", size_of::<ClientKey>(), size_of::<LastFlow>()),
    ("COUNTERS", 4, size_of::<Counters>()),
    ("PEER_COUNTERS", 4, size_of::<PeerCounters>()),
];

/// The maps of one instance. See `balancer_common::types` for what they hold.
pub struct Maps {
    /// SETTINGS.
    pub settings: Array<MapData, Settings>,
    /// PORTS.
    pub ports: Array<MapData, Port>,
    /// SERVICES.
    pub services: Array<MapData, Service>,
    /// IDENTITIES.
    pub identities: HashMap<MapData, Address, Identity>,
    /// PEERS.
    pub peers: Array<MapData, Peer>,
    /// `PEER_MACS`.
    pub peer_macs: HashMap<MapData, Mac, u32>,
    loads: Array<MapData, PeerLoad>,
    /// CONNECTIONS.
    pub connections: Array<MapData, Connections>,
    /// CLIENTS.
    pub clients: HashMap<MapData, ClientKey, LastFlow>,
    /// FLOWS.
    pub flows: FlowTable,
    counters: PerCpuArray<MapData, Counters>,
    peer_counters: PerCpuArray<MapData, PeerCounters>,
}

impl Maps {
    /// Opens the maps that are pinned in `pin_dir`.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        let first = pin_dir.join(MAPS[0].0);
        let found = first.try_exists();
        if found
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        {
            bail!(
                "no permission for {}: try again as root (sudo)",
                pin_dir.display()
            );
        }
        if !found.with_context(|| format!("cannot look for {}", first.display()))? {
            bail!(
                "no balancer is attached here: {} holds no maps. Start one with `balancer attach IFACE`, or name its \
                 directory with --pin-dir",
                pin_dir.display()
            );
        }
        check_layout(pin_dir)?;
        Ok(Self {
            settings: open(pin_dir, "SETTINGS")?,
            ports: open(pin_dir, "PORTS")?,
            services: open(pin_dir, "SERVICES")?,
            identities: open(pin_dir, "IDENTITIES")?,
            peers: open(pin_dir, "PEERS")?,
            peer_macs: open(pin_dir, "PEER_MACS")?,
            loads: open(pin_dir, "LOADS")?,
            connections: open(pin_dir, "CONNECTIONS")?,
            clients: open(pin_dir, "CLIENTS")?,
            flows: FlowTable::open(pin_dir)?,
            counters: open(pin_dir, "COUNTERS")?,
            peer_counters: open(pin_dir, "PEER_COUNTERS")?,
        })
    }

    /// Packets of the service at `service`, or with `None` those of no service, summed over all CPUs.
    pub fn counters(&self, service: Option<u32>) -> Result<Counters> {
        let entry = service.map_or(0, |index| index + 1);
        sum(&self.counters, entry)
    }

    /// Flows and packets sent to the peer in slot `peer`.
    pub fn peer_counters(&self, peer: u32) -> Result<PeerCounters> {
        sum(&self.peer_counters, peer)
    }

    /// Bytes of kernel memory that the maps take, those pinned in `pin_dir` and FLOWS.
    pub fn memory(&self, pin_dir: &Path) -> Result<u64> {
        let mut total = memory("FLOWS", self.flows.map())?;
        for (name, ..) in MAPS {
            let map = MapData::from_pin(pin_dir.join(name))
                .with_context(|| format!("cannot open the pinned map {name}"))?;
            total += memory(name, &map)?;
        }
        Ok(total)
    }

    /// Starts the counters of the peer in slot `peer` anew.
    pub fn reset_peer_counters(&mut self, peer: u32) -> Result<()> {
        let cpus =
            aya::util::nr_cpus().map_err(|(file, error)| anyhow!("cannot read {file}: {error}"))?;
        let zeros = PerCpuValues::try_from(vec![PeerCounters::default(); cpus])?;
        self.peer_counters
            .set(peer, zeros, 0)
            .context("cannot write the map PEER_COUNTERS")
    }

    /// What the peer in slot `peer` last said of service `service`.
    pub fn load(&self, peer: u32, service: u32) -> Result<PeerLoad, MapError> {
        self.loads.get(&load_index(peer, service), 0)
    }

    /// Sets what the peer in slot `peer` says of service `service`.
    pub fn set_load(&mut self, peer: u32, service: u32, load: PeerLoad) -> Result<(), MapError> {
        self.loads.set(load_index(peer, service), load, 0)
    }
}

fn load_index(peer: u32, service: u32) -> u32 {
    debug_assert!(peer < MAX_PEERS && service < MAX_SERVICES);
    peer * MAX_SERVICES + service
}

/// Refuses pins that another version of balancer left: their bytes would be misread.
///
/// # Errors
///
/// Names the first map whose layout differs.
pub fn check_layout(pin_dir: &Path) -> Result<()> {
    for (name, key, value) in MAPS {
        let path = pin_dir.join(name);
        if !path.exists() {
            continue;
        }
        let info = MapData::from_pin(&path)
            .and_then(|map| map.info())
            .with_context(|| format!("cannot open the pinned map {}", path.display()))?;
        if (info.key_size() as usize, info.value_size() as usize) != (key, value) {
            return Err(other_version(path.display()));
        }
    }
    Ok(())
}

/// `what` is of another version of balancer's.
pub fn other_version(what: impl Display) -> Error {
    anyhow!(
        "{what} is of another version of balancer. Run `balancer detach IFACE` first; flows that are steered now will end"
    )
}

fn open<T>(pin_dir: &Path, name: &str) -> Result<T>
where
    T: TryFrom<Map, Error = MapError>,
{
    let path = pin_dir.join(name);
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .with_context(|| format!("cannot open the pinned map {}", path.display()))
}

fn memory(name: &str, map: &MapData) -> Result<u64> {
    let fd = map.fd().as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))
        .with_context(|| format!("cannot read how much memory {name} takes"))?;
    let memory = info
        .lines()
        .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    memory.with_context(|| format!("the kernel doesn't say what {name} takes"))
}

/// The map called `name` of the programs whose other maps are pinned in `pin_dir`; `None`: no program is loaded on these.
pub fn unpinned(pin_dir: &Path, name: &str) -> Result<Option<MapData>> {
    let pin = pin_dir.join(MAPS[0].0);
    if !pin.exists() {
        return Ok(None);
    }
    let settings = MapData::from_pin(&pin)
        .and_then(|map| map.info())
        .with_context(|| format!("cannot open the pinned map {}", pin.display()))?
        .id();
    // One that ends meanwhile isn't ours.
    for program in loaded_programs().filter_map(Result::ok) {
        let ids = program.map_ids().ok().flatten().unwrap_or_default();
        if ids.contains(&settings)
            && let Some(map) = map_of(&program, name)?
        {
            return Ok(Some(map));
        }
    }
    Ok(None)
}

/// The map called `name` of a program.
pub fn map_of(program: &ProgramInfo, name: &str) -> Result<Option<MapData>> {
    let ids = program
        .map_ids()
        .context("cannot ask for a program's maps")?;
    // One that ends meanwhile isn't ours.
    for map in ids
        .into_iter()
        .flatten()
        .filter_map(|id| MapData::from_id(id).ok())
    {
        if map.info()?.name_as_str() == Some(name) {
            return Ok(Some(map));
        }
    }
    Ok(None)
}

fn sum<T: Pod + Default + AddAssign>(map: &PerCpuArray<MapData, T>, index: u32) -> Result<T> {
    let values = map.get(&index, 0).context("cannot read the counters")?;
    let mut total = T::default();
    for value in values.iter() {
        total += *value;
    }
    Ok(total)
}
