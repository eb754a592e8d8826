//! Clusters with real traffic: nginx, curl, and the daemon itself, on hosts that are network namespaces.
//!
//! They need root. Without it they are skipped, unless `BALANCER_REQUIRE_ROOT` is set.

mod affinity;
mod agent;
mod crowd;
mod doctor;
mod drain;
mod explain;
mod failure;
mod handoff;
mod health;
mod host;
mod hostile;
mod http;
mod input;
mod interfaces;
mod load;
mod path_mtu;
mod recovery;
mod sample;
mod set;
mod steering;
mod takeover;
mod top;
mod trace;
mod tunnel;
mod udp;
