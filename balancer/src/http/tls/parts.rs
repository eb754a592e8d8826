//! A TLS connection taken apart, so that it can go on elsewhere.

use std::io::{Read as _, Write as _};

use rustls::{ProtocolVersion, ServerConnection};
use tokio_rustls::server::TlsStream;

use super::keys::Secrets;
use super::whole::Whole;

/// A TLS 1.3 connection in parts. [`Records`](super::Records) goes on with it.
pub struct Parts<S> {
    /// What it came by.
    pub stream: S,
    /// Its keys.
    pub secrets: Secrets,
    /// What the client sent, opened, and nobody has read.
    pub plaintext: Vec<u8>,
    /// What came after that, as it came: mostly nothing, or the beginning of a record.
    pub raw: Vec<u8>,
}

/// Why a connection was not taken apart.
#[derive(Debug, thiserror::Error)]
pub enum Refusal<T> {
    /// It can't be now. It is as it was.
    #[error("{1}")]
    Kept(Box<T>, Reason),
    /// It is lost.
    #[error("the connection's keys cannot be had: {0}")]
    Lost(rustls::Error),
}

/// Why a connection can't be taken apart now.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Reason {
    /// TLS 1.2, or none yet.
    #[error("only TLS 1.3 can be moved")]
    Version,
    /// The handshake goes on.
    #[error("the TLS handshake is not over")]
    Handshaking,
    /// Flush it first.
    #[error("not all has been sent")]
    Unsent,
    /// A record is read in part.
    #[error("a TLS record is read in part")]
    WithinRecord,
    /// The client has ended its side.
    #[error("the client has closed TLS")]
    Closed,
    /// It broke before.
    #[error("TLS is broken: {0}")]
    Broken(rustls::Error),
}

/// Takes apart a connection that nothing waits to be sent on.
///
/// # Errors
///
/// It isn't TLS 1.3, or not now; it is given back then.
pub fn take_apart<S>(
    mut stream: TlsStream<Whole<S>>,
) -> Result<Parts<S>, Refusal<TlsStream<Whole<S>>>> {
    let (whole, session) = stream.get_mut();
    let unread = match unread(whole, session) {
        Ok(unread) => unread,
        Err(reason) => return Err(Refusal::Kept(Box::new(stream), reason)),
    };
    let (whole, mut session) = stream.into_inner();
    let mut plaintext = vec![0; unread];
    if let Err(error) = session.reader().read_exact(&mut plaintext) {
        return Err(Refusal::Lost(rustls::Error::General(error.to_string())));
    }
    let extracted = session.dangerous_extract_secrets();
    let secrets = extracted.map_err(Refusal::Lost)?;
    let secrets = Secrets::new(secrets).ok_or_else(|| {
        Refusal::Lost(rustls::Error::General("its suite is not known here".into()))
    })?;
    let (stream, raw) = whole.into_parts();
    Ok(Parts {
        stream,
        secrets,
        plaintext,
        raw: raw.into(),
    })
}

/// How many bytes rustls has opened that nobody has read, if that is all that it has.
fn unread<S>(whole: &Whole<S>, session: &mut ServerConnection) -> Result<usize, Reason> {
    if session.is_handshaking() {
        return Err(Reason::Handshaking);
    }
    if session.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Err(Reason::Version);
    }
    let state = session.process_new_packets().map_err(Reason::Broken)?;
    // An answer to a client's new keys waits for the next write. After it, the keys are others.
    let _ = session.writer().write(&[]);
    if session.wants_write() {
        return Err(Reason::Unsent);
    }
    if state.peer_has_closed() {
        return Err(Reason::Closed);
    }
    if !whole.is_between_records() {
        return Err(Reason::WithinRecord);
    }
    Ok(state.plaintext_bytes_to_read())
}
