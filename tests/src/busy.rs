//! What a host does in the background of a test.

use std::sync::mpsc::{self, Sender, TryRecvError};
use std::thread::JoinHandle;

use crate::Host;

/// What a host does until it is told to end, or until the test has failed.
pub struct Busy<T> {
    end: Sender<()>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Busy<T> {
    /// Begins. `act` is to look again and again whether it is to go on.
    pub fn new(host: &Host, act: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static) -> Self {
        let (end, ended) = mpsc::channel();
        let go_on = move || ended.try_recv() == Err(TryRecvError::Empty);
        let thread = host.spawn(move || act(&go_on));
        Self { end, thread }
    }

    /// What has come of it.
    pub fn end(self) -> T {
        drop(self.end);
        self.thread.join().expect("what the host did")
    }
}
