//! Connections that really move, between network namespaces. They need root.

mod lab;

use std::io::Read as _;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use nix::{setsockopt_impl, sockopt_impl};

use super::*;
use lab::{Lab, SERVICES};

sockopt_impl!(
    /// Bytes a second.
    MaxPacingRate, SetOnly, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, u32
);

/// Longer than the kernel takes to send something again at first.
const A_WHILE: Duration = Duration::from_millis(400);

#[test]
fn it_moves_with_all_that_is_in_its_queues() {
    let Some(lab) = Lab::new() else { return };
    for service in SERVICES {
        lab.route("to-a");
        let (client, mut server) = lab.connect(service.parse().unwrap());
        let mut client = blocking(client);
        let question = pattern(1, 30_000);
        client.write_all(&question).unwrap();
        let mut used = [0; 1_000];
        wait_for(&server, used.len());
        server.read_exact(&mut used).unwrap();
        wait_for(&server, question.len() - used.len());
        let mut read = vec![0; 500];
        server.read_exact(&mut read).unwrap();
        lab.deafen(true);
        let answer = pattern(2, 60_000);
        server.write_all(&answer).unwrap();

        let (frozen, snapshot) = Frozen::freeze(server).unwrap();
        assert_eq!(snapshot.server().to_string(), service);
        assert_eq!(snapshot.client(), client.local_addr().unwrap());
        assert_eq!(snapshot.unread, question[1_500..]);
        assert!(snapshot.unacknowledged.len() > 5_000);
        assert!(snapshot.unsent.len() > 5_000);
        let restored = lab.b.restore(&snapshot, &read);
        lab.route("to-b");
        // While nobody answers, the client goes on.
        let more = pattern(3, 5_000);
        client.write_all(&more).unwrap();
        lab.deafen(false);
        // What the client hasn't got is sent again, but nothing that the new owner doesn't know was sent.
        thread::sleep(A_WHILE);
        let mut got = vec![0; answer.len()];
        let got = client.peek(&mut got).unwrap();
        assert!(got <= snapshot.unacknowledged.len());
        drop(frozen);
        let (stream, mut begun) = restored.start().unwrap();
        let mut stream = blocking(stream);

        let mut rest = vec![0; question.len() + more.len() - used.len() - begun.len()];
        stream.read_exact(&mut rest).unwrap();
        begun.extend(rest);
        assert!([&used[..], &begun].concat() == [question, more].concat());
        let end = pattern(4, 1_000_000);
        let writer = thread::spawn(move || {
            stream.write_all(&end).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            (stream, end)
        });
        assert!(read_all(&client) == [answer, writer.join().unwrap().1].concat());
    }
    assert_eq!(lab.a.sent().1, 0, "resets");
    assert_eq!(lab.b.sent().1, 0, "resets");
}

#[test]
fn it_moves_nine_times_and_ends() {
    let Some(lab) = Lab::new() else { return };
    let (mut client, mut server) = lab.connect(SERVICES[0].parse().unwrap());
    for turn in 0..9 {
        let (link, next) = if turn % 2 == 0 {
            ("to-b", &lab.b)
        } else {
            ("to-a", &lab.a)
        };
        let question = pattern(turn, 700);
        client.write_all(&question).unwrap();
        wait_for(&server, question.len());
        let (frozen, snapshot) = Frozen::freeze(server).unwrap();
        let restored = next.restore(&snapshot, &[]);
        lab.route(link);
        bury(frozen);
        let (stream, begun) = restored.start().unwrap();
        assert!(begun == question[..699]);
        server = blocking(stream);
        let mut last = [0];
        server.read_exact(&mut last).unwrap();
        assert_eq!(last, question[699..]);
        server.write_all(&question).unwrap();
        let mut answer = vec![0; question.len()];
        client.read_exact(&mut answer).unwrap();
        assert!(answer == question);
    }
    // Nothing of it keeps the next daemon from its port.
    drop(lab.b.listen(80));
    drop(server);
    assert!(read_all(&client).is_empty());
    assert_eq!((lab.a.sent().1, lab.b.sent().1), (0, 0), "resets");
}

