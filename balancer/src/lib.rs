//! The daemon and the command line of balancer, as a library: the binary, the tests and the tools use it.

pub mod cluster;
pub mod config;
pub mod datapath;
pub mod exchange;
