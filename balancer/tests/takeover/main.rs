//! Takeover and hand-back among many servers in virtual time.
//!
//! `cargo xtask takeover` runs ten thousand random worlds, not a few, and the largest clusters.

mod checks;
mod scenarios;
mod story;
mod world;
