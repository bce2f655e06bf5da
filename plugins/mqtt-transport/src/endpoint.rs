//! A small client of a broker on this box, for programs that are no node: it subscribes, publishes
//! and hears.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::TransportError;

use crate::address::Parcel;
use crate::link::{Dialect, HANDED_MAX, Link, LinkOptions, Message, RECEIVE_MAX, Signal};

const TRANSPORT: &str = "mqtt endpoint";
const OVER: &str = "the connection is over";
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// What the broker has to confirm the subscription.
const SUBSCRIBE_MAX: Duration = Duration::from_secs(10);
const PACKET_BYTES_MAX: u32 = 1 << 20;
/// What a goodbye may take.
const PART_MAX: Duration = Duration::from_secs(1);
/// Publications inside the client library: the rest of its room is for confirmations.
const PUBLISHED_MAX: usize = HANDED_MAX - RECEIVE_MAX as usize;
/// Publications that wait for the connection, and messages that wait for whoever reads them; a
/// message that finds no room is dropped, as the broker does with a slow client.
const WAITING_MAX: usize = 256;

/// One connection over MQTT 5 to a broker on loopback, on a thread of its own. Dropping it says goodbye.
#[derive(Debug)]
pub struct Endpoint {
    orders: Option<flume::Sender<Parcel>>,
    heard: flume::Receiver<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Connects and subscribes to `filters`.
    ///
    /// Threads: blocks until the broker has confirmed the subscription.
    /// Errors: an address that is not loopback, because nothing here is encrypted; what keeps it from
    /// subscribing; ten seconds.
    pub fn connect(
        broker: SocketAddr,
        client_id: &str,
        filters: &[&str],
    ) -> Result<Self, TransportError> {
        if !broker.ip().is_loopback() {
            return Err(TransportError::Configuration {
                transport: TRANSPORT,
                message: format!(
                    "{broker} is not loopback: it speaks to brokers on this box alone"
                ),
            });
        }
        let options = LinkOptions {
            host: broker.ip().to_string(),
            port: broker.port(),
            tls: None,
            client_id: client_id.to_owned(),
            credentials: None,
            keep_alive: KEEP_ALIVE,
            will: None,
            keeps_session: false,
            packet_bytes_max: PACKET_BYTES_MAX,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| broken(&error.to_string()))?;
        let (orders, taken) = flume::bounded(WAITING_MAX);
        let (told, heard) = flume::bounded(WAITING_MAX);
        let (ready_in, ready) = flume::bounded(1);
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let thread = std::thread::Builder::new()
            .name("zonda-endpoint".into())
            .spawn(move || {
                runtime.block_on(async {
                    let link = Link::open(&options, Dialect::V5, true);
                    let line = Line { link, handed: 0, told, ready: ready_in };
                    line.run(filters, &taken).await;
                });
            })
            .map_err(|error| broken(&error.to_string()))?;
        let ready = ready.recv_timeout(SUBSCRIBE_MAX);
        let endpoint = Self { orders: Some(orders), heard, thread: Some(thread) };
        match ready {
            Ok(Ok(())) => Ok(endpoint),
            Ok(Err(why)) => Err(broken(&why)),
            Err(_) => Err(broken("the broker did not confirm the subscription")),
        }
    }

    /// Hands a message in JSON to the connection, to be sent once at least.
    ///
    /// Errors: a connection that is over.
    /// Threads: blocks while too many wait.
    pub fn publish(&self, topic: &str, payload: impl Into<Bytes>) -> Result<(), TransportError> {
        let parcel = Parcel { retain: false, ..Parcel::retained(topic.into(), payload, true) };
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(parcel).is_ok());
        if sent { Ok(()) } else { Err(broken(OVER)) }
    }

    /// The next message, topic and payload; nothing where none comes until `deadline`.
    ///
    /// Errors: a connection that is over.
    pub fn receive(&self, deadline: Instant) -> Result<Option<(String, Bytes)>, TransportError> {
        match self.heard.recv_deadline(deadline) {
            Ok(message) => Ok(Some((message.topic, message.payload))),
            Err(flume::RecvTimeoutError::Timeout) => Ok(None),
            Err(flume::RecvTimeoutError::Disconnected) => Err(broken(OVER)),
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of an endpoint had ended in a panic");
        }
    }
}

fn broken(message: &str) -> TransportError {
    TransportError::Broken { transport: TRANSPORT, message: message.to_owned() }
}

