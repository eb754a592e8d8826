//! What the daemon needs before it changes anything on the host's network.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use balancer_common::types::MAX_INTERFACES;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Options;
use crate::agent::Agents;
use crate::cluster::{self, Assumed, Cluster, Estate, Home, ServerId};
use crate::config::Conversation;
use crate::control::Server;
use crate::datapath::host::{Change, Host};
use crate::datapath::interface::Interface;
use crate::datapath::maps;
use crate::exchange::{self, Audience, Exchange, Key, KeyError, Keyring, clock};
use crate::http::Module;
use crate::run_dir;

/// All that could be checked before the first change, checked.
pub struct Prepared {
    /// What was asked for.
    pub options: Options,
    /// The interfaces to attach to.
    pub interfaces: Vec<Interface>,
    /// The identities whose home is this server.
    pub identities: Vec<ipnet::IpNet>,
    /// Identities of others that the daemon before this one had taken over, and the indices of their interfaces.
    pub assumed: BTreeMap<IpAddr, u32>,
    /// Its id.
    pub id: ServerId,
    /// The conversation with the peers.
    pub exchange: Exchange,
    /// The commands' socket.
    pub control: Server,
    /// The host, and what is to be undone on it.
    pub host: Host,
    /// The services with an `[[http]]`.
    pub http: Module,
    /// Who tells proxies how the services are.
    pub agents: Agents,
    /// The cluster key's file, if there was none.
    pub new_key: Option<NewKey>,
}

/// A key file that was made by this `attach`. Dropped before it is kept, it is removed with its directories: nothing is left of an attach that
/// failed.
pub struct NewKey {
    path: PathBuf,
    /// Directories that were made for it, the innermost first.
    made: Vec<PathBuf>,
    kept: bool,
}

impl Prepared {
    /// Checks what was asked for, and opens what others might have open already.
    pub async fn new(options: Options) -> Result<Self> {
        let config = &options.config;
        if config.server.interfaces.is_empty() {
            bail!(
                "no interface to attach to: name one, as in `balancer attach eth0`, or set server.interfaces in the file"
            );
        }
        if config.server.interfaces.len() > MAX_INTERFACES {
            bail!("balancer can be attached to {MAX_INTERFACES} interfaces at the most");
        }
        let mut interfaces = Vec::new();
        for name in &config.server.interfaces {
            interfaces.push(Interface::find(name.as_str()).await?);
        }
        let id = server_id(config.server.name.as_str(), &interfaces[0]);
        maps::check_layout(&options.pin_dir)?;
        let control = Server::open(&options.control)?;
        let mut host = open_host(&options.pin_dir).await?;
        host.forget_lost().await?;
        let (assumed, adopted) = adopted(&host);
        for interface in &mut interfaces {
            let own = |address: &ipnet::IpNet| !assumed.contains_key(&address.addr());
            interface.addresses.retain(own);
        }
        let identities = identities(&options, &interfaces)?;
        let estate = Estate {
            homes: homes(&options, &host, &interfaces, &identities),
            adopted,
            require: options.config.takeover,
        };
        let (exchange, new_key) = open_exchange(&options, &interfaces, id, estate).await?;
        let http = Module::start(&options.config, exchange.keyring())?;
        let agents = Agents::start(&options.config.services).await?;
        Ok(Self {
            options,
            interfaces,
            identities,
            assumed,
            id,
            exchange,
            control,
            host,
            http,
            agents,
            new_key,
        })
    }

    /// Makes the directory for the pins, on a bpffs; mounts one where there is none.
    pub fn make_pin_dir(&mut self) -> Result<()> {
        let pin_dir = self.options.pin_dir.clone();
        if !on_bpffs(&pin_dir) {
            // The usual place for a bpffs is used for all that is below it; any other directory gets one of its own.
            let usual = Path::new("/sys/fs/bpf");
            let mount_point = if pin_dir.starts_with(usual) {
                usual
            } else {
                &pin_dir
            };
            self.make_dir(mount_point)?;
            self.host
                .record(Change::BpffsMounted(mount_point.to_owned()))?;
            let none: Option<&str> = None;
            nix::mount::mount(
                Some("bpf"),
                mount_point,
                Some("bpf"),
                nix::mount::MsFlags::empty(),
                none,
            )
            .with_context(|| {
                format!(
                    "cannot mount a bpffs on {}; name another place with --pin-dir",
                    mount_point.display()
                )
            })?;
        }
        self.make_dir(&pin_dir)
    }

