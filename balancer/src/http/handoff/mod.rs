//! Live hand-off: the client's connection itself moves to another server of the cluster, which goes on with it. The client
//! notices nothing, and the answer doesn't pass through this server.

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "connections are not taken out of hyper yet")
)]
mod socket;
