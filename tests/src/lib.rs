//! Clusters of servers in network namespaces, as values: what a test makes is gone when the test is over, however it ends.
//!
//! ```no_run
//! use balancer_tests::{Held, Lab, WITHOUT_CPU};
//!
//! let Some(mut lab) = Lab::new(3) else { return };
//! lab.start(WITHOUT_CPU, "native");
//! let held = Held::open(&lab.client, lab.server(1).address(), 40, 5);
//! println!("web1 keeps {} of 40", held.served_by("web1"));
//! held.finish();
//! ```
//!
//! Helpers panic where something fails that a test relies on, and say what.

mod busy;
mod condition;
mod daemon;
mod dns;
mod echo;
mod host;
mod http;
mod judgement;
mod lab;
mod leftovers;
mod process;
mod server;
mod web;

pub use busy::Busy;
pub use condition::{until, until_some};
pub use daemon::Daemon;
pub use dns::{Resolver, who_by_tcp};
pub use echo::{Datagrams, Echo};
pub use host::{Curl, Host};
pub use http::{Connection, Held, Response, connect_from};
pub use judgement::met;
pub use lab::{BY_CONNECTIONS, Lab, WITHOUT_CPU, adding};
pub use process::{Process, Signal};
pub use server::{Ended, Server};