    /// The identities, and the index of the interface that each is on.
    pub fn held(&self) -> BTreeMap<IpAddr, u32> {
        let on = |address| {
            let has = |interface: &&Interface| interface.ips().any(|own| own == address);
            self.interfaces
                .iter()
                .find(has)
                .unwrap_or(&self.interfaces[0])
                .index
        };
        self.identities
            .iter()
            .map(|identity| (identity.addr(), on(identity.addr())))
            .collect()
    }

    fn make_dir(&mut self, dir: &Path) -> Result<()> {
        for dir in run_dir::missing(dir).iter().rev() {
            self.host.record(Change::DirectoryCreated(dir.clone()))?;
            std::fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(())
    }
}

impl NewKey {
    /// The daemon has started: the key is the cluster's now.
    pub fn keep(mut self) {
        self.kept = true;
        log::warn!(
            "there was no cluster key: made {}. The other servers need the same file, with mode 0600",
            self.path.display()
        );
    }
}

impl Drop for NewKey {
    fn drop(&mut self) {
        if !self.kept {
            // Why `attach` failed is what its user has to know, not that this did, too.
            let _ = std::fs::remove_file(&self.path);
            for dir in &self.made {
                let _ = std::fs::remove_dir(dir);
            }
        }
    }
}

/// The host, with the undo journal of the instance that has its pins in `pin_dir`.
pub async fn open_host(pin_dir: &Path) -> Result<Host> {
    Host::open(&state_file(pin_dir, "undo"))
        .await
        .with_context(|| format!("cannot use {}", pin_dir.display()))
}

/// A file, with this extension, of what the instance that has its pins in `pin_dir` leaves to the next one.
///
/// No two directories have the same: `-` stands for `/`, and what is no letter, digit, dot or underscore is written `%2d`.
pub fn state_file(pin_dir: &Path, extension: &str) -> PathBuf {
    let mut name = String::new();
    for part in pin_dir.components() {
        let (Component::Normal(_) | Component::ParentDir) = part else {
            continue;
        };
        if !name.is_empty() {
            name.push('-');
        }
        for &byte in part.as_os_str().as_bytes() {
            if byte.is_ascii_alphanumeric() || b"._".contains(&byte) {
                name.push(char::from(byte));
            } else {
                name.push_str(&format!("%{byte:02x}"));
            }
        }
    }
    Path::new(run_dir::DEFAULT).join(format!("{name}.{extension}"))
}

fn on_bpffs(dir: &Path) -> bool {
    let Some(existing) = dir.ancestors().find(|dir| dir.exists()) else {
        return false;
    };
    match statfs(existing) {
        Ok(found) => found.filesystem_type() == BPF_FS_MAGIC,
        Err(_) => false,
    }
}

/// The configured identities, or the interfaces' own addresses.
fn identities(options: &Options, interfaces: &[Interface]) -> Result<Vec<ipnet::IpNet>> {
    let configured = &options.config.server.identities;
    let identities: Vec<_> = if configured.is_empty() {
        interfaces
            .iter()
            .flat_map(|interface| &interface.addresses)
            .copied()
            .collect()
    } else {
        configured.iter().map(|identity| identity.net()).collect()
    };
    if identities.is_empty() {
        bail!(
            "{} has no address for clients to use: give it one (`ip addr add`), or name one with --identity ADDR/LEN",
            interfaces[0].name
        );
    }
    Ok(identities)
}

/// What the daemon before this one had taken over, by the host's journal.
fn adopted(host: &Host) -> (BTreeMap<IpAddr, u32>, Vec<Assumed>) {
    let mut interfaces = BTreeMap::new();
    let mut adopted = Vec::new();
    for change in host.changes() {
        if let Change::IdentityAssumed {
            interface,
            identity,
            home,
            term,
        } = change
        {
            interfaces.insert(identity.addr(), *interface);
            adopted.push(Assumed {
                address: *identity,
                home: ServerId(*home),
                term: *term,
            });
        }
    }
    (interfaces, adopted)
}

/// The identities whose home this is. Those that balancer adds go when it ends.
fn homes(
    options: &Options,
    host: &Host,
    interfaces: &[Interface],
    identities: &[ipnet::IpNet],
) -> Vec<Home> {
    let added = |address: IpAddr| {
        host.changes().iter().any(
            |change| matches!(change, Change::IdentityAdded { identity, .. } if identity.addr() == address),
        )
    };
    let there = |address: IpAddr| {
        interfaces
            .iter()
            .flat_map(Interface::ips)
            .any(|own| own == address)
    };
    let home = |&address: &ipnet::IpNet| Home {
        address,
        kept: there(address.addr()) && !added(address.addr()) || options.persist,
    };
    identities.iter().map(home).collect()
}

/// The id goes with name and card, so that a server that restarts is the same one to its peers, and two servers that were
/// given one name are two.
fn server_id(name: &str, interface: &Interface) -> ServerId {
    let mut hash = 0x6261_6c61_6e63_6572; // "balancer"
    for byte in interface.mac.iter().chain(name.as_bytes()) {
        hash = balancer_common::hash::fold(hash ^ u64::from(*byte));
    }
    // 0 is no server.
    ServerId(hash.max(1))
}

async fn open_exchange(
    options: &Options,
    interfaces: &[Interface],
    id: ServerId,
    estate: Estate,
) -> Result<(Exchange, Option<NewKey>)> {
    let config = &options.config;
    let interface = match &config.exchange.interface {
        Some(name) => Interface::find(name.as_str())
            .await
            .context("exchange.interface")?,
        None => interfaces[0].clone(),
    };
    let audience = match &config.exchange.conversation {
        Conversation::Group(group) => Audience::Group(*group),
        Conversation::Peers(peers) => {
            let own: Vec<IpAddr> = interfaces
                .iter()
                .chain([&interface])
                .flat_map(Interface::ips)
                .collect();
            let others = peers.iter().filter(|peer| !own.contains(&peer.ip()));
            Audience::Peers {
                port: peers[0].port(),
                addresses: others.copied().collect(),
            }
        }
    };
    let options = cluster::Options {
        me: id,
        boot: getrandom::u64().context("the kernel gives no random number")?,
        name: config.server.name.as_str().to_owned(),
        period: config.exchange.period,
        timeout_periods: config.exchange.timeout_periods,
        estate,
    };
    let cluster = Cluster::new(clock::monotonic(), options);
    let (keyring, new_key) = keyring(&config.exchange.keys)?;
    let options = exchange::Options {
        interface: exchange::Interface {
            name: interface.name,
            index: interface.index,
        },
        audience,
        keyring,
    };
    Ok((Exchange::open(options, cluster)?, new_key))
}

/// The keys in these files.
pub fn load_keys(paths: &[PathBuf]) -> Result<Keyring> {
    let keys: Vec<_> = paths
        .iter()
        .map(|path| Key::load(path))
        .collect::<Result<_, _>>()?;
    ring(&keys)
}

/// The keys, and the file of the one that was made because there was none.
fn keyring(paths: &[PathBuf]) -> Result<(Keyring, Option<NewKey>)> {
    let mut keys = Vec::new();
    let mut new = None;
    for path in paths {
        let key = match Key::load(path) {
            Err(KeyError::Missing(_)) if paths.len() == 1 => {
                let made = path.parent().map(run_dir::missing).unwrap_or_default();
                let key = Key::generate_file(path)?;
                new = Some(NewKey {
                    path: path.clone(),
                    made,
                    kept: false,
                });
                key
            }
            loaded => loaded?,
        };
        keys.push(key);
    }
    Ok((ring(&keys)?, new))
}

fn ring(keys: &[Key]) -> Result<Keyring> {
    let (first, others) = keys.split_first().context("no key file is configured")?;
    Ok(Keyring::new(first, others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pin_directory_has_a_journal_of_its_own() {
        let file = |pin_dir: &str| state_file(Path::new(pin_dir), "undo");
        let name = |pin_dir: &str| file(pin_dir).display().to_string();
        assert_eq!(
            name("/sys/fs/bpf/balancer"),
            "/run/balancer/sys-fs-bpf-balancer.undo"
        );
        assert_eq!(name("/a/b/"), name("/a/b"));
        let others = ["/a-b", "/a/b", "/a%2db", "/a_b", "/a b", "/ab", "/a/../b"].map(name);
        let different: std::collections::BTreeSet<_> = others.iter().collect();
        assert_eq!(different.len(), others.len(), "{others:?}");
    }
}
