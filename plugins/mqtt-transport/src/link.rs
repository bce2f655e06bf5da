//! One connection to the broker, from CONNECT to its end, over either protocol version.
//!
//! The only module that names the client library. A connection that broke is thrown away with
//! the client and everything in it, because the library loses or reorders messages when it
//! reconnects by itself; what matters is in our outbox. A task of its own polls the library and
//! does nothing else; whoever holds the [`Link`] reads its signals and never waits for room.

mod options;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5 as packets5;
use rumqttc::{mqttbytes::v4 as packets4, v5};
use rustls::ClientConfig;
use tokio::task::JoinHandle;

use crate::address::Parcel;
use crate::tls::explain;
use options::{options5, options311, properties_of};

/// Messages, confirmations and subscriptions that may wait inside the client library.
pub(crate) const HANDED_MAX: usize = 96;
/// Signals that may wait for the courier; the connection is not read meanwhile.
const SIGNALS_MAX: usize = 64;
/// Unconfirmed requests that the broker may send us at once.
pub(crate) const RECEIVE_MAX: u16 = 32;
/// Packet ids in turn; more than are ever on the wire, so that none is taken twice.
const PACKET_IDS: u16 = 1024;
/// How long the broker keeps requests for us while we are away.
const SESSION_EXPIRY_S: u32 = 3600;
const CONNECT_TIMEOUT_S: u64 = 10;
/// Properties of a request beyond this are not looked at.
const PROPERTIES_MAX: usize = 32;

/// Protocol version of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    V5,
    V311,
}

/// What a connection is opened with.
#[derive(Debug, Clone)]
pub(crate) struct LinkOptions {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) client_id: String,
    pub(crate) credentials: Option<(String, String)>,
    pub(crate) keep_alive: Duration,
    /// What the broker says of us when we vanish: topic and words, retained.
    pub(crate) will: Option<(String, &'static str)>,
    /// The broker keeps what comes for us while we are away.
    pub(crate) keeps_session: bool,
    /// Largest packet that is taken in, in bytes.
    pub(crate) packet_bytes_max: u32,
}

/// A message that came in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) retained: bool,
    pub(crate) expiry: Option<Duration>,
    pub(crate) response_topic: Option<String>,
    pub(crate) correlation: Option<Bytes>,
    pub(crate) content_type: Option<String>,
    pub(crate) properties: Vec<(String, String)>,
    /// What its confirmation is given with; `None` for QoS 0.
    pub(crate) packet_id: Option<u16>,
}

/// What happens on a connection.
#[derive(Debug)]
pub(crate) enum Signal {
    Up(Up),
    /// The broker's answer to the subscription: filters refused, by index.
    Subscribed {
        refused: Vec<usize>,
    },
    Message(Box<Message>),
    /// A message whose topic is no UTF-8, with its packet id.
    Unreadable(Option<u16>),
    /// A publication left the library; QoS 0 has packet id 0.
    Sent(u16),
    /// A subscription, the end of one, or a confirmation left the library.
    WordSent,
    /// The broker answered a publication, and says why if it refused it.
    Acknowledged {
        packet_id: u16,
        refused: Option<String>,
    },
    /// Something else went by: the connection lives.
    Alive,
    /// The connection is over; nothing follows.
    Down(Break),
}

/// What the broker said when the connection came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Up {
    /// The broker kept our session: it sends first what it kept for us.
    pub(crate) resumed: bool,
    /// Largest packet that the broker takes, in bytes.
    pub(crate) packet_bytes_max: Option<usize>,
    /// Unconfirmed publications that the broker takes.
    pub(crate) receive_max: Option<u16>,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Break {
    /// The broker does not speak this protocol version, or hung up before it said anything.
    Version(String),
    /// One side does not take the other's certificate, or speaks no TLS.
    Tls(String),
    /// The broker refused us.
    Refused(String),
    /// A packet came that cannot be read or is too large; a kept session would send it again.
    Poison(String),
    /// Anything else.
    Lost(String),
}

impl std::fmt::Display for Break {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Version(why)
        | Self::Tls(why)
        | Self::Refused(why)
        | Self::Poison(why)
        | Self::Lost(why)) = self;
        f.write_str(why)
    }
}

/// One connection. Dropping it ends it without a word, and the broker publishes the will.
#[derive(Debug)]
pub(crate) struct Link {
    client: Client,
    signals: flume::Receiver<Signal>,
    pump: JoinHandle<()>,
}

