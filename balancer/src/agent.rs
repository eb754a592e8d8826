//! What a proxy before the cluster is told of this server: `HAProxy`'s agent-check (its configuration manual, section 5.2), one
//! line for each connection. So a proxy that balances by weight goes by the same load and health as the peers do.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::Service;

/// How long a proxy may take to read a line.
const PATIENCE: Duration = Duration::from_secs(1);

/// After an error of the listening socket, as when there are no more files.
const PAUSE: Duration = Duration::from_millis(100);

/// The agents of all services that have one. They end when it is dropped.
pub struct Agents {
    states: Vec<watch::Sender<State>>,
    tasks: JoinSet<()>,
}

/// How a service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Own load, in basis points.
    pub load: u32,
    /// Its checks succeed.
    pub healthy: bool,
    /// It takes nothing new.
    pub draining: bool,
}

impl Agents {
    /// Listens where the services say. Until it is told how they are, they are down.
    ///
    /// # Errors
    ///
    /// An address can't be had.
    pub async fn start(services: &[Service]) -> Result<Self> {
        let mut agents = Self {
            states: Vec::new(),
            tasks: JoinSet::new(),
        };
        for service in services {
            let (sender, state) = watch::channel(State::default());
            agents.states.push(sender);
            let Some(address) = service.agent else {
                continue;
            };
            let listener = TcpListener::bind(address).await.with_context(|| {
                format!(
                    "the agent of service {}: cannot listen at {address}",
                    service.name
                )
            })?;
            agents.tasks.spawn(serve(listener, address, state));
        }
        Ok(agents)
    }

    /// How a service is from now on.
    pub fn set(&self, service: usize, state: State) {
        if let Some(sender) = self.states.get(service) {
            sender.send_replace(state);
        }
    }
}

async fn serve(listener: TcpListener, address: SocketAddr, state: watch::Receiver<State>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let line = state.borrow().line();
                // Who doesn't read it asks again.
                let _ = timeout(PATIENCE, tell(stream, line)).await;
            }
            Err(error) => {
                log::warn!("the agent at {address}: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn tell(mut stream: TcpStream, line: String) -> io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await?;
    // What it has sent (`agent-send`) says nothing; left unread, it would make the close a reset.
    let _ = stream.try_read(&mut [0; 256]);
    Ok(())
}

impl State {
    /// As `HAProxy` reads it: the weight is what is left of the capacity. `ready` ends a `drain` said before.
    fn line(self) -> String {
        if !self.healthy {
            return "down #its check fails\n".to_owned();
        }
        if self.draining {
            return "drain\n".to_owned();
        }
        // A weight of 0 would be a drain.
        let left = 100_u32.saturating_sub(self.load / 100).max(1);
        format!("ready up {left}%\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[test]
    fn the_weight_is_what_is_left() {
        let state = |load, healthy, draining| State {
            load,
            healthy,
            draining,
        };
        for (state, line) in [
            (state(0, true, false), "ready up 100%\n"),
            (state(2_550, true, false), "ready up 75%\n"),
            (state(9_999, true, false), "ready up 1%\n"),
            (state(25_000, true, false), "ready up 1%\n"),
            (state(0, true, true), "drain\n"),
            (state(0, false, true), "down #its check fails\n"),
        ] {
            assert_eq!(state.line(), line);
        }
    }

    #[tokio::test]
    async fn each_connection_gets_one_line() {
        let (sender, state) = watch::channel(State::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, address, state));
        let ask = async |said: &[u8]| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            let mut line = String::new();
            stream.read_to_string(&mut line).await.unwrap();
            line
        };
        assert_eq!(ask(b"").await, "down #its check fails\n");
        sender.send_replace(State {
            load: 2_500,
            healthy: true,
            draining: false,
        });
        assert_eq!(ask(b"www\n").await, "ready up 75%\n");
        task.abort();
    }
}
