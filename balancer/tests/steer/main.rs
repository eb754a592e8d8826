//! The XDP program on single packets, by the kernel's own test runs (`BPF_PROG_TEST_RUN`).
//!
//! They need root. Without it they are skipped, unless `BALANCER_REQUIRE_ROOT` is set.

mod affinity;
mod agreement;
mod errors;
mod exposure;
mod flood;
mod flows;
mod fragments;
mod frame;
#[path = "../../../balancer-common/tests/fuzz/frames.rs"]
mod frames;
mod jumbo;
mod kinds;
mod loading;
mod malformed;
mod new_flows;
mod outcome;
mod packets;
mod parser;
mod peers;
mod pins;
mod server;
mod sockets;
mod sorts;
mod table;
mod trace;
mod tunnel;
mod udp;
