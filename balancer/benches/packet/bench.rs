//! The servers that packets are given to, and the runs.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, include_bytes_aligned};
use balancer::datapath::{Datapath, STEER, Tables};
use balancer_common::bench::{HEAD_WORDS, Variation};
use balancer_common::decide::Policy;
use balancer_common::table::Flow;
use balancer_common::types::{Address, FAMILY_V6, FOREIGN, Identity, MAX_PEERS, Service};

use crate::cases::{Case, Flows, HERE, HERE_V6, Others};
use crate::frame::{FIRST, SECOND, Segment};
use crate::server::{PEER_ADDRESS, PEER_ADDRESS_V6, Server, WWW};

/// Packets of a case in each round.
const REPEAT: u32 = 262_144;
/// Flows that go on before the next ones begin.
const PORTION: u32 = 4_096;
/// Open flows in a FLOWS that is full: half its places; the others are half open.
const FULL: u32 = 524_288;

/// First client of the flows that fill FLOWS.
const OLD: Ipv4Addr = Ipv4Addr::new(30, 0, 0, 0);
/// First client of the new flows.
const NEW: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 0);
/// Own load while tables are filled, in basis points: everything is steered.
const OVERLOADED: u32 = 9_000;

/// Slots of PROGRAMS.
const EMPTY: u32 = 0;
const SPARSE_STEER: u32 = 1;
const FULL_STEER: u32 = 2;

/// Nanoseconds per packet.
#[derive(Default)]
pub struct Time {
    /// With the measured program.
    pub measured: i32,
    /// With an empty one in its place.
    pub outer: i32,
}

/// All that it takes.
pub struct Bench {
    /// With an almost empty FLOWS, and with a full one.
    servers: [Server; 2],
    outer: Ebpf,
    variation: Array<MapData, Variation>,
    /// Holds the measured programs.
    _programs: ProgramArray<MapData>,
    /// What the packets' first hops find when they ask for a socket: the service.
    _listener: TcpListener,
    /// Number of the next new flow.
    next: u32,
}

