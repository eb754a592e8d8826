//! What becomes of a packet, from the wire to the service that it is for.

use balancer_common::types::{ASSUMED, MAX_SERVICES, Reason, Settings};
use balancer_common::wire::{self, Headers, TCP, TUNNEL_PORT, UDP};

use crate::account::{NO_SERVICE, count};
use crate::carry::{Fate, carry_out};
use crate::maps::{PORTS, SETTINGS};
use crate::packet::XdpFrame;
use crate::steer::{Passage, identity};
use crate::tunnel;

#[inline(always)]
pub fn fate(frame: &XdpFrame) -> Fate {
    let headers = match Headers::parse(frame) {
        Ok(Some(headers)) => headers,
        Ok(None) => return unserved(frame, Reason::NOT_OURS),
        Err(_) => return unserved(frame, Reason::ODD),
    };
    let entry = match headers.port() {
        Some(port) => match service_on(headers.protocol(), port) {
            Some(service) => service + 1,
            None if port == TUNNEL_PORT && headers.is_datagram() => {
                return tunnel::arrive(frame);
            }
            None => return unserved(frame, Reason::NOT_OURS),
        },
        None => NO_SERVICE,
    };
    let Some(settings) = SETTINGS.get(0) else {
        return local(entry, Reason::ERRORS);
    };
    if !is_for_us(frame, settings) {
        return local(entry, Reason::NOT_OURS);
    }
    let Some(passage) = Passage::new(frame, headers.packet(), entry, settings) else {
        return local(entry, Reason::ERRORS);
    };
    #[cfg(feature = "packet-log")]
    log_packet(frame, passage.flow);
    carry_out(&passage, passage.verdict())
}

/// A line in the daemon's log. For debugging: it costs more than all else here.
#[cfg(feature = "packet-log")]
#[inline(always)]
fn log_packet(frame: &XdpFrame, flow: &balancer_common::types::FlowKey) {
    aya_log_ebpf::info!(
        frame.ctx(),
        "[{:i}]:{} -> [{:i}]:{} protocol {}",
        flow.client.octets,
        flow.client_port,
        flow.identity.octets,
        flow.port,
        flow.protocol
    );
}

/// Index into `SERVICES` of the service on this port.
#[inline(always)]
pub fn service_on(protocol: u8, port: u16) -> Option<u32> {
    let entry = PORTS.get(u32::from(port))?;
    let number = u32::from(match protocol {
        TCP => entry.tcp,
        UDP => entry.udp,
        _ => 0,
    });
    (1..=MAX_SERVICES).contains(&number).then(|| number - 1)
}

/// Whether the frame is addressed to one of our interfaces. A switch floods others', and TCP ignores what is sent to a group
/// (RFC 1122 section 4.2.3.10).
#[inline(always)]
pub fn is_for_us(frame: &XdpFrame, settings: &Settings) -> bool {
    wire::destination_mac(frame).is_some_and(|mac| settings.macs.contains(&mac))
}

/// A packet of no service: the local stack's, unless it is for an identity that this server stands in for. There nothing
/// answers but the cluster's services, and echo.
#[inline(always)]
pub fn unserved(frame: &XdpFrame, reason: Reason) -> Fate {
    let hidden = SETTINGS
        .get(0)
        .is_some_and(|settings| settings.assumed != 0)
        && (wire::is_overtagged(frame)
            || wire::hidden_destination(frame)
                .and_then(|address| identity(&address))
                .is_some_and(|identity| identity.kind == ASSUMED));
    if hidden {
        count(NO_SERVICE, Reason::NOT_EXPOSED);
        return Fate::Drop;
    }
    local(NO_SERVICE, reason)
}

#[inline(always)]
pub fn local(entry: u32, reason: Reason) -> Fate {
    count(entry, reason);
    Fate::Local
}
