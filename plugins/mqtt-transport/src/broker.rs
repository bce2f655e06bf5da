//! A broker inside the program, for boxes that have none.
//!
//! Loopback alone, MQTT 3.1.1 and 5 on one port, in memory alone: what must survive a restart or
//! leave the box belongs to a real broker.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use mqtt5::broker::config::StorageBackend;
use mqtt5::broker::{BrokerConfig, MqttBroker};
use protocol::TransportError;

const TRANSPORT: &str = "embedded broker";
const PACKET_BYTES_MAX: usize = 1 << 20;
const CLIENTS_MAX: usize = 256;
const SUBSCRIPTIONS_MAX: usize = 64;
const RETAINED_MAX: usize = 1024;
const QUEUED_MAX: usize = 100;
const QUEUED_BYTES_MAX: usize = 2 << 20;
const CHANNEL_MAX: usize = 128;
const INFLIGHT_MAX: u16 = 32;
const SESSION_EXPIRY: Duration = Duration::from_secs(3600);

/// A running broker; it ends when this is dropped.
#[derive(Debug)]
pub struct EmbeddedBroker {
    address: SocketAddr,
    stop: Option<flume::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Listens on `address`, on a thread of its own; port 0 takes a free one.
    ///
    /// Errors: an address that is not loopback, or cannot be listened on.
    pub fn start(address: SocketAddr) -> Result<Self, TransportError> {
        if !address.ip().is_loopback() {
            return Err(TransportError::Configuration {
                transport: TRANSPORT,
                message: format!(
                    "{address} is not loopback: the embedded broker has no access rules; \
                     run a real one for other boxes",
                ),
            });
        }
        let (ready_in, ready) = flume::bounded(1);
        let (stop, stopped) = flume::bounded::<()>(1);
        let thread = std::thread::Builder::new()
            .name("zonda-broker".into())
            .spawn(move || serve(address, &ready_in, &stopped))
            .map_err(|source| unusable(address, source))?;
        let address = ready
            .recv()
            .unwrap_or_else(|_| Err("its thread ended".into()))
            .map_err(|why| unusable(address, std::io::Error::other(why)))?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the embedded broker had ended in a panic");
        }
    }
}

fn unusable(address: SocketAddr, source: std::io::Error) -> TransportError {
    TransportError::Address { transport: TRANSPORT, address: address.to_string(), source }
}

type Ready = flume::Sender<Result<SocketAddr, String>>;

fn serve(address: SocketAddr, ready: &Ready, stopped: &flume::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _told = ready.send(Err(error.to_string()));
            return;
        }
    };
    runtime.block_on(async {
        let mut broker = match MqttBroker::with_config(settings(address)).await {
            Ok(broker) => broker,
            Err(error) => {
                let _told = ready.send(Err(error.to_string()));
                return;
            }
        };
        let Some(bound) = broker.local_addr() else {
            let _told = ready.send(Err("it listens nowhere".into()));
            return;
        };
        let _told = ready.send(Ok(bound));
        tokio::select! {
            result = broker.run() => if let Err(error) = result {
                tracing::error!(%error, "the embedded broker ended");
            },
            _ = stopped.recv_async() => {}
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

fn settings(address: SocketAddr) -> BrokerConfig {
    let mut settings = BrokerConfig::new()
        .with_bind_address(address)
        .with_max_clients(CLIENTS_MAX)
        .with_session_expiry(SESSION_EXPIRY)
        .with_max_packet_size(PACKET_BYTES_MAX)
        .with_max_subscriptions_per_client(SUBSCRIPTIONS_MAX)
        .with_max_retained_messages(RETAINED_MAX)
        .with_max_retained_message_size(PACKET_BYTES_MAX);
    settings.auth_config.allow_anonymous = true;
    // No client of ours uses aliases, and the client library gets them wrong.
    settings.topic_alias_maximum = 0;
    settings.client_channel_capacity = CHANNEL_MAX;
    settings.max_outbound_inflight = INFLIGHT_MAX;
    settings.server_receive_maximum = Some(INFLIGHT_MAX);
    settings.sys_topics_enabled = false;
    // The memory backend keeps sessions and their queues; nothing of it touches the disk.
    settings.storage_config.enable_persistence = true;
    settings.storage_config.backend = StorageBackend::Memory;
    settings.storage_config.max_queued_messages_per_client = QUEUED_MAX;
    settings.storage_config.max_queued_bytes_per_client = QUEUED_BYTES_MAX;
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_serves_loopback_alone() {
        let error = EmbeddedBroker::start(([0, 0, 0, 0], 0).into()).expect_err("must be refused");
        assert!(error.to_string().contains("not loopback"));
    }

    #[test]
    fn it_takes_a_free_port_and_gives_it_back() {
        let broker = EmbeddedBroker::start(([127, 0, 0, 1], 0).into()).expect("starts");
        let address = broker.address();
        assert_ne!(address.port(), 0);
        assert!(std::net::TcpStream::connect(address).is_ok());
        let taken = EmbeddedBroker::start(address).expect_err("the port is taken");
        assert!(taken.to_string().contains(&address.to_string()));
        drop(broker);
        assert!(EmbeddedBroker::start(address).is_ok(), "the port is free again");
    }
}