enum Client {
    V5(v5::AsyncClient),
    V311(rumqttc::AsyncClient),
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V5(_) => "V5",
            Self::V311(_) => "V311",
        })
    }
}

impl Link {
    /// Begins to connect. A clean start throws away what the broker kept for us.
    pub(crate) fn open(options: &LinkOptions, dialect: Dialect, clean: bool) -> Self {
        let (sender, signals) = flume::bounded(SIGNALS_MAX);
        // Room for a disconnect beside everything that the courier counts.
        let room = HANDED_MAX + 8;
        let (client, pump) = match dialect {
            Dialect::V5 => {
                let (client, events) = v5::AsyncClient::new(options5(options, clean), room);
                (Client::V5(client), tokio::spawn(pump5(events, sender)))
            }
            Dialect::V311 => {
                let (client, mut events) =
                    rumqttc::AsyncClient::new(options311(options, clean), room);
                events.network_options.set_connection_timeout(CONNECT_TIMEOUT_S);
                events.network_options.set_tcp_nodelay(true);
                (Client::V311(client), tokio::spawn(pump311(events, sender)))
            }
        };
        Self { client, signals, pump }
    }

    /// The next signal. Dropping the future loses nothing.
    pub(crate) async fn signal(&self) -> Signal {
        self.signals.recv_async().await.unwrap_or_else(|_| {
            Signal::Down(Break::Lost("the connection's task ended without a word".into()))
        })
    }

