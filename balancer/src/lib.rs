//! The daemon and the command line of balancer, as a library: the binary, the tests and the tools use it.

pub mod agent;
pub mod ask;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod doctor;
pub mod exchange;
pub mod health;
pub mod http;
pub mod load;
pub mod run_dir;
mod sock_diag;
