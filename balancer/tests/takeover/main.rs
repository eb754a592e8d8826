//! Takeover and hand-back among many servers in virtual time.
//!
//! `BALANCER_SEEDS=10000 cargo test --release -p balancer --test takeover` runs more than a few random worlds.

mod checks;
mod scenarios;
mod story;
mod world;
