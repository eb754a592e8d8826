//! Decisions are told while somebody listens, and those that can't be are counted.

use balancer::datapath::STEER;
use balancer::datapath::trace::Events;
use balancer_common::types::{Event, KEPT, Reason};

use crate::frame::{DATAGRAM, FIRST, FIRST_V6, SECOND};
use crate::server::{Server, WWW, key};

/// More decisions than the ring buffer has room for.
const MANY: u16 = 6_000;

#[tokio::test]
async fn decisions_are_told_while_somebody_listens() {
    let Some(mut server) = listened_to() else {
        return;
    };
    let mut events = events_of(&server);
    server.add_peer(0);
    server.set_settings(|settings| settings.trace_until_ns = u64::MAX);
    server.admits(&FIRST, "kept_below_level");
    server.set_own_load(9_000);
    server.steers(&FIRST_V6, 0, "steered_new");
    server.steers(&DATAGRAM, 0, "steered_new");
    // No decision.
    server.steers(&DATAGRAM, 0, "steered");
    server.passes(&SECOND.numbered(9).frame(), Some(WWW), "local");
    let told = read(&mut events).await;
    let expected = [
        (key(&FIRST), Reason::KEPT_BELOW_LEVEL, KEPT, 0),
        (key(&FIRST_V6), Reason::STEERED_NEW, 0, 9_000),
        (key(&DATAGRAM), Reason::STEERED_NEW, 0, 9_000),
    ];
    assert_eq!(told.len(), expected.len());
    for (event, (flow, reason, peer, load)) in told.iter().zip(expected) {
        assert_eq!(event.flow, flow);
        assert_eq!((event.reason, event.service), (reason.number(), WWW));
        assert_eq!((event.peer, event.load), (peer, load));
        assert!(event.time_ns > 0);
    }

    // Nobody asks to be told any more.
    server.set_settings(|settings| settings.trace_until_ns = 1);
    server.steers(&FIRST.numbered(1), 0, "steered_new");
    server.set_settings(|settings| settings.trace_until_ns = u64::MAX);
    server.steers(&FIRST.numbered(2), 0, "steered_new");
    let told = read(&mut events).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].flow, key(&FIRST.numbered(2)));
}

#[tokio::test]
async fn decisions_that_nobody_could_be_told_of_are_counted() {
    let Some(mut server) = listened_to() else {
        return;
    };
    let mut events = events_of(&server);
    // However many there are, they are no load.
    server.set_service(|service| service.cost = 0);
    for number in 0..MANY {
        server.run(&FIRST.numbered(number).frame());
    }
    let counters = server.maps().counters(Some(WWW)).unwrap();
    assert_eq!(counters.kept_below_level, u64::from(MANY));
    assert!(counters.untold > 0);
    let told = read(&mut events).await;
    assert_eq!(told.len() as u64 + counters.untold, u64::from(MANY));
    // The first are told, not the last.
    let last = FIRST.numbered(told.len() as u16 - 1);
    assert_eq!(told.last().unwrap().flow, key(&last));

    // What was read makes room.
    server.admits(&FIRST.numbered(MANY), "kept_below_level");
    assert_eq!(read(&mut events).await.len(), 1);
}

/// Without load, and asked to tell.
fn listened_to() -> Option<Server> {
    let mut server = Server::new()?;
    server.set_settings(|settings| settings.trace_until_ns = u64::MAX);
    Some(server)
}

/// What is in the ring buffer, which must be something.
async fn read(events: &mut Events) -> Vec<Event> {
    let mut told = Vec::new();
    let take = |event: &Event| {
        told.push(*event);
        Ok(())
    };
    events.read(take).await.unwrap();
    told
}

fn events_of(server: &Server) -> Events {
    let program = server.datapath.program(STEER).unwrap().info().unwrap();
    Events::open(server.pins.path(), &program).unwrap()
}
