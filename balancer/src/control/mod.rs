//! The Unix socket by which commands speak to the daemon: one JSON request a connection, one JSON answer.

mod client;
mod server;
pub mod status;

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::client::ask;
pub use self::server::{Question, Server, forget};
use self::status::Status;
use crate::config::Setting;
use crate::http::explain::Explanation;

/// Where the socket is, if nothing says otherwise.
pub const DEFAULT_PATH: &str = "/run/balancer/control.sock";

/// What a command wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// How the server and its cluster are.
    Status,
    /// Send new connections to peers, or take them again.
    Drain(bool),
    /// Change the configuration; save that to the file, too, or not.
    Set(Vec<Setting>, bool),
    /// What would become of an HTTP request.
    Explain {
        /// Its method.
        method: String,
        /// What it asks for.
        url: String,
        /// Who asks.
        client: IpAddr,
    },
    /// Tell of decisions for a moment.
    Trace,
    /// Leave these interfaces, which must be all, and end.
    Detach(Vec<String>),
}

/// What the daemon says to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Explain`].
    Explained(Box<Explanation>),
    /// To [`Request::Set`]: all is in effect, and in this file.
    Set(Option<PathBuf>),
    /// Done.
    Done,
    /// Not done, and why. Nothing has changed.
    Refused(String),
}
