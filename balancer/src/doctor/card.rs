//! What the driver of an interface can do and is set to: ethtool's netlink, and the kernel's `netdev` family.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr, EthtoolHandle};
use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _,
    NlasIterator, ParseableParametrized,
};

use super::link::Link;

/// What is known of an interface's driver. Empty where the kernel or the driver doesn't tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// Its name, as in `virtio_net`.
    pub driver: Option<String>,
    /// The offloads that are on, by the kernel's names, as in `rx-gro`.
    pub on: BTreeSet<String>,
    /// The offloads that can't be changed.
    pub fixed: BTreeSet<String>,
    /// Pairs of queues, and how many there can be.
    pub channels: Option<(u32, u32)>,
    /// What of XDP the driver can do (Linux 6.3 and later tell).
    pub xdp: Option<XdpFeatures>,
}

/// Bits of `enum netdev_xdp_act` (`include/uapi/linux/netdev.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// `NETDEV_XDP_ACT_BASIC`: native XDP.
    pub fn native(self) -> bool {
        self.0 & 1 != 0
    }

    /// `NETDEV_XDP_ACT_RX_SG`: frames of several pages.
    pub fn large_frames(self) -> bool {
        self.0 & 32 != 0
    }

    /// `NETDEV_XDP_ACT_NDO_XMIT`: frames can be redirected to it. On a veth: its other end has GRO on, or a program.
    pub fn transmit(self) -> bool {
        self.0 & 4 != 0
    }
}

impl Card {
    /// Asks for what is known of `link`.
    pub async fn read(link: &Link) -> Self {
        let mut card = Self {
            driver: link.device.as_ref().and_then(driver),
            ..Self::default()
        };
        let Ok((connection, mut handle, _)) = ethtool::new_connection() else {
            return card;
        };
        let task = tokio::spawn(connection);
        // A driver that lacks one of these answers with an error, which tells nothing else.
        for attribute in features(&mut handle, &link.name).await {
            match attribute {
                EthtoolFeatureAttr::Active(bits) => {
                    card.on.extend(bits.into_iter().map(|bit| bit.name));
                }
                EthtoolFeatureAttr::NoChange(bits) => {
                    card.fixed.extend(bits.into_iter().map(|bit| bit.name));
                }
                _ => {}
            }
        }
        card.channels = channels(&mut handle, &link.name).await;
        card.xdp = xdp_features(&mut handle, link.index).await;
        task.abort();
        card
    }

    /// Whether an offload is on.
    pub fn has(&self, feature: &str) -> bool {
        self.on.contains(feature)
    }

    /// Whether it computes checksums of what the host sends: veth then hands packets on without.
    pub fn leaves_checksums(&self) -> bool {
        self.on
            .iter()
            .any(|name| name.starts_with("tx-checksum-ip"))
    }
}

/// A bus is the same in all network namespaces, unlike `/sys/class/net`.
fn driver((bus, device): &(String, String)) -> Option<String> {
    let link = Path::new("/sys/bus")
        .join(bus)
        .join("devices")
        .join(device)
        .join("driver");
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

async fn features(handle: &mut EthtoolHandle, name: &str) -> Vec<EthtoolFeatureAttr> {
    let Ok(answers) = handle.feature().get(Some(name)).execute().await else {
        return Vec::new();
    };
    let messages: Vec<_> = answers.try_collect().await.unwrap_or_default();
    let attributes = messages
        .into_iter()
        .flat_map(|message| message.payload.nlas);
    attributes
        .filter_map(|attribute| match attribute {
            EthtoolAttr::Feature(feature) => Some(feature),
            _ => None,
        })
        .collect()
}

async fn channels(handle: &mut EthtoolHandle, name: &str) -> Option<(u32, u32)> {
    let answers = handle.channel().get(Some(name)).execute().await.ok()?;
    let messages: Vec<_> = answers.try_collect().await.ok()?;
    let (mut count, mut max) = (None, None);
    for attribute in messages
        .into_iter()
        .flat_map(|message| message.payload.nlas)
    {
        match attribute {
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(value)) => count = Some(value),
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(value)) => max = Some(value),
            _ => {}
        }
    }
    count.zip(max)
}

async fn xdp_features(handle: &mut EthtoolHandle, index: u32) -> Option<XdpFeatures> {
    let mut message = NetlinkMessage::from(GenlMessage::from_payload(Device::asked(index)));
    message.header.flags = NLM_F_REQUEST;
    let mut answers = handle.handle.request(message).await.ok()?;
    let answer = answers.next().await?.ok()?;
    match answer.payload {
        NetlinkPayload::InnerMessage(message) => message.payload.xdp_features(),
        _ => None,
    }
}

/// `NETDEV_CMD_DEV_GET` of the generic netlink family `netdev` (`Documentation/netlink/specs/netdev.yaml`).
#[derive(Debug)]
struct Device(Vec<DefaultNla>);

impl Device {
    /// `NETDEV_CMD_DEV_GET`.
    const GET: u8 = 1;
    /// `NETDEV_A_DEV_IFINDEX`, a u32.
    const INDEX: u16 = 1;
    /// `NETDEV_A_DEV_XDP_FEATURES`, a u64.
    const XDP_FEATURES: u16 = 3;

    fn asked(index: u32) -> Self {
        let index = DefaultNla::new(Self::INDEX, index.to_ne_bytes().to_vec());
        Self(vec![index])
    }

    fn xdp_features(&self) -> Option<XdpFeatures> {
        let attribute = self.0.iter().find(|nla| nla.kind() == Self::XDP_FEATURES)?;
        let mut value = [0; 8];
        if attribute.value_len() != value.len() {
            return None;
        }
        attribute.emit_value(&mut value);
        Some(XdpFeatures(u64::from_ne_bytes(value)))
    }
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        Self::GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.0.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(payload: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        use rtnetlink::packet_core::Parseable as _;
        NlasIterator::new(payload)
            .map(|nla| DefaultNla::parse(&nla?))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}