impl Bench {
    /// Loads and fills everything.
    pub fn new() -> Result<Self> {
        let servers = [server()?, server()?];
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80))?;
        let mut outer = Ebpf::load(include_bytes_aligned!(concat!(
            env!("OUT_DIR"),
            "/balancer-bench"
        )))?;
        for name in ["vary", "empty"] {
            let program: &mut Xdp = outer.program_mut(name).context(name)?.try_into()?;
            program.load()?;
        }
        let take = |outer: &mut Ebpf, name| outer.take_map(name).context(name);
        let variation = Array::try_from(take(&mut outer, "VARIATION")?)?;
        let mut programs = ProgramArray::try_from(take(&mut outer, "PROGRAMS")?)?;
        programs.set(EMPTY, program(&outer, "empty")?.fd()?, 0)?;
        for (slot, server) in [SPARSE_STEER, FULL_STEER].into_iter().zip(&servers) {
            programs.set(slot, steer(&server.datapath)?, 0)?;
        }
        let mut bench = Self {
            servers,
            outer,
            variation,
            _programs: programs,
            _listener: listener,
            next: 0,
        };
        bench.fill()?;
        Ok(bench)
    }

    /// Instructions that the verifier went through to accept the measured program.
    pub fn verified(&self) -> Result<u32> {
        let info = self.servers[0].datapath.program(STEER)?.info()?;
        info.verified_instruction_count()
            .context("the kernel is older than 5.16")
    }

    /// Nanoseconds that an empty program takes, given to the kernel as it is.
    pub fn empty(&self) -> Result<i32> {
        test_run(program(&self.outer, "empty")?, &FIRST.frame(), REPEAT)
    }

    /// One round of a case.
    pub fn measure(&mut self, case: &Case) -> Result<Time> {
        self.server(case.others).set_own_load(case.load);
        set_peers(self.server(case.others), case.peers, case.tunnel);
        // One client for each history, lest a case find what another one has left.
        let known = Ipv4Addr::new(198, 51, 100, case.history.len() as u8);
        let (client, mask, step, flows) = match (case.flows, case.others) {
            (Flows::One, _) => (known, 0, 1, 1),
            (Flows::Many, Others::None) => (known, 0xffff, 1, 65_536),
            // Spread over the memory of a table that is full, as on a server that has run for a while.
            (Flows::Many, Others::Full) => (OLD, FULL - 1, FULL / 65_536, 65_536),
            (Flows::New, _) => (NEW, u32::MAX, 1, REPEAT),
        };
        // New flows must go on before FLOWS gives their places to the next.
        let (portion, portions) = if case.flows == Flows::New && !case.history.is_empty() {
            (PORTION, 4u8)
        } else {
            (REPEAT, 1)
        };
        let before = self.counted(case)?;
        let (mut time, mut prepared) = (Time::default(), 0);
        for _ in 0..portions {
            let run = Variation {
                client: client.to_bits(),
                next: self.next,
                step,
                mask,
                program: slot(case.others),
                ..Variation::default()
            };
            let flows = flows.min(portion);
            self.next = self.next.wrapping_add(flows);
            let counted = self.counted(case)?;
            self.pass(&case.history, run, flows)?;
            prepared += self.counted(case)? - counted;
            let idle = Variation {
                program: EMPTY,
                ..run
            };
            time.outer += self.run(&case.frame, case.enclosed, idle, portion)?;
            time.measured += self.run(&case.frame, case.enclosed, run, portion)?;
        }
        self.forget_new(case.others)?;
        let counted = self.counted(case)? - before - prepared;
        let packets = portion * u32::from(portions);
        // In a full table a few flows of ten thousand lose their places to others, or find none.
        let lost = match case.others {
            Others::None => 0,
            Others::Full => packets / 1_000,
        };
        ensure!(
            (packets - lost..=packets).contains(&(counted as u32)),
            "{}: of {packets} packets, `{}` counted {counted}: the others went another way",
            case.name,
            case.counter
        );
        Ok(Time {
            measured: time.measured / i32::from(portions),
            outer: time.outer / i32::from(portions),
        })
    }

    /// Gives each server a FLOWS that has seen many flows begin, and one of them a full one.
    fn fill(&mut self) -> Result<()> {
        for (others, history, client, mask, flows) in [
            (Others::None, &[FIRST][..], NEW, u32::MAX, 128 * PORTION),
            (Others::Full, &[FIRST], NEW, u32::MAX, 128 * PORTION),
            (Others::Full, &[FIRST, SECOND], OLD, FULL - 1, FULL),
        ] {
            self.server(others).set_own_load(OVERLOADED);
            set_peers(self.server(others), 64, 0);
            let run = Variation {
                client: client.to_bits(),
                next: self.next,
                step: 1,
                mask,
                program: slot(others),
                ..Variation::default()
            };
            self.next = self.next.wrapping_add(flows);
            self.pass(history, run, flows)?;
        }
        Ok(())
    }

    /// Lets the new flows that went on be forgotten, lest those of all rounds together fill FLOWS.
    fn forget_new(&mut self, others: Others) -> Result<()> {
        let view = self.server(others).maps().flows.view()?;
        let is_new = |flow: &Flow| {
            let [.., a, b, c, d] = flow.key.client.octets;
            (NEW..OLD).contains(&Ipv4Addr::new(a, b, c, d))
        };
        let new: HashSet<u64> = view
            .flows()
            .filter(|(_, flow)| is_new(flow))
            .map(|(place, _)| place.tag)
            .collect();
        view.forget(|place| new.contains(&place.tag));
        Ok(())
    }

    /// Gives a run's flows these packets, in portions that FLOWS holds for certain.
    fn pass(&mut self, packets: &[Segment], run: Variation, flows: u32) -> Result<()> {
        for start in (0..flows).step_by(PORTION as usize) {
            let portion = Variation {
                next: run.next.wrapping_add(start),
                ..run
            };
            for packet in packets {
                self.run(&packet.frame(), false, portion, PORTION.min(flows - start))?;
            }
        }
        Ok(())
    }

    fn run(&mut self, frame: &[u8], enclosed: bool, run: Variation, repeat: u32) -> Result<i32> {
        let mut frame = frame.to_vec();
        frame.resize(frame.len().max(8 * HEAD_WORDS), 0);
        let (client_at, port_at) = client_in(&frame, enclosed);
        let mut head = [0; HEAD_WORDS];
        for (word, bytes) in head.iter_mut().zip(frame.chunks(8)) {
            *word = u64::from_ne_bytes(bytes.try_into()?);
        }
        let run = Variation {
            head,
            size: frame.len() as u32,
            client_at,
            port_at,
            ..run
        };
        self.variation.set(0, run, 0)?;
        test_run(program(&self.outer, "vary")?, &frame, repeat)
    }

    /// Packets that the case's counter has counted.
    fn counted(&mut self, case: &Case) -> Result<u64> {
        let maps = self.server(case.others).maps();
        let mut counters = maps.counters(None)?;
        counters += maps.counters(Some(WWW))?;
        counters
            .named()
            .find_map(|(name, count)| (name == case.counter).then_some(count))
            .with_context(|| format!("there is no counter `{}`", case.counter))
    }

    fn server(&mut self, others: Others) -> &mut Server {
        let [sparse, full] = &mut self.servers;
        match others {
            Others::None => sparse,
            Others::Full => full,
        }
    }
}

