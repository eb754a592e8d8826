//! What is heard of an identity, whoever has it, and what it takes to claim one: all of it.

use super::*;

/// A peer that isn't heard any more: its host is dead, as far as is known.
const MUTE: ServerId = ServerId(4);

/// A host that is no server's.
const STRANGER: ServerId = ServerId(99);

/// Who has an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    /// This server, whose own it is.
    Mine,
    /// This server, under term 2; its home is dead.
    Assumed,
    /// Its home, which is another server.
    Theirs,
    /// Another server, under term 2; its home is dead.
    Taken,
    /// Nobody; its home is dead, and this server couldn't add it.
    Nobody,
}

/// What is heard of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Its home's report, which says that it has it.
    Home,
    /// Its home's, which doesn't name it.
    Unnamed,
    /// Its home's goodbye: it has given it up.
    GivenUp,
    /// A claim of `OTHER`'s under this term.
    Claim(u64),
    /// `OTHER` knows of a higher term, but hasn't it.
    Disclaimed,
    /// `OTHER` says that it is the home.
    OtherHome,
    /// A frame of this server's from that address.
    Frame(ServerId),
}

/// What this server does about it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Nothing,
    Announces,
    Releases,
    Assumes,
    Asks,
}

/// Who has it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Is(ServerId),
    None,
    /// It is no identity any more.
    Unknown,
}

impl Bench {
    fn where_it_is(has: Has) -> Self {
        let mut bench = Self::with_own();
        bench.hear(HOME, &[(HOME, 1)]);
        bench.hear(MUTE, &[]);
        bench.to(1_000);
        bench.cluster.handle_probe(bench.now, MUTE, false);
        let mut others = vec![];
        match has {
            Has::Mine | Has::Theirs => {
                bench.hear(HOME, &[(HOME, 1)]);
            }
            Has::Assumed | Has::Taken | Has::Nobody => {
                bench.cluster.handle_probe(bench.now, HOME, false);
                let (now, used) = (bench.now, has == Has::Taken);
                bench.cluster.handle_identity_probe(now, identity(), used);
            }
        }
        if has == Has::Taken {
            others.push((HOME, 2));
            bench.hear(OTHER, &others);
        }
        bench.to(1_500);
        if has == Has::Nobody {
            bench.cluster.renounce(bench.now, identity());
        }
        bench.hear(OTHER, &others);
        assert_eq!(bench.cluster.peer(MUTE).unwrap().status, Status::Dead);
        bench.to(1_600);
        bench
    }

    /// What it does when it hears `heard` of `address`, and who has it then.
    fn hear_of(&mut self, address: IpNet, heard: Heard) -> (Act, Holder) {
        let home = if address == net(1) { ME } else { HOME };
        let named = |home, term, tenure| {
            vec![IdentityReport {
                address,
                home,
                term,
                tenure,
            }]
        };
        let (from, identities) = match heard {
            Heard::Home => (HOME, named(home, 1, Tenure::Held)),
            Heard::Unnamed => (HOME, vec![]),
            Heard::GivenUp => (HOME, named(home, 1, Tenure::Freed)),
            Heard::Claim(term) => (OTHER, named(home, term, Tenure::Held)),
            Heard::Disclaimed => (OTHER, named(home, 9, Tenure::Past)),
            Heard::OtherHome => (OTHER, named(OTHER, 5, Tenure::Held)),
            Heard::Frame(by) => {
                let (now, mac) = (self.now, link(by).mac);
                self.cluster.handle_conflict(now, address.addr(), mac);
                return (self.act(address), self.holder(address));
            }
        };
        let leaving = heard == Heard::GivenUp;
        let report = Report {
            identities,
            leaving,
            ..self.report(from, &[])
        };
        self.send(report).unwrap();
        (self.act(address), self.holder(address))
    }

    fn act(&mut self, address: IpNet) -> Act {
        let address = address.addr();
        let of_it = |event: Event| match event {
            Event::Announce(of) if of == address => Some(Act::Announces),
            Event::Release(of) if of == address => Some(Act::Releases),
            Event::ProbeIdentity(of) if of == address => Some(Act::Asks),
            Event::Assume(assumed) if assumed.address.addr() == address => Some(Act::Assumes),
            _ => None,
        };
        let acts: Vec<_> = self.drain().into_iter().filter_map(of_it).collect();
        assert!(acts.len() <= 1, "{acts:?}");
        acts.first().copied().unwrap_or(Act::Nothing)
    }

    pub(super) fn holder(&self, address: IpNet) -> Holder {
        let mut all = self.cluster.identities();
        let found = all.find(|known| known.address == address);
        found.map_or(Holder::Unknown, |known| {
            known.holder.map_or(Holder::None, Holder::Is)
        })
    }
}