#[test]
fn a_full_upload_moves_and_flows_on() {
    let Some(lab) = Lab::new() else { return };
    for options in [1, 0] {
        // An old client knows no options. Without scales its windows are small.
        lab.client.set_tcp_options(options);
        lab.route("to-a");
        let (client, server) = lab.connect(SERVICES[0].parse().unwrap());
        let upload = pattern(5, 4_000_000);
        let sender = thread::spawn({
            let upload = upload.clone();
            move || (&client).write_all(&upload).map(|()| client)
        });
        // The receive window fills.
        thread::sleep(A_WHILE);
        let (frozen, snapshot) = Frozen::freeze(server).unwrap();
        assert!(snapshot.unread.len() > 30_000, "{snapshot:?}");
        assert_eq!(snapshot.scales.is_some(), options == 1);
        assert_eq!(snapshot.timestamp.is_some(), options == 1);
        assert_eq!(snapshot.sack, options == 1);
        let restored = lab.b.restore(&snapshot, &[]);
        lab.route("to-b");
        bury(frozen);
        let (stream, mut begun) = restored.start().unwrap();
        let mut rest = vec![0; upload.len() - begun.len()];
        blocking(stream).read_exact(&mut rest).unwrap();
        begun.extend(rest);
        assert!(begun == upload);
        sender.join().unwrap().unwrap();
    }
}