    /// Hands a message to the library; `false` when the connection is over.
    ///
    /// The caller keeps the number of handed messages at [`HANDED_MAX`] or less.
    pub(crate) fn publish(&self, parcel: Parcel) -> bool {
        match &self.client {
            Client::V5(client) => {
                use v5::mqttbytes::QoS;
                let qos = if parcel.reliable { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                let (topic, payload, retain) =
                    (parcel.topic.clone(), parcel.payload.clone(), parcel.retain);
                let properties = properties_of(parcel);
                client.try_publish_with_properties(topic, qos, retain, payload, properties).is_ok()
            }
            Client::V311(client) => {
                use rumqttc::QoS;
                let qos = if parcel.reliable { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                client.try_publish(parcel.topic, qos, parcel.retain, parcel.payload).is_ok()
            }
        }
    }

    /// Confirms a message of this connection to the broker; `false` when the connection is over.
    ///
    /// It counts among the handed ones until [`Signal::WordSent`].
    pub(crate) fn confirm(&self, packet_id: u16) -> bool {
        match &self.client {
            Client::V5(client) => client
                .try_ack(&packets5::Publish {
                    qos: v5::mqttbytes::QoS::AtLeastOnce,
                    pkid: packet_id,
                    ..packets5::Publish::default()
                })
                .is_ok(),
            Client::V311(client) => {
                let mut publish = packets4::Publish::new("", rumqttc::QoS::AtLeastOnce, []);
                publish.pkid = packet_id;
                client.try_ack(&publish).is_ok()
            }
        }
    }

    /// Asks for everything that `filters` match, at QoS 1.
    pub(crate) fn subscribe(&self, filters: Vec<String>) -> bool {
        self.subscribe_at(filters, (v5::mqttbytes::QoS::AtLeastOnce, rumqttc::QoS::AtLeastOnce))
    }

    /// Asks for what is worth nothing later, at QoS 0: the broker keeps none of it.
    pub(crate) fn subscribe_loosely(&self, filters: Vec<String>) -> bool {
        self.subscribe_at(filters, (v5::mqttbytes::QoS::AtMostOnce, rumqttc::QoS::AtMostOnce))
    }

    fn subscribe_at(&self, filters: Vec<String>, qos: (v5::mqttbytes::QoS, rumqttc::QoS)) -> bool {
        match &self.client {
            Client::V5(client) => {
                let filter = |path| packets5::Filter::new(path, qos.0);
                client.try_subscribe_many(filters.into_iter().map(filter)).is_ok()
            }
            Client::V311(client) => {
                let filter = |path| packets4::SubscribeFilter::new(path, qos.1);
                client.try_subscribe_many(filters.into_iter().map(filter)).is_ok()
            }
        }
    }

    /// Asks for nothing more that `filter` matches.
    pub(crate) fn unsubscribe(&self, filter: String) -> bool {
        match &self.client {
            Client::V5(client) => client.try_unsubscribe(filter).is_ok(),
            Client::V311(client) => client.try_unsubscribe(filter).is_ok(),
        }
    }

    /// Says goodbye: the broker drops the will. The end comes as a signal.
    pub(crate) fn disconnect(&self) -> bool {
        match &self.client {
            Client::V5(client) => client.try_disconnect().is_ok(),
            Client::V311(client) => client.try_disconnect().is_ok(),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// Bytes that a message takes on the wire, at most.
pub(crate) fn wire_bytes(parcel: &Parcel) -> usize {
    let properties: usize =
        parcel.properties.iter().map(|(name, value)| 5 + name.len() + value.len()).sum();
    let correlation = parcel.correlation.as_ref().map_or(0, |bytes| 3 + bytes.len());
    let response = parcel.response_topic.as_ref().map_or(0, |topic| 3 + topic.len());
    32 + parcel.topic.len()
        + parcel.payload.len()
        + parcel.content_type.len()
        + correlation
        + response
        + properties
}

async fn pump5(mut events: v5::EventLoop, signals: flume::Sender<Signal>) {
    let mut up = false;
    loop {
        let signal = match events.poll().await {
            Ok(v5::Event::Incoming(packet)) => {
                up |= matches!(packet, packets5::Packet::ConnAck(_));
                incoming5(packet)
            }
            Ok(v5::Event::Outgoing(outgoing)) => outgoing_signal(&outgoing),
            Err(error) => Signal::Down(break5(&error, up)),
        };
        let over = matches!(signal, Signal::Down(_));
        if signals.send_async(signal).await.is_err() || over {
            return;
        }
    }
}

async fn pump311(mut events: rumqttc::EventLoop, signals: flume::Sender<Signal>) {
    let mut up = false;
    loop {
        let signal = match events.poll().await {
            Ok(rumqttc::Event::Incoming(packet)) => {
                up |= matches!(packet, packets4::Packet::ConnAck(_));
                incoming311(packet)
            }
            Ok(rumqttc::Event::Outgoing(outgoing)) => outgoing_signal(&outgoing),
            Err(error) => Signal::Down(break311(&error, up)),
        };
        let over = matches!(signal, Signal::Down(_));
        if signals.send_async(signal).await.is_err() || over {
            return;
        }
    }
}

fn incoming5(packet: packets5::Packet) -> Signal {
    use packets5::{Packet, PubAckReason, SubscribeReasonCode};
    match packet {
        Packet::ConnAck(connack) => {
            let properties = connack.properties.as_ref();
            Signal::Up(Up {
                resumed: connack.session_present,
                packet_bytes_max: properties
                    .and_then(|properties| properties.max_packet_size)
                    .map(|bytes| bytes as usize),
                receive_max: properties.and_then(|properties| properties.receive_max),
            })
        }
        Packet::SubAck(suback) => Signal::Subscribed {
            refused: refused(suback.return_codes.iter(), |code| {
                matches!(code, SubscribeReasonCode::Success(_))
            }),
        },
        Packet::PubAck(puback) => Signal::Acknowledged {
            packet_id: puback.pkid,
            refused: match puback.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
                reason => Some(format!("{reason:?}")),
            },
        },
        Packet::Publish(publish) => message5(publish),
        Packet::Disconnect(disconnect) => {
            Signal::Down(Break::Refused(goodbye(disconnect.reason_code)))
        }
        _ => Signal::Alive,
    }
}

fn not_let_in(code: &dyn std::fmt::Debug) -> String {
    format!("the broker does not let us in ({code:?}): check mqtt.username and mqtt.password")
}

/// Why the broker ends the connection, in words where the reason is ours to mend.
fn goodbye(code: packets5::DisconnectReasonCode) -> String {
    use packets5::DisconnectReasonCode as Code;
    match code {
        Code::SessionTakenOver => {
            "another client came with the same client id: give each node its own mqtt.client_id"
                .into()
        }
        code => format!("the broker hung up: {code:?}"),
    }
}

fn message5(publish: packets5::Publish) -> Signal {
    let Ok(topic) = String::from_utf8(publish.topic.to_vec()) else {
        return Signal::Unreadable((publish.pkid != 0).then_some(publish.pkid));
    };
    let properties = publish.properties.unwrap_or_default();
    let mut user = properties.user_properties;
    user.truncate(PROPERTIES_MAX);
    Signal::Message(Box::new(Message {
        topic,
        payload: publish.payload,
        retained: publish.retain,
        expiry: properties
            .message_expiry_interval
            .map(|seconds| Duration::from_secs(u64::from(seconds))),
        response_topic: properties.response_topic,
        correlation: properties.correlation_data,
        content_type: properties.content_type,
        properties: user,
        packet_id: (publish.pkid != 0).then_some(publish.pkid),
    }))
}

fn incoming311(packet: packets4::Packet) -> Signal {
    use packets4::{Packet, SubscribeReasonCode};
    match packet {
        Packet::ConnAck(connack) => Signal::Up(Up {
            resumed: connack.session_present,
            packet_bytes_max: None,
            receive_max: None,
        }),
        Packet::SubAck(suback) => Signal::Subscribed {
            refused: refused(suback.return_codes.iter(), |code| {
                matches!(code, SubscribeReasonCode::Success(_))
            }),
        },
        Packet::PubAck(puback) => Signal::Acknowledged { packet_id: puback.pkid, refused: None },
        Packet::Publish(publish) => Signal::Message(Box::new(Message {
            topic: publish.topic,
            payload: publish.payload,
            retained: publish.retain,
            packet_id: (publish.pkid != 0).then_some(publish.pkid),
            ..Message::default()
        })),
        _ => Signal::Alive,
    }
}

fn refused<T>(codes: impl Iterator<Item = T>, granted: impl Fn(T) -> bool) -> Vec<usize> {
    codes.enumerate().filter_map(|(index, code)| (!granted(code)).then_some(index)).collect()
}

fn outgoing_signal(outgoing: &rumqttc::Outgoing) -> Signal {
    use rumqttc::Outgoing;
    match outgoing {
        Outgoing::Publish(packet_id) => Signal::Sent(*packet_id),
        Outgoing::Subscribe(_) | Outgoing::Unsubscribe(_) | Outgoing::PubAck(_) => Signal::WordSent,
        // The library held a publication back because its packet id is still taken. From here on
        // its order is not ours, and it may forget one: begin anew.
        Outgoing::AwaitAck(packet_id) => {
            Signal::Down(Break::Lost(format!("the broker never confirmed packet {packet_id}")))
        }
        _ => Signal::Alive,
    }
}

fn break5(error: &v5::ConnectionError, up: bool) -> Break {
    use packets5::ConnectReturnCode as Code;
    use v5::{ConnectionError, StateError};
    // The library does not name this one as the source of the error.
    let inner = match error {
        ConnectionError::MqttState(StateError::Deserialization(inner)) => explain(inner),
        _ => None,
    };
    if let Some(why) = inner.or_else(|| explain(error)) {
        return Break::Tls(why);
    }
    match error {
        ConnectionError::ConnectionRefused(
            Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion,
        ) => Break::Version("the broker does not speak MQTT 5".into()),
        ConnectionError::ConnectionRefused(
            code @ (Code::NotAuthorized | Code::BadUserNamePassword),
        ) => Break::Refused(not_let_in(&code)),
        ConnectionError::ConnectionRefused(code) => Break::Refused(format!("{code:?}")),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            Break::Refused(goodbye(*reason_code))
        }
        // A line that breaks is no packet: what the broker keeps for us stays good.
        ConnectionError::MqttState(StateError::Deserialization(v5::mqttbytes::Error::Io(
            error,
        ))) if up => Break::Lost(error.to_string()),
        ConnectionError::MqttState(StateError::Deserialization(error)) if up => {
            Break::Poison(error.to_string())
        }
        // Without CONNACK there is no connection yet: an old broker hangs up, or says no in the
        // words of 3.1.1, which do not parse here.
        ConnectionError::MqttState(error) if !up => Break::Version(error.to_string()),
        error => Break::Lost(error.to_string()),
    }
}

fn break311(error: &rumqttc::ConnectionError, up: bool) -> Break {
    use rumqttc::{ConnectReturnCode as Code, ConnectionError, StateError};
    if let Some(why) = explain(error) {
        return Break::Tls(why);
    }
    match error {
        ConnectionError::ConnectionRefused(Code::RefusedProtocolVersion) => {
            Break::Version("the broker does not speak MQTT 3.1.1".into())
        }
        ConnectionError::ConnectionRefused(
            code @ (Code::NotAuthorized | Code::BadUserNamePassword),
        ) => Break::Refused(not_let_in(&code)),
        ConnectionError::ConnectionRefused(code) => Break::Refused(format!("{code:?}")),
        ConnectionError::MqttState(StateError::Deserialization(rumqttc::mqttbytes::Error::Io(
            error,
        ))) if up => Break::Lost(error.to_string()),
        ConnectionError::MqttState(StateError::Deserialization(error)) if up => {
            Break::Poison(error.to_string())
        }
        ConnectionError::MqttState(error) if !up => Break::Version(error.to_string()),
        error => Break::Lost(error.to_string()),
    }
}
