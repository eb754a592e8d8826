//! The programs in the kernel: load, pin, attach, and keep their maps in step with the cluster.
//!
//! Everything is pinned, so that it goes on when the daemon ends and the next one takes it over.

pub mod connections;
pub mod explain;
pub mod flows;
pub mod host;
pub mod interface;
pub mod link_watch;
pub mod maps;
mod netns;
pub mod own;
pub mod peers;
pub mod recovered;
pub mod tables;
pub mod trace;
pub mod way;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{
    CgroupAttachMode, Program, ProgramError, ProgramInfo, SockOps, Xdp, XdpMode, loaded_programs,
};
use aya::{Ebpf, EbpfLoader};

use balancer_common::table::WAYS;

use self::interface::{Interface, XdpState};
use self::maps::{MAPS, Maps};

/// Name of the program that decides on packets.
pub const STEER: &str = "steer";
/// Name of the program that counts connections.
pub const COUNT_CONNECTIONS: &str = "count_connections";

/// Names of the pinned links; an interface's name follows the first.
const XDP_LINK: &str = "link_xdp_";
const SOCK_OPS_LINK: &str = "link_sock_ops";

/// How the XDP program is asked to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Native where it is known to work, else generic.
    Auto,
    /// In the driver.
    Native,
    /// In the network stack, slower; works on any interface.
    Generic,
}

/// How many flows the tables of new maps hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Of `FLOWS`: flows that are steered, and UDP's that are kept. Rounded up to a power of two.
    pub flows: u32,
}

impl Default for Tables {
    fn default() -> Self {
        Self { flows: 1_048_576 }
    }
}

impl Tables {
    fn flow_sets(self) -> u32 {
        self.flows.div_ceil(WAYS as u32).next_power_of_two()
    }
}

/// The loaded programs.
pub struct Datapath {
    programs: Ebpf,
    pin_dir: PathBuf,
    /// Their maps.
    pub maps: Maps,
}

impl Datapath {
    /// Loads the programs; their maps are those pinned in `pin_dir`, or new ones that are pinned there, of which `tables`
    /// says how large they are.
    pub fn load(pin_dir: &Path, tables: Tables) -> Result<Self> {
        maps::check_layout(pin_dir)?;
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("FLOWS", tables.flow_sets());
        for (name, ..) in MAPS {
            loader.map_pin_path(name, pin_dir.join(name));
        }
        let flows = flows_pin(pin_dir)?;
        loader.map_pin_path("FLOWS", &flows);
        let mut programs = loader
            .load(aya::include_bytes_aligned!(concat!(
                env!("OUT_DIR"),
                "/balancer-ebpf"
            )))
            .context("cannot load the BPF maps. balancer needs root and Linux 6.1 or later")?;
        fs::remove_file(&flows).with_context(|| format!("cannot remove {}", flows.display()))?;
        #[cfg(feature = "packet-log")]
        log_packets(&mut programs)?;
        load_program::<Xdp>(&mut programs, STEER, Xdp::load)?;
        load_program::<SockOps>(&mut programs, COUNT_CONNECTIONS, SockOps::load)?;
        Ok(Self {
            programs,
            pin_dir: pin_dir.to_owned(),
            maps: Maps::open(pin_dir)?,
        })
    }

    /// The loaded program called `name`: [`STEER`] or [`COUNT_CONNECTIONS`].
    pub fn program(&self, name: &str) -> Result<&Program> {
        self.programs
            .program(name)
            .with_context(|| no_program(name))
    }

