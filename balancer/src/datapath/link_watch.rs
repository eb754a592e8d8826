//! Notice of changes to this host's links.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Hears of each change to a link of this network namespace (`RTNLGRP_LINK`, rtnetlink(7)). Dropping it ends that.
pub struct LinkWatch {
    news: Arc<Notify>,
    task: JoinHandle<()>,
}

impl LinkWatch {
    /// Begins to listen. Must be called within a tokio runtime.
    pub fn open() -> Result<Self> {
        let (connection, _, mut messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
                .context("cannot listen for changes of this host's interfaces (netlink)")?;
        let news = Arc::new(Notify::new());
        let heard = news.clone();
        let task = tokio::spawn(async move {
            let listen = async {
                // That the kernel had more to tell than could be heard is a message, too.
                while messages.next().await.is_some() {
                    heard.notify_one();
                }
            };
            tokio::join!(connection, listen);
        });
        Ok(Self { news, task })
    }

    /// Something about some link has changed since the last call. Cancel-safe.
    pub async fn changed(&mut self) {
        self.news.notified().await;
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
