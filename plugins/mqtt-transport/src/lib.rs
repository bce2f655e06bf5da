//! Prompts over MQTT 5 and 3.1.1.
//!
//! A request is one message on a topic of this node; its answer is a few messages on a topic of
//! the client. This crate hides the topics, the JSON around the chat, the delivery rules and the
//! client library behind [`MqttTransport`].
//!
//! One task, the courier, owns the connection, the outbox and the ledger of requests, so nothing
//! here is locked. Each answer is a task that turns events into parcels for the courier. Nothing
//! but `link` names the client library, whose faults the courier works around: a connection is
//! never reused, and what must arrive is kept in our own outbox until the broker has confirmed it.
//!
//! A request is written into the journal before it is confirmed to the broker, and its final before
//! it is published; a restart goes on with both. Without a journal they live in memory alone, and a
//! client that hears nothing after a crash sends the same id again.
#![forbid(unsafe_code)]

mod address;
mod answer;
mod archive;
#[cfg(feature = "embedded-broker")]
mod broker;
mod choice;
mod compact;
mod config;
mod courier;
mod desk;
mod endpoint;
mod gauge;
mod home;
mod ledger;
mod link;
mod newsroom;
mod onward;
mod outbox;
mod pool;
mod presence;
mod rules;
mod tls;
mod topics;
mod transport;
mod vectors;
mod vitals;
mod watch;

#[cfg(feature = "embedded-broker")]
pub use broker::EmbeddedBroker;
pub use config::{MqttConfig, MqttVersion};
pub use endpoint::Endpoint;
pub use gauge::{MqttGauge, MqttTally};
pub use tls::TlsFiles;
pub use transport::MqttTransport;

/// The transport's name in configuration, errors and logs.
pub(crate) const NAME: &str = "mqtt";
