//! The door of this crate.

use std::sync::Arc;

use protocol::{Service, Stop, Transport, TransportError};

use crate::NAME;
use crate::config::{Checked, MqttConfig};
use crate::courier::Courier;
use crate::gauge::MqttGauge;

/// Threads for the text work of requests, which may block, and for name look-ups.
const BLOCKING_THREADS: usize = 4;

/// Serves prompts from one broker. An unreachable broker is waited for, never an error.
#[derive(Debug)]
pub struct MqttTransport {
    config: MqttConfig,
    checked: Checked,
    gauge: MqttGauge,
}

impl MqttTransport {
    /// A transport that is not connected yet.
    ///
    /// Errors: what makes no sense in the configuration, with what to write instead.
    pub fn new(config: MqttConfig) -> Result<Self, TransportError> {
        let checked = config.check()?;
        Ok(Self { config, checked, gauge: MqttGauge::default() })
    }

    /// Its counters, which outlive the move into [`Transport::serve`].
    pub fn gauge(&self) -> MqttGauge {
        self.gauge.clone()
    }
}

impl Transport for MqttTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn serve(self: Box<Self>, service: Arc<dyn Service>, stop: Stop) -> Result<(), TransportError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("zonda-mqtt")
            .build()
            .map_err(|error| TransportError::Broken {
                transport: NAME,
                message: format!("cannot start its event loop: {error}"),
            })?;
        let Self { config, checked, gauge } = *self;
        runtime.block_on(Courier::new(config, checked, gauge, service).run(stop));
        // A submit that hangs in the service must not hold the program.
        runtime.shutdown_background();
        Ok(())
    }
}
