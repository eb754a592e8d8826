//! DNS as a client speaks it that keeps its port: which server answers?

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::Host;
use crate::daemon::WHO;

/// How long an answer may take. Nothing is asked twice: a lost packet is to be seen.
const PATIENCE: Duration = Duration::from_secs(5);

const PORT: u16 = 53;

/// A client with one UDP port. Answers count only if they come from the address that was asked.
pub struct Resolver {
    socket: UdpSocket,
}

impl Resolver {
    /// A client of the DNS server at `address`.
    pub fn new(client: &Host, address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        let socket = client.enter(|| {
            let any = match address {
                IpAddr::V4(_) => "0.0.0.0:0",
                IpAddr::V6(_) => "[::]:0",
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect((address, PORT))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            io::Result::Ok(socket)
        });
        Self {
            socket: socket.expect("a UDP socket"),
        }
    }

    /// Asks who answers.
    ///
    /// # Errors
    ///
    /// Nobody does in time, or not with that.
    pub fn who(&self) -> io::Result<String> {
        let id = fastrand::u16(..);
        self.socket.send(&question(id))?;
        let mut answer = [0; 512];
        let length = self.socket.recv(&mut answer)?;
        name(&answer[..length], id)
    }
}

/// Asks the DNS server at `address` over TCP who answers.
///
/// # Errors
///
/// As for [`Resolver::who`].
pub fn who_by_tcp(client: &Host, address: impl Into<IpAddr>) -> io::Result<String> {
    let address = address.into();
    let mut stream =
        client.enter(|| TcpStream::connect_timeout(&(address, PORT).into(), PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let id = fastrand::u16(..);
    let question = question(id);
    let length = question.len() as u16;
    stream.write_all(&[&length.to_be_bytes(), question.as_slice()].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    name(&answer, id)
}

/// RFC 1035 section 4.1: a question for a text.
fn question(id: u16) -> Vec<u8> {
    const RECURSION_DESIRED: u16 = 0x0100;
    const TEXT: u16 = 16;
    const INTERNET: u16 = 1;
    let mut question = Vec::new();
    for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        question.extend(word.to_be_bytes());
    }
    for label in WHO.split('.') {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.push(0);
    for word in [TEXT, INTERNET] {
        question.extend(word.to_be_bytes());
    }
    question
}

/// The text in an answer: one record, its name a pointer to the question's (RFC 1035 section 4.1.4).
fn name(answer: &[u8], id: u16) -> io::Result<String> {
    const RECORD: usize = 2 + 2 + 2 + 4 + 2;
    let invalid = || {
        io::Error::new(
            ErrorKind::InvalidData,
            format!("not the answer: {answer:02x?}"),
        )
    };
    if !answer.starts_with(&id.to_be_bytes()) || answer.get(6..8) != Some(&[0, 1]) {
        return Err(invalid());
    }
    let text = answer.get(question(id).len() + RECORD..);
    let (length, text) = text.and_then(<[u8]>::split_first).ok_or_else(invalid)?;
    let text = text.get(..usize::from(*length)).ok_or_else(invalid)?;
    Ok(String::from_utf8_lossy(text).into_owned())
}
