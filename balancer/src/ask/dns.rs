//! DNS queries over UDP (RFC 1035): one question, one datagram.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::Failure;
use crate::config::Query;

/// Length of a message's header.
const HEADER: usize = 12;

/// Asks the server at `address`. The text says how many records it answered with.
///
/// # Errors
///
/// It can't be reached, or answered without a record of the kind.
pub async fn resolve(address: SocketAddr, query: &Query) -> Result<String, Failure> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.map_err(Failure::Connect)?;
    socket.connect(address).await.map_err(Failure::Connect)?;
    let asked = question(fastrand::u16(..), query);
    socket.send(&asked).await.map_err(Failure::Connect)?;
    // Longer answers are cut short by the server: no extension (EDNS) allows it more than 512 bytes.
    let mut buffer = [0; 512];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(Failure::Connect)?;
        if let Some(result) = judge(&buffer[..length], &asked) {
            return result.map_err(Failure::Dns);
        }
    }
}

/// A standard query that asks the server to resolve the name itself.
fn question(id: u16, query: &Query) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + 64);
    let flags = 0x0100;
    for field in [id, flags, 1, 0, 0, 0] {
        message.extend(field.to_be_bytes());
    }
    for label in query.labels() {
        // The configuration lets no label pass that is longer than 63.
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    let internet = 1_u16;
    message.extend(query.record().to_be_bytes());
    message.extend(internet.to_be_bytes());
    message
}

/// What an answer comes to; `None` if it isn't one to what was `asked`.
fn judge(answer: &[u8], asked: &[u8]) -> Option<Result<String, String>> {
    let header = answer.get(..HEADER)?;
    let field = |index: usize| u16::from_be_bytes([header[index], header[index + 1]]);
    let is_answer = field(2) & 0x8000 != 0;
    if !is_answer || header[..2] != asked[..2] {
        return None;
    }
    let (code, cut, questions, records) = (field(2) & 0xf, field(2) & 0x0200, field(4), field(6));
    let of_this = answer
        .get(HEADER..asked.len())
        .is_some_and(|question| question.eq_ignore_ascii_case(&asked[HEADER..]));
    match (code, questions) {
        // A server that couldn't read the question may leave it out.
        (1.., 0) => {}
        (_, 1) if of_this => {}
        _ => return None,
    }
    Some(match code {
        0 if records > 0 => Ok(format!("answered with {records} records")),
        0 if cut != 0 => Ok("answered with more than fits".to_owned()),
        0 => Err("without a record".to_owned()),
        1 => Err("FORMERR".to_owned()),
        2 => Err("SERVFAIL".to_owned()),
        3 => Err("NXDOMAIN".to_owned()),
        4 => Err("NOTIMP".to_owned()),
        5 => Err("REFUSED".to_owned()),
        code => Err(format!("with error {code}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Vec<u8> {
        question(0x1234, &"www.example.com AAAA".parse().unwrap())
    }

    fn answer(change: impl Fn(&mut Vec<u8>)) -> Option<Result<String, String>> {
        let mut answer = asked();
        answer[2] |= 0x80;
        change(&mut answer);
        judge(&answer, &asked())
    }

    #[test]
    fn a_question_is_as_the_rfc_has_it() {
        let expected = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x1c\0\x01";
        assert_eq!(asked(), expected);
        let root = question(1, &". NS".parse().unwrap());
        assert_eq!(root[HEADER..], *b"\0\0\x02\0\x01");
    }

    #[test]
    fn answers_are_judged_by_code_and_records() {
        assert_eq!(answer(|_| {}), Some(Err("without a record".into())));
        assert_eq!(
            answer(|a| a[7] = 2),
            Some(Ok("answered with 2 records".into()))
        );
        assert_eq!(
            answer(|a| a[2] |= 2),
            Some(Ok("answered with more than fits".into()))
        );
        for (code, word) in [
            (2, "SERVFAIL"),
            (3, "NXDOMAIN"),
            (5, "REFUSED"),
            (9, "with error 9"),
        ] {
            assert_eq!(answer(|a| a[3] = code), Some(Err(word.into())));
        }
        let without_question = |a: &mut Vec<u8>| {
            a.truncate(HEADER);
            (a[3], a[5]) = (1, 0);
        };
        assert_eq!(answer(without_question), Some(Err("FORMERR".into())));
        let shouting = |a: &mut Vec<u8>| {
            a[7] = 1;
            a[HEADER..].make_ascii_uppercase();
        };
        assert_eq!(answer(shouting), Some(Ok("answered with 1 records".into())));
    }

    #[test]
    fn what_is_no_answer_to_this_is_passed_over() {
        assert_eq!(answer(|a| a[0] ^= 1), None, "another id");
        assert_eq!(answer(|a| a[2] &= 0x7f), None, "a question");
        assert_eq!(answer(|a| a[13] = b'x'), None, "another name");
        assert_eq!(answer(|a| a.truncate(20)), None, "cut off");
        assert_eq!(answer(|a| a.truncate(HEADER - 1)), None, "no header");
        assert_eq!(judge(b"", &asked()), None);
    }
}
