//! A service as the command line has it.

use std::str::FromStr;

use toml_edit::value;

use super::{
    level::{Level, Levels, Margin, PolicyName},
    ports::PortRange,
    service::{Affinity, Capacity, Service},
    value::{Name, ValueError},
};

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
            capacity_rate: None,
            affinity: Affinity::Flow,
            levels: levels.or(self.overload, self.margin, self.policy),
            agent: None,
            check: None,
        }
    }
}

impl ServiceSpec {
    /// As the file would have it.
    pub(super) fn table(&self) -> toml_edit::Table {
        let mut table = toml_edit::Table::new();
        let ports = self.ports.iter().map(ToString::to_string);
        table["name"] = value(self.name.as_str());
        table["ports"] = value(ports.collect::<toml_edit::Array>());
        table["capacity"] = value(i64::from(self.capacity.0.get()));
        if let Some(overload) = self.overload {
            table["overload"] = value(overload.to_string());
        }
        if let Some(margin) = self.margin {
            table["margin"] = value(margin.level().to_string());
        }
        if let Some(policy) = self.policy {
            table["policy"] = value(policy.policy().name());
        }
        table
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

impl FromStr for ServiceSpec {
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
        let named = "a service with a short name: its ports are more than 64 bytes, add a name, as in \"name=www\"";
        let name = match name {
            Some(name) => name,
            None => ports_text
                .join(",")
                .parse()
                .map_err(|_| ValueError::new(text, named))?,
        };
        Ok(Self {
            name,
            ports,
            capacity: capacity.unwrap_or_default(),
            overload,
            margin,
            policy,
        })
    }
}

fn once<T: FromStr<Err = ValueError>>(
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
