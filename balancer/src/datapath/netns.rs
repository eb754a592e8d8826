//! The network namespace of this thread.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;

use anyhow::{Context as _, Result};

/// Its cookie, which no other namespace has until the next boot (`SO_NETNS_COOKIE`, Linux 5.14).
pub fn cookie() -> Result<u64> {
    read().context("cannot learn this network namespace's cookie")
}

fn read() -> io::Result<u64> {
    // A socket of any kind knows it. This one needs no address, nor an interface that is up.
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0u64;
    let mut len = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: the socket is open, and the kernel writes no more than `len` bytes to the cookie.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}