/// The thread's side of an endpoint.
struct Line {
    link: Link,
    /// Messages, confirmations and subscriptions inside the client library.
    handed: usize,
    told: flume::Sender<Message>,
    ready: flume::Sender<Result<(), String>>,
}

impl Line {
    async fn run(mut self, filters: Vec<String>, orders: &flume::Receiver<Parcel>) {
        loop {
            let has_room = self.handed < PUBLISHED_MAX;
            let open = tokio::select! {
                signal = self.link.signal() => self.take(signal, &filters),
                order = orders.recv_async(), if has_room => match order {
                    Ok(parcel) => self.hand(self.link.publish(parcel)),
                    // Whoever held the endpoint has dropped it.
                    Err(_) => return self.part().await,
                },
            };
            if !open {
                return;
            }
        }
    }

    /// Whether the connection goes on.
    fn take(&mut self, signal: Signal, filters: &[String]) -> bool {
        match signal {
            Signal::Up(_) => self.hand(self.link.subscribe(filters.to_vec())),
            Signal::Subscribed { refused } => {
                let outcome = match refused.first() {
                    None => Ok(()),
                    Some(at) => Err(format!("the broker refuses to subscribe {}", filters[*at])),
                };
                let _told = self.ready.try_send(outcome);
                true
            }
            Signal::Message(message) => {
                let packet_id = message.packet_id;
                if let Err(flume::TrySendError::Full(lost)) = self.told.try_send(*message) {
                    tracing::warn!(topic = lost.topic, "nobody reads: a message was dropped");
                }
                packet_id.is_none_or(|packet_id| self.hand(self.link.confirm(packet_id)))
            }
            Signal::Unreadable(packet_id) => {
                packet_id.is_none_or(|packet_id| self.hand(self.link.confirm(packet_id)))
            }
            Signal::Sent(_) | Signal::WordSent => {
                self.handed = self.handed.saturating_sub(1);
                true
            }
            Signal::Acknowledged { .. } | Signal::Alive => true,
            Signal::Down(why) => {
                let _told = self.ready.try_send(Err(why.to_string()));
                false
            }
        }
    }

    fn hand(&mut self, taken: bool) -> bool {
        self.handed += 1;
        taken
    }

    /// Says goodbye behind what was handed over.
    async fn part(self) {
        let end = async { while !matches!(self.link.signal().await, Signal::Down(_)) {} };
        if self.link.disconnect() {
            // A broker that hangs is left without one.
            let _parted = tokio::time::timeout(PART_MAX, end).await;
        }
    }
}

#[cfg(all(test, feature = "embedded-broker"))]
mod tests {
    use super::*;
    use crate::EmbeddedBroker;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn what_one_publishes_the_other_hears() {
        let broker = EmbeddedBroker::start(([127, 0, 0, 1], 0).into()).expect("starts");
        let one = Endpoint::connect(broker.address(), "one", &["a/+"]).expect("connects");
        let other = Endpoint::connect(broker.address(), "other", &["b"]).expect("connects");
        for number in 0..300 {
            other.publish("a/x", format!("{number}")).expect("is sent");
            let (topic, payload) = one.receive(soon()).expect("goes on").expect("hears");
            assert_eq!((topic.as_str(), &payload[..]), ("a/x", format!("{number}").as_bytes()));
        }
        one.publish("b", "back").expect("is sent");
        assert_eq!(other.receive(soon()).expect("goes on").expect("hears").1, "back");
        let soon_over = Instant::now() + Duration::from_millis(50);
        assert!(other.receive(soon_over).expect("goes on").is_none());
        drop(broker);
        assert!(one.receive(soon()).is_err(), "the broker is gone");
    }

    #[test]
    fn a_broker_that_is_not_there_or_elsewhere_is_said() {
        let broker = EmbeddedBroker::start(([127, 0, 0, 1], 0).into()).expect("starts");
        let address = broker.address();
        drop(broker);
        let error = Endpoint::connect(address, "one", &["a"]).expect_err("cannot connect");
        assert!(error.to_string().contains("mqtt endpoint"), "{error}");
        let elsewhere = ([192, 0, 2, 1], 1883).into();
        let error = Endpoint::connect(elsewhere, "one", &["a"]).expect_err("is refused");
        assert!(error.to_string().contains("not loopback"), "{error}");
    }
}
