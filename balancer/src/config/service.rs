//! A service, from the file or from `--service`.

use std::num::NonZeroU32;

use balancer_common::types::MAX_SERVICES;

use super::{
    Check,
    level::{Level, Levels, Margin, PolicyName},
    ports::{PortRange, Protocol},
    value::{Name, Value, ValueError, value},
};

value!(Affinity, Capacity);

/// A service that this server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What it is called: no two of a server's services have the same name.
    pub name: Name,
    /// Its ports: at least one, and none that another service has.
    pub ports: Vec<PortRange>,
    /// How many open connections mean a load of 100 %.
    pub capacity: NonZeroU32,
    /// What stays together on one server.
    pub affinity: Affinity,
    /// When this server keeps a new flow, and who gets it else.
    pub levels: Levels,
    /// How it is checked. A service without a check counts as healthy.
    pub check: Option<Check>,
}

/// What stays together on one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// The packets of one flow.
    #[default]
    Flow,
}

impl Value for Affinity {
    const WANTED: &'static str = "an affinity of this version: write \"flow\" or leave the line out (\"client\" is not supported yet)";

    fn read(text: &str) -> Option<Self> {
        (text == "flow").then_some(Self::Flow)
    }
}

/// Open connections that mean a load of 100 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity(pub(super) NonZeroU32);

impl Capacity {
    /// With more than this, one connection would cost too little for the kernel to count (see `Service::cost` of the maps).
    const MAX: u32 = 100_000_000;
}

impl Default for Capacity {
    fn default() -> Self {
        const { Self(NonZeroU32::new(1_000).unwrap()) }
    }
}

impl Value for Capacity {
    const WANTED: &'static str = "a capacity: write a whole number from 1 to 100000000, the open connections that mean 100 %";
    const QUOTED: bool = false;

    fn read(text: &str) -> Option<Self> {
        text.parse()
            .ok()
            .filter(|capacity: &NonZeroU32| capacity.get() <= Self::MAX)
            .map(Self)
    }
}

/// `--service`: ports and options, separated by commas, as in `80/tcp,443/tcp,name=www,capacity=20,policy=least-load`.
/// The options are `name`, `capacity`, `policy`, `overload` and `margin`. The name is the ports' text, if not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    name: Name,
    ports: Vec<PortRange>,
    capacity: Capacity,
    overload: Option<Level>,
    margin: Option<Margin>,
    policy: Option<PolicyName>,
}

impl ServiceSpec {
    /// The service, with `levels` where the text gives none.
    pub(super) fn resolve(self, levels: Levels) -> Service {
        Service {
            name: self.name,
            ports: self.ports,
            capacity: self.capacity.0,
            affinity: Affinity::Flow,
            levels: levels.or(self.overload, self.margin, self.policy),
            check: None,
        }
    }
}

impl Default for ServiceSpec {
    /// `80/tcp,443/tcp,name=www,capacity=1000`.
    fn default() -> Self {
        Self {
            name: Name::www(),
            ports: vec![PortRange::tcp(80), PortRange::tcp(443)],
            capacity: Capacity::default(),
            overload: None,
            margin: None,
            policy: None,
        }
    }
}

impl std::str::FromStr for ServiceSpec {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (mut ports, mut ports_text) = (Vec::new(), Vec::new());
        let (mut name, mut capacity, mut overload, mut margin, mut policy) =
            (None, None, None, None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                None => {
                    ports.push(part.parse()?);
                    ports_text.push(part);
                }
                Some(("name", value)) => once(&mut name, value, part)?,
                Some(("capacity", value)) => once(&mut capacity, value, part)?,
                Some(("overload", value)) => once(&mut overload, value, part)?,
                Some(("margin", value)) => once(&mut margin, value, part)?,
                Some(("policy", value)) => once(&mut policy, value, part)?,
                Some(_) => {
                    let options = "an option of a service: write name=, capacity=, policy=, overload= or margin=";
                    return Err(ValueError::new(part, options));
                }
            }
        }
        if ports.is_empty() {
            let service = "a service: write its ports first, as in \"80/tcp,443/tcp,name=www\"";
            return Err(ValueError::new(text, service));
        }
        Ok(Self {
            name: name.map_or_else(|| ports_text.join(",").parse(), Ok)?,
            ports,
            capacity: capacity.unwrap_or_default(),
            overload,
            margin,
            policy,
        })
    }
}

fn once<T: std::str::FromStr<Err = ValueError>>(
    slot: &mut Option<T>,
    value: &str,
    part: &str,
) -> Result<(), ValueError> {
    match slot.replace(value.parse()?) {
        None => Ok(()),
        Some(_) => Err(ValueError::new(
            part,
            "the first of its kind: give each option once",
        )),
    }
}

/// Why services that are each well written don't do.
pub(super) struct Conflict {
    /// Index of the service that is to be changed.
    pub(super) service: usize,
    /// Index among its ports, where the fault is with them.
    pub(super) ports: Option<usize>,
    pub(super) message: String,
}

/// Whether a server can offer all of these services.
pub(super) fn agree(services: &[Service]) -> Result<(), Conflict> {
    for (index, service) in services.iter().enumerate() {
        let fault = |ports, message| {
            Err(Conflict {
                service: index,
                ports,
                message,
            })
        };
        if index >= MAX_SERVICES as usize {
            return fault(
                None,
                format!("a server can offer {MAX_SERVICES} services: leave out those from here on"),
            );
        }
        if services[..index]
            .iter()
            .any(|earlier| earlier.name == service.name)
        {
            return fault(
                None,
                format!(
                    "there already is a service \"{}\": give this one another name",
                    service.name
                ),
            );
        }
        for (position, range) in service.ports.iter().enumerate() {
            if range.protocol == Protocol::Udp {
                let message = format!(
                    "\"{range}\": UDP services are not supported yet: write tcp ports or leave it out"
                );
                return fault(Some(position), message);
            }
            if let Some(other) = service.ports[..position]
                .iter()
                .find(|other| other.overlaps(*range))
            {
                return fault(
                    Some(position),
                    format!("\"{range}\" overlaps \"{other}\" of the same service: leave one out"),
                );
            }
            let taken = |earlier: &Service| {
                let other = earlier.ports.iter().find(|other| other.overlaps(*range))?;
                Some(format!(
                    "\"{range}\" overlaps \"{other}\" of service \"{}\": a port is for one service",
                    earlier.name
                ))
            };
            if let Some(message) = services[..index].iter().find_map(taken) {
                return fault(Some(position), message);
            }
        }
    }
    Ok(())
}
