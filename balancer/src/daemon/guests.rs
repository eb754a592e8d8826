//! The connections that draining peers steered to this server: they wait for them to end.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::cluster::{Cluster, Guests, MAX_GUESTS, ServerId};
use crate::config::{Protocol, Service};
use crate::load::each_open;

/// Counts them, as long as a peer drains: the kernel writes out its whole socket table for it.
#[derive(Default)]
pub struct GuestCounts {
    last: Vec<Guests>,
    counting: Option<JoinHandle<Result<Vec<Guests>>>>,
}

impl GuestCounts {
    /// As last counted.
    pub fn last(&self) -> Vec<Guests> {
        self.last.clone()
    }

    /// Begins to count anew, beside what else is to be done.
    pub fn begin<'a>(&mut self, cluster: &Cluster, services: impl Iterator<Item = &'a Service>) {
        if self.counting.is_some() {
            return;
        }
        let draining = cluster
            .peers()
            .filter(|peer| peer.status.is_alive() && peer.report.draining)
            .take(MAX_GUESTS);
        let directors: Vec<_> = draining
            .map(|peer| {
                let addresses = peer.report.held().map(|identity| identity.addr());
                (peer.report.server, addresses.collect::<Vec<_>>())
            })
            .collect();
        if directors.is_empty() {
            self.last.clear();
            return;
        }
        let services: Vec<_> = services.cloned().collect();
        self.counting = Some(spawn_blocking(move || count(&directors, &services)));
    }

    /// Takes in what was counted, if that is done.
    pub async fn finish(&mut self) -> Result<()> {
        if let Some(counting) = self.counting.take_if(|counting| counting.is_finished()) {
            self.last = counting.await??;
        }
        Ok(())
    }
}

fn count(directors: &[(ServerId, Vec<IpAddr>)], services: &[Service]) -> Result<Vec<Guests>> {
    let mut guests: Vec<_> = directors
        .iter()
        .map(|(of, _)| Guests {
            of: *of,
            connections: 0,
        })
        .collect();
    let by_address: BTreeMap<IpAddr, usize> = directors
        .iter()
        .enumerate()
        .flat_map(|(index, (_, addresses))| addresses.iter().map(move |address| (*address, index)))
        .collect();
    each_open(|local| {
        let offered = |service: &Service| service.has(Protocol::Tcp, local.port());
        if let Some(index) = by_address.get(&local.ip())
            && services.iter().any(offered)
        {
            guests[*index].connections += 1;
        }
    })?;
    Ok(guests)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn counts_by_director_and_only_what_is_of_a_service() {
        let listener = TcpListener::bind("127.0.0.7:0").unwrap();
        let address = listener.local_addr().unwrap();
        let elsewhere = TcpListener::bind("127.0.0.7:0").unwrap();
        let _open: Vec<_> = [address, address, elsewhere.local_addr().unwrap()]
            .map(|address| TcpStream::connect(address).unwrap())
            .into();
        let mut service = crate::config::Config::default().services.remove(0);
        service.ports = vec![format!("{}/tcp", address.port()).parse().unwrap()];
        let directors = [
            (ServerId(1), vec!["127.0.0.8".parse().unwrap()]),
            (
                ServerId(2),
                vec!["::1".parse().unwrap(), "127.0.0.7".parse().unwrap()],
            ),
        ];
        let counts: Vec<_> = count(&directors, &[service])
            .unwrap()
            .iter()
            .map(|guests| (guests.of.0, guests.connections))
            .collect();
        assert_eq!(counts, [(1, 0), (2, 2)]);
    }
}
