//! The daemon: brings everything up, keeps it in step with the cluster, takes everything down again.
//!
//! `prepare` checks and opens what it needs, `start` brings it up, `running` is its life, of which `peers` and `commands` are
//! parts, as is `drain`; `guests` counts for peers that drain; `services` is what it knows of its services, `probes` how it finds out whether a
//! silent peer's host lives, `takeover` what it does about identities, `recovery` about the flows on them, `disputes` about those that others have as well, `links` what it
//! announces and sees on its links, `moves` about connections that move to another server, `interfaces` what it does when its interfaces change, `history`
//! what has changed, `report` what it tells of itself.

mod collector;
mod commands;
mod disputes;
mod drain;
mod guests;
mod history;
mod interfaces;
mod links;
mod moves;
mod peers;
mod prepare;
mod probes;
mod recovery;
mod report;
mod requests;
mod running;
mod services;
mod start;
mod takeover;
mod warnings;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use self::prepare::Prepared;
use self::running::Running;
use crate::config::{Config, Source};
use crate::control::Answer;
use crate::datapath::Mode;

/// What `attach` was asked for.
pub struct Options {
    /// File and flags.
    pub config: Config,
    /// Where that comes from.
    pub source: Source,
    /// How to attach.
    pub mode: Mode,
    /// Where maps and links are pinned.
    pub pin_dir: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// Leave everything in place at the end.
    pub persist: bool,
}

/// Runs until a signal or `detach` ends it.
///
/// # Errors
///
/// It could not start; then the host is as it was before, or, where a predecessor had been killed, as that left it.
pub async fn run(options: Options) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "`balancer attach` needs root: it loads programs into the kernel. Try `sudo balancer attach ...`"
        );
    }
    let persist = options.persist;
    let mut prepared = Prepared::new(options).await?;
    let adopted = prepared.host.has_adopted();
    match Running::run(&mut prepared).await {
        Ok(waiting) => {
            if waiting.is_some()
                && let Err(error) = drain::forget(&prepared.options.pin_dir)
            {
                log::error!("the next balancer here will drain: {error:#}");
            }
            let restored = if persist && waiting.is_none() {
                log::info!("everything is left in place (--persist); new flows stay here until balancer is back");
                Ok(())
            } else {
                let restored = prepared.host.restore().await;
                restored.context("not everything on this host is as it was before")
            };
            if let Some(waiting) = waiting {
                let answer = match &restored {
                    Ok(()) => Answer::Done,
                    Err(error) => Answer::Refused(format!("{error:#}")),
                };
                let _ = waiting.send(answer);
            }
            prepared.control.finish().await;
            restored
        }
        Err(error) if adopted => Err(error.context(
            "cannot take over from the balancer before this one, whose programs stay in place (`balancer detach IFACE` \
             removes them)",
        )),
        Err(error) => {
            if let Err(also) = prepared.host.restore().await {
                log::error!("not everything on this host is as it was before: {also:#}");
            }
            Err(error)
        }
    }
}

/// Whether a daemon that was killed, or that was told to, has left anything to be undone.
pub async fn has_left_changes(pin_dir: &Path) -> Result<bool> {
    Ok(prepare::open_host(pin_dir).await?.has_adopted())
}

/// Undoes what a daemon left that was killed, or that was told to leave it.
pub async fn restore(pin_dir: &Path) -> Result<()> {
    let host = prepare::open_host(pin_dir).await?;
    drain::forget(pin_dir)?;
    host.restore()
        .await
        .context("not everything on this host is as it was before")
}
