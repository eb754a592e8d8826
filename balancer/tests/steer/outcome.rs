//! What the program does with single packets, and what of it tests expect.

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use balancer::datapath::STEER;
use balancer_common::types::{Connections, MAX_SERVICES, PeerCounters};

use crate::frame::Segment;
use crate::server::{Server, WWW, mac_of};

/// What a program tells the kernel to do (`enum xdp_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Drop,
    Pass,
    Tx,
    Redirect,
}

/// What came of one packet, and all that was counted for it.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub action: Action,
    pub frame: Vec<u8>,
    /// Counters that moved: service (none: of no service), name, by how much.
    pub counted: Vec<(Option<u32>, &'static str, u64)>,
    /// Peers that something was sent to, with flows and packets.
    pub sent: Vec<(u32, PeerCounters)>,
    /// First packets of WWW that are part of this server's load now.
    pub arrived: u64,
    /// Flows of WWW that were steered away.
    pub steered: u64,
}

/// Counters of flows that are steered from now on.
const NEW: [&str; 3] = ["steered_new", "steered_not_ready", "steered_by_affinity"];

impl Server {
    /// The frame goes to the local stack as it is, counted by `counter` alone.
    #[track_caller]
    pub fn passes(&mut self, frame: &[u8], service: Option<u32>, counter: &'static str) {
        self.stays(frame, service, counter, 0);
    }

    /// As `passes` for WWW, and it is a first packet that is part of the load from now on.
    #[track_caller]
    pub fn admits(&mut self, segment: &Segment, counter: &'static str) {
        self.stays(&segment.frame(), Some(WWW), counter, 1);
    }

    /// The packet of WWW is sent on to a peer: nothing but its Ethernet addresses and its hop limit changes.
    #[track_caller]
    pub fn steers(&mut self, segment: &Segment, slot: u32, counter: &'static str) {
        let new = u64::from(NEW.contains(&counter));
        let sent_before = self.sent(slot);
        let readdressed = Segment {
            to_mac: mac_of(slot),
            from_mac: segment.to_mac,
            hops: segment.hops - 1,
            ..*segment
        };
        let expected = Outcome {
            action: Action::Tx,
            frame: readdressed.frame(),
            counted: vec![(Some(WWW), counter, 1)],
            sent: vec![(
                slot,
                PeerCounters {
                    flows: new,
                    packets: 1,
                },
            )],
            arrived: 0,
            steered: new,
        };
        assert_eq!(self.receive(&segment.frame()), expected);
        assert_eq!(u64::from(self.sent(slot) - sent_before), new);
    }

    /// The frame is dropped, counted by `counter` alone.
    #[track_caller]
    pub fn drops(&mut self, frame: &[u8], service: Option<u32>, counter: &'static str) {
        let outcome = self.receive(frame);
        assert_eq!(outcome.action, Action::Drop);
        assert_eq!(outcome.counted, [(service, counter, 1)]);
    }

    #[track_caller]
    fn stays(&mut self, frame: &[u8], service: Option<u32>, counter: &'static str, arrived: u64) {
        let expected = Outcome {
            action: Action::Pass,
            frame: frame.to_vec(),
            counted: vec![(service, counter, 1)],
            sent: vec![],
            arrived,
            steered: 0,
        };
        assert_eq!(self.receive(frame), expected);
    }

    /// Gives the frame to the program.
    pub fn receive(&mut self, frame: &[u8]) -> Outcome {
        let before = self.counts();
        let (action, frame) = self.run(frame);
        let after = self.counts();
        let counted = after
            .counters
            .iter()
            .zip(before.counters)
            .map(|(&(service, name, count), (.., before))| (service, name, count - before))
            .filter(|(.., count)| *count > 0)
            .collect();
        let sent = (0..)
            .zip(after.peers.iter().zip(before.peers))
            .map(|(slot, (count, before))| {
                let sent = PeerCounters {
                    flows: count.flows - before.flows,
                    packets: count.packets - before.packets,
                };
                (slot, sent)
            })
            .filter(|(_, sent)| *sent != PeerCounters::default())
            .collect();
        Outcome {
            action,
            frame,
            counted,
            sent,
            arrived: after.connections.arrived - before.connections.arrived,
            steered: after.connections.steered - before.connections.steered,
        }
    }

    /// Gives the frame to the program, and doesn't look at what was counted.
    pub fn run(&self, frame: &[u8]) -> (Action, Vec<u8>) {
        let program: &Xdp = self.datapath.program(STEER).unwrap().try_into().unwrap();
        let mut out = vec![0; 16_384];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Tx,
            4 => Action::Redirect,
            other => panic!("the program returned {other}"),
        };
        (action, out)
    }

    fn counts(&self) -> Counts {
        let maps = &self.datapath.maps;
        let services = [None].into_iter().chain((0..MAX_SERVICES).map(Some));
        let counters = services.flat_map(|service| {
            let counters = maps.counters(service).unwrap();
            let named: Vec<_> = counters.named().collect();
            named
                .into_iter()
                .map(move |(name, count)| (service, name, count))
        });
        Counts {
            counters: counters.collect(),
            peers: (0..self.peers)
                .map(|slot| maps.peer_counters(slot).unwrap())
                .collect(),
            connections: maps.connections.get(&WWW, 0).unwrap(),
        }
    }
}

struct Counts {
    counters: Vec<(Option<u32>, &'static str, u64)>,
    peers: Vec<PeerCounters>,
    connections: Connections,
}