/// As ARCHITECTURE.md has it: who has an identity, what is heard of it, what this server does, who has it then.
#[test]
fn the_whole_table() {
    use Act::{Announces, Asks, Assumes, Nothing, Releases};
    use Has::{Assumed, Mine, Nobody, Taken, Theirs};
    use Heard::{Claim, Disclaimed, Frame, GivenUp, Home, OtherHome, Unnamed};
    let all = [
        Home,
        Unnamed,
        GivenUp,
        Claim(3),
        Claim(2),
        Disclaimed,
        OtherHome,
        Frame(HOME),
        Frame(OTHER),
        Frame(MUTE),
        Frame(STRANGER),
    ];
    let to = Holder::Is;
    let nobody = Holder::None;
    let gone = Holder::Unknown;
    #[rustfmt::skip]
    let table = [
        // Of its own nobody else is the home: the first three can't be.
        (Mine, [None, None, None,
            Some((Announces, to(ME))), Some((Announces, to(ME))), Some((Announces, to(ME))), Some((Nothing, to(ME))),
            Some((Announces, to(ME))), Some((Announces, to(ME))), Some((Announces, to(ME))), Some((Nothing, to(ME)))]),
        (Assumed, [Some((Releases, to(HOME))), Some((Releases, gone)), Some((Nothing, to(ME))),
            Some((Releases, to(OTHER))), Some((Announces, to(ME))), Some((Nothing, to(ME))), Some((Releases, to(OTHER))),
            Some((Releases, to(HOME))), Some((Nothing, to(ME))), Some((Releases, to(MUTE))), Some((Releases, nobody))]),
        (Theirs, [Some((Nothing, to(HOME))), Some((Nothing, gone)), Some((Assumes, to(ME))),
            Some((Nothing, to(HOME))), Some((Nothing, to(HOME))), Some((Nothing, to(HOME))), Some((Nothing, to(HOME))),
            Some((Nothing, to(HOME))), Some((Nothing, to(HOME))), Some((Nothing, to(HOME))), Some((Nothing, to(HOME)))]),
        (Taken, [Some((Nothing, to(HOME))), Some((Nothing, gone)), Some((Nothing, to(OTHER))),
            Some((Nothing, to(OTHER))), Some((Nothing, to(OTHER))), Some((Asks, nobody)), Some((Nothing, to(OTHER))),
            Some((Nothing, to(OTHER))), Some((Nothing, to(OTHER))), Some((Nothing, to(OTHER))), Some((Nothing, to(OTHER)))]),
        (Nobody, [Some((Nothing, to(HOME))), Some((Nothing, gone)), Some((Nothing, nobody)),
            Some((Nothing, to(OTHER))), Some((Nothing, to(OTHER))), Some((Nothing, nobody)), Some((Nothing, to(OTHER))),
            Some((Nothing, nobody)), Some((Nothing, nobody)), Some((Nothing, nobody)), Some((Nothing, nobody))]),
    ];
    for (has, row) in table {
        for (heard, expected) in all.into_iter().zip(row) {
            let Some(expected) = expected else { continue };
            let mut bench = Bench::where_it_is(has);
            let address = if has == Mine { net(1) } else { net(2) };
            let found = bench.hear_of(address, heard);
            assert_eq!(found, expected, "{has:?}, {heard:?}");
        }
    }
}

/// How its holder stands, how many probes in a row nobody answered, and whether it is claimed.
#[test]
fn what_it_takes_to_claim() {
    /// The holder, [`HOME`], reports; is overdue; its host answers; it doesn't; it left, and keeps the address; and gave it up.
    const STANDINGS: [(&str, [bool; 3]); 6] = [
        ("present", [false, false, false]),
        ("overdue", [false, false, false]),
        ("silent", [false, false, true]),
        ("dead", [false, true, true]),
        ("left", [false, true, true]),
        ("gave up", [true, true, true]),
    ];
    for (standing, row) in STANDINGS {
        for (unanswered, claimed) in (0..).zip(row) {
            let mut bench = Bench::with_own();
            bench.hear(HOME, &[(HOME, 1)]);
            let mut answers = [false; 2].into_iter().take(unanswered);
            let goodbye = Report {
                leaving: true,
                ..bench.report(HOME, &[(HOME, 1)])
            };
            let mut events = match standing {
                "left" => bench.say(goodbye),
                "gave up" => {
                    let mut goodbye = goodbye;
                    goodbye.identities[0].tenure = Tenure::Freed;
                    bench.say(goodbye)
                }
                _ => vec![],
            };
            let until = if standing == "overdue" { 1_490 } else { 6_000 };
            while bench.millis() < until {
                if standing == "present" && bench.millis().is_multiple_of(500) {
                    bench.hear(HOME, &[(HOME, 1)]);
                }
                if events.contains(&Event::ProbeIdentity(identity())) {
                    let used = answers.next().is_none();
                    let now = bench.now;
                    bench.cluster.handle_identity_probe(now, identity(), used);
                    bench.cluster.handle_probe(now, HOME, standing == "silent");
                }
                events = bench.to(bench.millis() + 10);
            }
            assert_eq!(bench.holds(), claimed, "{standing}, {unanswered}");
        }
    }
}
