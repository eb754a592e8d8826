//! What balancer's XDP program and its daemon share: the types in the maps, the views of packets and the decision.
//!
//! Everything here is `no_std` and is tested on the host, so that what the kernel runs is what the tests ran.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

pub mod bench;
pub mod decide;
#[cfg(not(target_arch = "bpf"))]
pub mod forecast;
pub mod hash;
pub mod table;
pub mod types;
pub mod wire;