    /// Attaches the XDP program to `interface`, or puts it in the place of a predecessor's in one step. Returns how it is
    /// attached now.
    pub fn attach(&mut self, interface: &Interface, mode: Mode) -> Result<XdpState> {
        let pin = xdp_link_pin(&self.pin_dir, &interface.name);
        if let Some(link) = pinned_link(&pin)? {
            if !fits(interface.xdp, mode) {
                bail!(
                    "{} is attached in {} mode by the balancer before this one. To change the mode, end it first with \
                     `balancer detach {0}`; flows that are steered now will end",
                    interface.name,
                    interface.xdp.name()
                );
            }
            return self.replace(interface, link);
        }
        if interface.xdp != XdpState::None {
            bail!(
                "{} has an XDP program already, and it isn't balancer's. See `ip link show {0}` and `bpftool net`; remove \
                 it with `ip link set {0} xdp off`, then attach again",
                interface.name
            );
        }
        let native = match mode {
            Mode::Generic => false,
            Mode::Auto if interface.veth => {
                log::warn!(
                    "{0}: is a veth, where native mode needs settings at its other end: attaching in generic mode. \
                     `balancer doctor {0} --mode native` says which; with them, `--mode native`",
                    interface.name
                );
                false
            }
            Mode::Native | Mode::Auto => true,
        };
        if native {
            match self.attach_new(interface, XdpMode::Driver, &pin) {
                Ok(()) => return Ok(XdpState::Native),
                Err(error) if mode == Mode::Native => {
                    return Err(error.context(format!(
                        "cannot attach to {0} in native mode. `balancer doctor {0} --mode native` looks for the cause; \
                         `--mode generic` works on any interface",
                        interface.name
                    )));
                }
                Err(error) => log::warn!(
                    "{}: native mode doesn't work here ({error:#}): attaching in generic mode, which is slower",
                    interface.name
                ),
            }
        }
        self.attach_new(interface, XdpMode::Skb, &pin)
            .with_context(|| format!("cannot attach to {} in generic mode", interface.name))?;
        Ok(XdpState::Generic)
    }

    /// Attaches the program that counts connections, unless a predecessor's that is the same one is there.
    pub fn count_connections(&mut self) -> Result<()> {
        let pin = self.pin_dir.join(SOCK_OPS_LINK);
        let program: &mut SockOps = program(&mut self.programs, COUNT_CONNECTIONS)?;
        if let Some(link) = pinned_link(&pin)? {
            let attached = FdLink::from(link)
                .info()
                .map(|info| info.program_id())
                .context("cannot ask for the attached sock_ops program")?;
            let new = program.info()?.tag();
            let same = loaded_programs()
                .filter_map(Result::ok)
                .any(|other| other.id() == attached && other.tag() == new);
            if same {
                return Ok(());
            }
            fs::remove_file(&pin)?;
        }
        let cgroup = cgroup_root().context("cannot open the root of cgroup v2")?;
        let link = program
            // As a link it stands beside others' programs whatever the mode, and the kernel wants none.
            .attach(cgroup, CgroupAttachMode::Single)
            .context("cannot attach the program that counts connections to cgroup v2")?;
        let link: FdLink = program.take_link(link)?.try_into()?;
        link.pin(&pin)
            .with_context(|| format!("cannot pin {}", pin.display()))?;
        Ok(())
    }

    /// Takes over a predecessor's link.
    fn replace(&mut self, interface: &Interface, link: PinnedLink) -> Result<XdpState> {
        let program: &mut Xdp = program(&mut self.programs, STEER)?;
        let link = program
            .attach_to_link(XdpLink::try_from(FdLink::from(link))?)
            .with_context(|| format!("cannot replace the program on {}", interface.name))?;
        // The pin holds the link; what is taken here may be closed.
        drop(program.take_link(link)?);
        Ok(interface.xdp)
    }

    fn attach_new(&mut self, interface: &Interface, mode: XdpMode, pin: &Path) -> Result<()> {
        let program: &mut Xdp = program(&mut self.programs, STEER)?;
        let link = program.attach_to_if_index(interface.index, mode)?;
        let link: FdLink = program
            .take_link(link)?
            .try_into()
            .map_err(|error: LinkError| {
                anyhow!(error).context("this kernel has no BPF links for XDP")
            })?;
        link.pin(pin)
            .with_context(|| format!("cannot pin {}", pin.display()))?;
        Ok(())
    }
}

/// Names of the interfaces that programs pinned in `pin_dir` are attached to.
pub fn attached(pin_dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(pin_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", pin_dir.display()));
        }
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if let Some(interface) = name.to_str().and_then(|name| name.strip_prefix(XDP_LINK)) {
            names.push(interface.replace(':', "."));
        }
    }
    Ok(names)
}

/// The XDP program that is attached, by links that are pinned in `pin_dir`.
pub fn attached_program(pin_dir: &Path) -> Result<ProgramInfo> {
    let name = attached(pin_dir)?
        .into_iter()
        .next()
        .with_context(|| format!("no balancer is attached by {}", pin_dir.display()))?;
    let link = pinned_link(&xdp_link_pin(pin_dir, &name))?
        .with_context(|| format!("{name} has just been detached"))?;
    let id = FdLink::from(link).info()?.program_id();
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .with_context(|| format!("the program on {name} has just gone"))
}