#[test]
fn a_download_moves_at_full_speed() {
    let Some(lab) = Lab::new() else { return };
    let (client, mut server) = lab.connect(SERVICES[0].parse().unwrap());
    let reader = thread::spawn(move || read_all(&blocking(client)));
    let download = pattern(9, 20_000_000);
    let mut rest = &download[..];
    let mut waits = 0;
    for turn in 0..10 {
        // More than the client takes meanwhile, but no more than moves quickly, however slow the client is.
        let then = rest.len() + waits - 1_000_000;
        while rest.len() > then {
            match server.write(&rest[..rest.len() - then]) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let (frozen, snapshot) = Frozen::freeze(server).unwrap();
        let (link, next) = [("to-b", &lab.b), ("to-a", &lab.a)][turn % 2];
        let restored = next.restore(&snapshot, &[]);
        lab.route(link);
        waits = snapshot.unacknowledged.len() + snapshot.unsent.len();
        bury(frozen);
        (server, _) = restored.start().unwrap();
    }
    server.set_nonblocking(false).unwrap();
    server.write_all(rest).unwrap();
    drop(server);
    assert!(reader.join().unwrap() == download);
    assert_eq!((lab.a.sent().1, lab.b.sent().1), (0, 0), "resets");
}

#[test]
fn what_was_never_sent_is_not_said_to_be() {
    let Some(lab) = Lab::new() else { return };
    let download = pattern(10, 3_000_000);
    for delay in 0..10 {
        // A port that nothing of the turn before may still hold.
        let mut service: SocketAddr = SERVICES[0].parse().unwrap();
        service.set_port(1_000 + delay);
        let (_client, mut server) = lab.connect(service);
        // A timer of the kernel's has something sent each millisecond or so, also while the connection's queue is read.
        MaxPacingRate.set(&server, &5_000_000).unwrap();
        kernel::SndBufForce.set(&server, &MAX_QUEUED).unwrap();
        server.write_all(&download).unwrap();
        thread::sleep(Duration::from_millis(delay.into()));
        let (_frozen, snapshot) = Frozen::freeze(server).unwrap();
        let in_flight = snapshot.unacknowledged.len();
        let allowed = snapshot.window.snd_wnd as usize;
        assert!(in_flight <= allowed, "{snapshot:?}");
    }
}

#[test]
fn it_goes_on_here_when_nobody_takes_it() {
    let Some(lab) = Lab::new() else { return };
    for service in SERVICES {
        let (mut client, mut server) = lab.connect(service.parse().unwrap());
        let question = pattern(6, 20_000);
        client.write_all(&question).unwrap();
        wait_for(&server, question.len());
        lab.deafen(true);
        let answer = pattern(7, 60_000);
        server.write_all(&answer).unwrap();
        let (frozen, _) = Frozen::freeze(server).unwrap();
        client.write_all(b"more").unwrap();
        lab.deafen(false);
        let server = blocking(frozen.thaw().unwrap());
        let mut all = vec![0; question.len() + 4];
        (&server).read_exact(&mut all).unwrap();
        assert!(all == [question, b"more".to_vec()].concat());
        // As before it was frozen, so that a daemon that is started anew can listen there.
        assert!(SockRef::from(&server).reuse_address().unwrap());
        server.shutdown(Shutdown::Write).unwrap();
        assert!(read_all(&blocking(client)) == answer);
    }
    assert_eq!(lab.a.sent().1, 0, "resets");
}

#[test]
fn what_is_dropped_says_nothing() {
    let Some(lab) = Lab::new() else { return };
    let (mut client, server) = lab.connect(SERVICES[0].parse().unwrap());
    client.write_all(b"unread").unwrap();
    wait_for(&server, 6);
    let (frozen, snapshot) = Frozen::freeze(server).unwrap();
    let restored = lab.b.restore(&snapshot, &[]);
    lab.route("to-b");
    let before = (lab.a.sent(), lab.b.sent());
    client.write_all(b"more").unwrap();
    thread::sleep(A_WHILE);
    assert_eq!((lab.a.sent(), lab.b.sent()), before, "silent together");
    // The client's next try would be answered.
    lab.mute();
    drop((frozen, restored));
    assert_eq!((lab.a.sent(), lab.b.sent()), before);
}

#[test]
fn what_cannot_move_lives_on() {
    let Some(lab) = Lab::new() else { return };
    let (client, server) = lab.connect(SERVICES[0].parse().unwrap());
    let sender = thread::spawn(move || {
        (&client)
            .write_all(&pattern(8, MAX_QUEUED))
            .map(|()| client)
    });
    let big = vec![0; MAX_QUEUED + 1];
    kernel::SndBufForce.set(&server, &(4 * MAX_QUEUED)).unwrap();
    lab.deafen(true);
    (&server).write_all(&big).unwrap();
    let (server, error) = Frozen::freeze(server).unwrap_err();
    lab.deafen(false);
    assert!(matches!(error, Error::TooMuch(_)), "{error}");
    let mut upload = vec![0; MAX_QUEUED];
    let server = blocking(server);
    (&server).read_exact(&mut upload).unwrap();
    assert!(upload == pattern(8, MAX_QUEUED));
    let client = sender.join().unwrap().unwrap();
    let mut answer = vec![1; big.len()];
    (&client).read_exact(&mut answer).unwrap();
    assert!(answer == big);

    client.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&server).is_empty());
    let (server, error) = Frozen::freeze(server).unwrap_err();
    assert!(matches!(error, Error::Ending), "{error}");
    (&server).write_all(b"bye").unwrap();
    drop(server);
    assert_eq!(read_all(&client), b"bye");
}

