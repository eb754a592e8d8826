//! balancer: a peer-to-peer load balancer for groups of Linux servers.
fn main() {}