/// Paths of all pins in `pin_dir` of a balancer that is attached to `interfaces`.
pub fn pins(pin_dir: &Path, interfaces: &[Interface]) -> Vec<PathBuf> {
    let links = interfaces
        .iter()
        .map(|interface| xdp_link_pin(pin_dir, &interface.name));
    let maps = MAPS.iter().map(|(name, ..)| pin_dir.join(name));
    // FLOWS is there while the programs are loaded.
    maps.chain(["FLOWS", SOCK_OPS_LINK].map(|name| pin_dir.join(name)))
        .chain(links)
        .collect()
}

/// Whether an interface that a predecessor attached to is attached as `mode` asks for.
fn fits(state: XdpState, mode: Mode) -> bool {
    match mode {
        Mode::Auto => state != XdpState::None,
        Mode::Native => state == XdpState::Native,
        Mode::Generic => state == XdpState::Generic,
    }
}

/// A pin's name must not have a dot (bpffs keeps those), and no interface's name has a colon.
fn xdp_link_pin(pin_dir: &Path, interface: &str) -> PathBuf {
    pin_dir.join(format!("{XDP_LINK}{}", interface.replace('.', ":")))
}

fn pinned_link(pin: &Path) -> Result<Option<PinnedLink>> {
    if !pin.exists() {
        return Ok(None);
    }
    PinnedLink::from_pin(pin)
        .map(Some)
        .with_context(|| format!("cannot open the pinned link {}", pin.display()))
}

fn program<'a, P>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = programs
        .program_mut(name)
        .with_context(|| no_program(name))?;
    Ok(program.try_into()?)
}

fn no_program(name: &str) -> String {
    format!("the BPF object has no program `{name}`")
}

/// Where FLOWS is pinned while a program is loaded, which thereby goes on with a predecessor's.
fn flows_pin(pin_dir: &Path) -> Result<PathBuf> {
    let pin = pin_dir.join("FLOWS");
    if pin.exists() {
        // Of one that was killed just then.
        fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))?;
    }
    if let Some(map) = maps::unpinned(pin_dir, "FLOWS")? {
        map.pin(&pin)
            .with_context(|| format!("cannot pin FLOWS at {}", pin.display()))?;
    }
    Ok(pin)
}

fn load_program<'a, P>(
    programs: &'a mut Ebpf,
    name: &str,
    load: impl Fn(&mut P) -> Result<(), ProgramError>,
) -> Result<()>
where
    P: 'a,
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    // The kernel gives up with EAGAIN where anything wakes the thread meanwhile (bpf_check looks for pending signals, and a
    // program of this size takes it milliseconds). libbpf tries as often.
    const TRIES: usize = 5;
    let program: &mut P = program(programs, name)?;
    let interrupted = |result: &Result<(), ProgramError>| {
        matches!(result, Err(ProgramError::LoadError { io_error, .. })
            if io_error.kind() == io::ErrorKind::WouldBlock)
    };
    let mut result = load(program);
    for _ in 1..TRIES {
        if !interrupted(&result) {
            break;
        }
        result = load(program);
    }
    match result {
        Ok(()) => Ok(()),
        Err(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) => {
            log::debug!("the verifier on `{name}`:\n{verifier_log}");
            Err(io_error).with_context(|| {
                format!(
                    "the kernel refuses the BPF program `{name}`. balancer needs root and Linux 6.1 or later (this is {}; \
                     `balancer doctor` says more); the verifier's words are in the log with RUST_LOG=debug",
                    kernel_release()
                )
            })
        }
        Err(error) => Err(error).with_context(|| format!("cannot load the BPF program `{name}`")),
    }
}

/// Prints what the programs log. Must be called before they are loaded, inside a tokio runtime.
#[cfg(feature = "packet-log")]
fn log_packets(programs: &mut Ebpf) -> Result<()> {
    // The logger owns the ring buffer that the programs write to: it must outlive them.
    let logger = aya_log::EbpfLogger::init(programs).context("cannot read the programs' log")?;
    let mut logger =
        tokio::io::unix::AsyncFd::with_interest(logger, tokio::io::Interest::READABLE)?;
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}

fn kernel_release() -> String {
    nix::sys::utsname::uname().map_or_else(
        |_| "an unknown one".to_owned(),
        |names| names.release().to_string_lossy().into_owned(),
    )
}

/// The root of the cgroup v2 hierarchy, by a mount that nobody else sees: it works wherever, or whether, the host has
/// mounted its own.
fn cgroup_root() -> io::Result<std::os::fd::OwnedFd> {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen,
    };
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}
