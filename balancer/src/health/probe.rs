//! One check of a service, once.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::ask::{self, Failure, Runner, Talk, Trust};
use crate::config::CheckKind;

/// Asks one service, again and again.
pub(super) struct Probe {
    kind: CheckKind,
    trust: Trust,
    runner: Runner,
}

impl Probe {
    pub(super) fn new(kind: CheckKind) -> Self {
        let checked = matches!(
            kind,
            CheckKind::Tls { host: Some(_), .. } | CheckKind::Http { host: Some(_), .. }
        );
        Self {
            kind,
            trust: Trust::new(checked),
            runner: Runner::default(),
        }
    }

    /// Asks once. It may take `limit` in all. The text says what the service answered.
    pub(super) async fn ask(&mut self, limit: Duration) -> Result<String, Failure> {
        let mut talk = Talk::default();
        let answer = timeout(limit, self.answer(&mut talk)).await;
        answer.unwrap_or_else(|_| Err(Failure::Timeout(limit, talk.waiting())))
    }

    async fn answer(&mut self, talk: &mut Talk) -> Result<String, Failure> {
        match &self.kind {
            CheckKind::Tcp { address, dialog } => {
                let stream = TcpStream::connect(address)
                    .await
                    .map_err(Failure::Connect)?;
                if dialog.is_empty() {
                    return Ok("accepted a connection".to_owned());
                }
                talk.follow(stream, dialog).await
            }
            CheckKind::Tls {
                address,
                host,
                dialog,
            } => {
                let stream = TcpStream::connect(address)
                    .await
                    .map_err(Failure::Connect)?;
                let name = match host {
                    Some(host) => ServerName::DnsName(host.name().clone()),
                    None => ServerName::IpAddress(address.ip().into()),
                };
                let mut stream = self.trust.connect(stream, name).await?;
                if dialog.is_empty() {
                    let _ = stream.shutdown().await;
                    return Ok("did a TLS handshake".to_owned());
                }
                talk.follow(stream, dialog).await
            }
            CheckKind::Http { url, host } => {
                let answer = ask::get(url, host.as_ref(), &mut self.trust).await?;
                Ok(format!("answered {}", answer.status))
            }
            CheckKind::Dns { address, query } => ask::resolve(*address, query).await,
            CheckKind::Command(command) => {
                let printed = ask::excerpt(&self.runner.run(command).await?);
                Ok(match printed.as_str() {
                    "" => "ended with 0".to_owned(),
                    line => format!("ended with 0: {line}"),
                })
            }
        }
    }
}
