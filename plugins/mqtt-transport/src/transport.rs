//! The door of this crate.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use journal::{Journal, Limits};

use protocol::{Lookout, NewsFeed, Service, Stop, Transport, TransportError};

use crate::NAME;
use crate::archive::{Archive, Earlier};
use crate::config::{Checked, MqttConfig};
use crate::courier::Courier;
use crate::gauge::MqttGauge;
use crate::newsroom::Newsroom;

/// Threads for the text work of requests, which may block, and for name look-ups.
const BLOCKING_THREADS: usize = 4;

/// Serves prompts from one broker. An unreachable broker is waited for, never an error.
pub struct MqttTransport {
    config: MqttConfig,
    checked: Checked,
    gauge: MqttGauge,
    earlier: Option<Earlier>,
    newsroom: Newsroom,
}

/// Leaves out what the journal holds: it is people's words.
impl fmt::Debug for MqttTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MqttTransport").field("config", &self.config).finish_non_exhaustive()
    }
}

impl MqttTransport {
    /// A transport that is not connected yet; its journal, if it has one, is open from here on.
    ///
    /// Errors: what makes no sense in the configuration, with what to write instead; a journal
    /// that cannot be opened.
    pub fn new(config: MqttConfig) -> Result<Self, TransportError> {
        let checked = config.check()?;
        let open = |path: &PathBuf| {
            let (journal, recovered) = Journal::open(path, Limits::default()).map_err(|error| {
                let message = format!("{error}; mqtt.journal = \"off\" keeps none");
                TransportError::Configuration { transport: NAME, message }
            })?;
            Ok(Earlier { journal, recovered })
        };
        let earlier = config.journal.as_ref().map(open).transpose()?;
        let newsroom = Newsroom::default();
        Ok(Self { config, checked, gauge: MqttGauge::default(), earlier, newsroom })
    }

    /// Shows `lookout` what comes from the configuration's sources, and publishes what `feed` brings.
    #[must_use]
    pub fn with_news(mut self, lookout: Option<Arc<dyn Lookout>>, feed: Option<NewsFeed>) -> Self {
        self.newsroom = Newsroom::new(self.config.sources.clone(), lookout, feed);
        self
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
        let Self { config, checked, gauge, earlier, newsroom } = *self;
        let (journal, recovered) =
            earlier.map(|earlier| (earlier.journal, earlier.recovered)).unzip();
        let archive = Archive::new(journal);
        let courier = Courier::new(config, checked, gauge, service, archive).with_news(newsroom);
        runtime.block_on(courier.run(stop, recovered.unwrap_or_default()));
        // A submit that hangs in the service must not hold the program.
        runtime.shutdown_background();
        Ok(())
    }
}