#[test]
fn senseless_snapshots_are_refused() {
    let Some(lab) = Lab::new() else { return };
    let (_client, server) = lab.connect(SERVICES[0].parse().unwrap());
    let (_frozen, good) = Frozen::freeze(server).unwrap();
    let refused = |change: &dyn Fn(&mut Snapshot), read: usize| {
        let mut bad = good.clone();
        change(&mut bad);
        let restored = lab.b.try_restore(&bad, &vec![0; read]);
        restored.map(drop).unwrap_err().to_string()
    };
    let too_much = |bad: &mut Snapshot| bad.unsent = vec![0; MAX_QUEUED];
    assert!(refused(&too_much, 1).starts_with("4194305 bytes wait"));
    for (change, error) in [
        (
            (&|bad: &mut Snapshot| bad.client.set_port(0)) as &dyn Fn(&mut Snapshot),
            "not the state of a connection: an end that is no address",
        ),
        (
            &|bad| bad.client = "[::ffff:10.98.0.1]:1".parse().unwrap(),
            "not the state of a connection: an IPv4 address in an IPv6 one",
        ),
        (
            &|bad| bad.server = "[fd98::9]:80".parse().unwrap(),
            "not the state of a connection: addresses of two families",
        ),
        (
            &|bad| bad.server = "10.98.0.8:80".parse().unwrap(),
            "cannot take the connection's address: Cannot assign requested address (os error 99)",
        ),
        (
            &|bad| bad.client = "192.0.2.1:1000".parse().unwrap(),
            "cannot make the connection anew: Network is unreachable (os error 101)",
        ),
        (
            &|bad| bad.scales = Some((15, 255)),
            "cannot make the connection anew: File too large (os error 27)",
        ),
        (
            &|bad| bad.mss = 7,
            "cannot make the connection anew: Invalid argument (os error 22)",
        ),
        (
            &|bad| bad.window.max_wnd = 0,
            "cannot set the connection's window: Invalid argument (os error 22)",
        ),
    ] {
        assert_eq!(refused(change, 0), error);
    }
    // And whatever else a damaged one says, nothing breaks: the good one still fits.
    lab.b.enter(|| {
        for seed in 0..500 {
            fastrand::seed(seed);
            let mut bytes = postcard::to_allocvec(&good).unwrap();
            for _ in 0..fastrand::usize(1..4) {
                let at = fastrand::usize(..bytes.len());
                bytes[at] = fastrand::u8(..);
            }
            if let Ok(odd) = postcard::from_bytes::<Snapshot>(&bytes) {
                let _ = Restored::restore(odd, vec![7; fastrand::usize(..9)]);
            }
        }
    });
    drop(lab.b.restore(&good, &[]));
    assert_eq!(lab.b.sent().0, 0);
}

#[test]
fn without_the_right_it_says_so() {
    let error = refused(nix::Error::EPERM).to_string();
    assert!(error.contains("CAP_NET_ADMIN"), "{error}");
}

impl lab::Host {
    /// What a snapshot becomes here, after it went through the network.
    fn restore(&self, snapshot: &Snapshot, read: &[u8]) -> Restored {
        let bytes = postcard::to_allocvec(snapshot).unwrap();
        self.try_restore(&postcard::from_bytes(&bytes).unwrap(), read)
            .unwrap()
    }

    /// A program that another test is about to start holds all sockets for a moment, also those that are closed here already: so it is
    /// tried for a while.
    fn try_restore(&self, snapshot: &Snapshot, read: &[u8]) -> Result<Restored, Error> {
        let restore = || self.enter(|| Restored::restore(snapshot.clone(), read.to_vec()));
        for _ in 0..200 {
            match restore() {
                Err(Error::Kernel {
                    step: "make the connection anew",
                    error,
                }) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    thread::sleep(Duration::from_millis(10));
                }
                restored => return restored,
            }
        }
        restore()
    }
}

/// Has the old owner let go, once what was on its way to it has come.
fn bury(frozen: Frozen) {
    thread::sleep(Duration::from_millis(50));
    drop(frozen);
}

/// Bytes among which none are where they should not be without being noticed.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..))
        .take(length)
        .collect()
}

/// Waits until so many bytes can be read.
fn wait_for(stream: &TcpStream, length: usize) {
    let mut bytes = vec![0; length];
    for _ in 0..1_000 {
        if stream.peek(&mut bytes).is_ok_and(|read| read == length) {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
    panic!("{length} bytes don't come");
}

/// A stream that waits, but not for ever.
fn blocking(stream: TcpStream) -> TcpStream {
    stream.set_nonblocking(false).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
}

fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}
