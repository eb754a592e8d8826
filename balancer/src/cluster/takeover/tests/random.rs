//! Whatever may happen, in any order.

use super::table::Holder;
use super::*;
use proptest::prelude::*;

/// One thing that may happen.
#[derive(Clone, Debug)]
enum Step {
    /// A server reports to have, or not to have, these servers' identities under these terms.
    Report(u64, Vec<(u64, u64, Tenure)>, bool),
    Frame(u64, u64),
    HostProbed(u64, bool),
    Probed(u64, bool),
    Renounce(u64),
    /// Milliseconds go by.
    Run(u64),
    /// The same, but it doesn't run.
    Stall(u64),
    /// A link carries again.
    LinkUp,
}

fn step() -> impl Strategy<Value = Step> {
    let tenure = prop::sample::select(vec![Tenure::Past, Tenure::Held, Tenure::Freed]);
    let claims = prop::collection::vec((1..5_u64, 0..9_u64, tenure), 0..4);
    prop_oneof![
        4 => (2..5_u64, claims, any::<bool>()).prop_map(|(from, claims, goes)| Step::Report(from, claims, goes)),
        2 => (1..5_u64, 1..6_u64).prop_map(|(of, by)| Step::Frame(of, by)),
        2 => (2..5_u64, any::<bool>()).prop_map(|(id, answered)| Step::HostProbed(id, answered)),
        2 => (1..5_u64, any::<bool>()).prop_map(|(of, used)| Step::Probed(of, used)),
        1 => (1..5_u64).prop_map(Step::Renounce),
        3 => (1..3_000_u64).prop_map(Step::Run),
        1 => (1..9_000_u64).prop_map(Step::Stall),
        1 => Just(Step::LinkUp),
    ]
}

impl Bench {
    fn take(&mut self, step: Step) {
        let address = |of: u64| net(of as u8).addr();
        let now = self.now;
        match step {
            Step::Report(from, claims, leaving) => {
                let named = |(of, term, tenure)| IdentityReport {
                    address: net(of as u8),
                    home: ServerId(of),
                    term,
                    tenure,
                };
                let report = Report {
                    identities: claims.into_iter().map(named).collect(),
                    leaving,
                    ..self.report(ServerId(from), &[])
                };
                // Who isn't known is asked first: it may speak again.
                let _ = self.send(report);
            }
            Step::Frame(of, by) => {
                let mac = link(ServerId(by)).mac;
                self.cluster.handle_conflict(now, address(of), mac);
            }
            Step::HostProbed(id, answered) => {
                self.cluster.handle_probe(now, ServerId(id), answered);
            }
            Step::Probed(of, used) => self.cluster.handle_identity_probe(now, address(of), used),
            Step::Renounce(of) => self.cluster.renounce(now, address(of)),
            Step::Run(millis) => drop(self.to(self.millis() + millis)),
            Step::Stall(millis) => self.now = now + Duration::from_millis(millis),
            Step::LinkUp => drop(self.cluster.handle_link_up(now)),
        }
        self.cluster.handle_timeout(self.now);
        self.drain();
    }
}

proptest! {
    #[test]
    fn whatever_is_heard_terms_grow_and_homes_have_what_is_theirs_in_the_end(steps in prop::collection::vec(step(), 0..60)) {
        let mut bench = Bench::with_own();
        let mut terms = BTreeMap::new();
        for step in steps {
            bench.take(step);
            let now: BTreeMap<_, _> = (bench.cluster.identities())
                .map(|known| (known.address.addr(), known.term))
                .collect();
            for (address, term) in &now {
                prop_assert!(terms.get(address).is_none_or(|before| before <= term), "{address}");
            }
            terms = now;
            prop_assert!(bench.cluster.identities().any(|known| known.home == ME && known.holder == Some(ME)));
        }
        for _ in 0..2 {
            bench.to(bench.millis() + 100);
            for id in 2..5 {
                bench.hear(ServerId(id), &[(ServerId(id), 1)]);
            }
        }
        for id in 1..5 {
            prop_assert_eq!(bench.holder(net(id as u8)), Holder::Is(ServerId(id)));
        }
    }
}
