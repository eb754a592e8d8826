//! The XDP program on single packets, by the kernel's own test runs (`BPF_PROG_TEST_RUN`).
//!
//! They need root. Without it they are skipped, unless `BALANCER_REQUIRE_ROOT` is set.

mod agreement;
mod flood;
mod flows;
mod frame;
mod loading;
mod new_flows;
mod outcome;
mod packets;
mod peers;
mod pins;
mod server;
mod sockets;
mod sorts;
mod table;
