//! Asks other programs something, once: over TCP, TLS, HTTP or DNS, or by a command. Used for checks of services and for
//! the user's measure of load.
//!
//! Nothing here limits its own time: dropping the future ends the question, and whatever was started for it.

mod command;
mod dialog;
mod dns;
mod http;
mod tls;

use std::error::Error;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use hyper::StatusCode;

pub use self::command::Runner;
pub use self::dialog::Talk;
pub use self::dns::resolve;
pub use self::http::get;
pub use self::tls::Trust;

/// Most that is read of an answer, in bytes.
pub const READ_MAX: usize = 64 * 1024;

/// Longest excerpt of an answer in a message, in characters.
const EXCERPT_MAX: usize = 120;

/// Why there is no answer that will do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It can't be reached.
    #[error("no connection: {0}")]
    Connect(io::Error),
    /// The certificates of this host, which would tell whom to trust, can't be read.
    #[error("cannot read this host's trusted certificates: {0}")]
    Roots(String),
    /// The TLS handshake failed.
    #[error("no TLS connection: {0}")]
    Tls(io::Error),
    /// The connection broke off.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// It hung up before it had said what it should.
    #[error("hung up; {0}")]
    HungUp(String),
    /// Not HTTP, or not all of it.
    #[error("no answer that makes sense: {0}{cause}", cause = cause(.0))]
    Http(#[from] hyper::Error),
    /// An HTTP status that doesn't speak of success.
    #[error("answered {0}")]
    Status(StatusCode),
    /// A DNS answer without what was asked for.
    #[error("answered {0}")]
    Dns(String),
    /// A command that can't be started.
    #[error("cannot run {0}: {1}")]
    Start(String, io::Error),
    /// A command that failed, and the first line that it printed.
    #[error("ended with {}{}", ended(*.0), said(.1))]
    Ended(ExitStatus, String),
    /// More than [`READ_MAX`].
    #[error("said more than {} KiB", READ_MAX / 1024)]
    TooMuch,
    /// It took too long; the text says what was waited for, where that is known.
    #[error("took longer than {} ms{}", .0.as_millis(), said(.1))]
    Timeout(Duration, String),
}

/// The beginning of `bytes`, fit for a log: one line, no control characters.
pub fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * EXCERPT_MAX)]);
    let line = text.trim().lines().next().unwrap_or_default().trim_end();
    let mut excerpt: String = line
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(EXCERPT_MAX)
        .collect();
    if line.chars().count() > EXCERPT_MAX {
        excerpt.push_str("...");
    }
    excerpt
}

/// What hyper's own message leaves out.
fn cause(error: &hyper::Error) -> String {
    error
        .source()
        .map_or_else(String::new, |cause| format!(": {cause}"))
}

/// `exit status: 2` without what goes without saying.
fn ended(status: ExitStatus) -> String {
    status.to_string().replace("exit status: ", "")
}

fn said(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_fit_for_a_log() {
        assert_eq!(excerpt(b"ok\r\nmore\n"), "ok");
        assert_eq!(excerpt(b"\n\n  73 %\n"), "73 %");
        assert_eq!(excerpt(b"\x1b[31mred\x07"), "?[31mred?");
        assert_eq!(excerpt(b"\xff\xfe"), "\u{fffd}\u{fffd}");
        assert_eq!(excerpt(b""), "");
        let long = excerpt(&[b'x'; 10_000]);
        assert_eq!(long, format!("{}...", "x".repeat(EXCERPT_MAX)));
    }
}
