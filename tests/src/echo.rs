//! Datagrams of any length, and servers that send them back under their names.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Host, Server};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// Longer than any datagram.
const LARGEST: usize = 0x1_0000;

/// A server that returns datagrams, their first bytes replaced by its name. It ends when this is dropped.
pub struct Echo {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts one on `server`, for datagrams to `address`, which the server must have.
    pub fn start(server: &Server, address: IpAddr, port: u16) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (ended, label) = (Arc::clone(&ends), server.host.label().to_owned());
        let thread = server.host.spawn(move || {
            let socket = UdpSocket::bind((address, port)).expect("an address of this server's");
            socket.set_read_timeout(Some(LOOK)).expect("a time-out");
            serve(&socket, label.as_bytes(), &ended);
        });
        Self {
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, it said so.
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, label: &[u8], ended: &AtomicBool) {
    let mut datagram = vec![0; LARGEST];
    while !ended.load(Ordering::Relaxed) {
        if let Ok((length, client)) = socket.recv_from(&mut datagram) {
            datagram[..label.len()].copy_from_slice(label);
            // What can't be sent is missed by its client.
            let _ = socket.send_to(&datagram[..length], client);
        }
    }
}

/// A client of such servers, with one port.
pub struct Datagrams {
    socket: UdpSocket,
}

impl Datagrams {
    /// A client of the servers at `address`.
    pub fn new(client: &Host, address: IpAddr, port: u16) -> Self {
        let socket = client.enter(|| {
            let any = match address {
                IpAddr::V4(_) => "0.0.0.0:0",
                IpAddr::V6(_) => "[::]:0",
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect((address, port))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            io::Result::Ok(socket)
        });
        Self {
            socket: socket.expect("a UDP socket"),
        }
    }

    /// Sends `datagram`, and returns the name of the server that sent it back.
    ///
    /// # Errors
    ///
    /// No server did in time, or not all of it as it was.
    pub fn exchange(&self, datagram: &[u8]) -> io::Result<String> {
        const NAME: usize = "web1".len();
        self.socket.send(datagram)?;
        let mut answer = vec![0; LARGEST];
        let length = self.socket.recv(&mut answer)?;
        if length != datagram.len() || answer[NAME..length] != datagram[NAME..] {
            return Err(io::Error::new(ErrorKind::InvalidData, "not what was sent"));
        }
        Ok(String::from_utf8_lossy(&answer[..NAME]).into_owned())
    }
}
