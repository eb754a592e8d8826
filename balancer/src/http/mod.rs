//! The content-aware module: requests of services with an `[[http]]` are routed one by one.
//!
//! `target` says what a request asks for, whatever way it is written; `route` decides who answers it, from a `view` of the
//! cluster that it is given. Neither has a clock, a socket or a random source.

mod choice;
pub mod explain;
pub mod route;
mod rules;
pub mod target;
pub mod ticket;
pub mod view;
