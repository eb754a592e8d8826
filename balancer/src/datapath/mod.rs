//! What balancer does inside the kernel of this host.

pub mod host;