/// A server that neither its flows nor those that it has steered make busier: only what a case says does.
fn server() -> Result<Server> {
    let mut server = Server::with_tables(Tables::default()).context("no privileges")?;
    server.set_service(|service| {
        *service = Service {
            cost: 0,
            policy: Policy::default() as u32,
            ..*service
        };
    });
    for slot in 0..MAX_PEERS {
        server.add_peer(0);
        server.set_load(slot, |report| {
            report.load = 3_100 + slot * 37 % 800;
            report.cost = 0;
        });
        let identity = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 1, 0).to_bits() + slot);
        let foreign = Identity {
            kind: FOREIGN,
            owner: slot,
            grace_until_ns: 0,
        };
        server
            .maps()
            .identities
            .insert(Address::from(identity), foreign, 0)?;
    }
    Ok(server)
}

/// Lets only this many peers be in sight, on the link or behind tunnels. They don't report again, and are on-line all the same.
fn set_peers(server: &mut Server, peers: u32, tunnel: u8) {
    server.peers = peers;
    server.set_settings(|settings| {
        settings.tunnel_v4 = HERE.into();
        settings.tunnel_v6 = IpAddr::from(HERE_V6).into();
    });
    for slot in 0..MAX_PEERS {
        server.set_peer(slot, |peer| {
            peer.timeout_ns = u64::MAX;
            peer.tunnel = tunnel;
            (peer.tunnel_from, peer.tunnel_to) = if tunnel == FAMILY_V6 {
                (
                    IpAddr::from(HERE_V6).into(),
                    IpAddr::from(PEER_ADDRESS_V6).into(),
                )
            } else {
                (HERE.into(), PEER_ADDRESS.into())
            };
        });
    }
}

fn slot(others: Others) -> u32 {
    match others {
        Others::None => SPARSE_STEER,
        Others::Full => FULL_STEER,
    }
}

/// Where the last four bytes of the client's address and its port are.
fn client_in(frame: &[u8], enclosed: bool) -> (u32, u32) {
    const ETHERNET: u32 = 14;
    let ip = if frame[12] == 8 { 20 } else { 40 };
    let outer = if enclosed { ip + 8 } else { 0 };
    let start = ETHERNET + outer;
    let client = if ip == 20 { 12 } else { 20 };
    (start + client, start + ip)
}

fn steer(datapath: &Datapath) -> Result<&ProgramFd> {
    Ok(datapath.program(STEER)?.fd()?)
}

fn program<'a>(programs: &'a Ebpf, name: &'static str) -> Result<&'a Xdp> {
    Ok(programs.program(name).context(name)?.try_into()?)
}

/// Gives the frame to the program `repeat` times; returns nanoseconds for each.
fn test_run(program: &Xdp, frame: &[u8], repeat: u32) -> Result<i32> {
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat,
        ..TestRunOptions::new()
    };
    let result = program
        .test_run(options)
        .context("the kernel refuses a test run")?;
    Ok(result.duration.as_nanos() as i32)
}
