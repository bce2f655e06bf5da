//! What becomes of a model whose device is lost: it is loaded again, on the same device where that
//! works, otherwise on the CPU, if the profile wants that.

use std::sync::Arc;

use engine::{Batch, Capacity, Forward, ForwardError, Logits, PageBytes};
use firmware_config::{LostDevice, Profile};
use model::{BackendChoice, CacheLimits, Network, Placement};
use weights::Archive;

/// A network, and how to make it once more.
pub(crate) struct Reviving {
    /// `None` while, and after, it could not be made.
    network: Option<Network>,
    capacity: Capacity,
    archive: Arc<dyn Archive>,
    placement: Placement,
    cache: CacheLimits,
    policy: LostDevice,
}

impl Reviving {
    pub(crate) fn new(
        network: Network,
        archive: Arc<dyn Archive>,
        placement: Placement,
        cache: CacheLimits,
        profile: &Profile,
    ) -> Self {
        let capacity = network.capacity();
        let policy = profile.device.on_lost;
        Self { network: Some(network), capacity, archive, placement, cache, policy }
    }

    fn network(&mut self) -> Result<&mut Network, ForwardError> {
        let reason = "it was not brought back".into();
        self.network.as_mut().ok_or(ForwardError::DeviceLost { reason })
    }

    fn load(&self, placement: &Placement) -> Result<Network, String> {
        Network::load(self.archive.as_ref(), placement, self.cache, &mut |_| {})
            .map_err(|error| error.to_string())
    }

    fn again(&self) -> Result<(Network, Placement), String> {
        let choice = self.placement.first().choice;
        // Opening it multiplies something, which a lost device does not do.
        let same = model::open_device(choice).map_err(|error| error.to_string());
        let same = same.and_then(|_| Ok((self.load(&self.placement)?, self.placement.clone())));
        match (same, self.policy) {
            (Ok(found), _) => Ok(found),
            (Err(error), LostDevice::Cpu) if !self.placement.first().is_cpu() => {
                tracing::warn!(%error, "the GPU does not come back: the model moves to the CPU");
                let cpu = model::open_device(BackendChoice::Flex);
                let placement = Placement::whole(cpu.map_err(|error| error.to_string())?);
                Ok((self.load(&placement)?, placement))
            }
            (Err(error), _) => Err(error),
        }
    }
}

impl Forward for Reviving {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ForwardError> {
        self.network()?.forward(batch)
    }

    fn revive(&mut self) -> Result<(), ForwardError> {
        // First, because its memory is what the next one needs.
        self.network = None;
        let (network, placement) =
            self.again().map_err(|reason| ForwardError::DeviceLost { reason })?;
        tracing::info!(device = %placement.describe(self.archive.hyper().layers), "the model is back");
        (self.network, self.placement) = (Some(network), placement);
        Ok(())
    }

    fn pages(&mut self) -> Option<&mut dyn PageBytes> {
        self.network.as_mut()?.pages()
    }
}

#[cfg(test)]
mod tests {
    use engine::{Row, RowLogits, Span, Want};
    use firmware_config::{Loaded, Sources};
    use protocol::TokenId;

    use super::*;

    fn step(network: &mut Reviving) -> Vec<f32> {
        let span = Span { query_start: 0, query_tokens: 2, context_tokens: 2, first_page: 0 };
        let batch = Batch {
            tokens: vec![TokenId(1), TokenId(5)],
            positions: vec![0, 1],
            slots: vec![0, 1],
            pages: vec![0],
            spans: vec![span],
            rows: vec![Row { token: 1, want: Want::Logits }],
        };
        match network.forward(&batch).unwrap().rows.remove(0) {
            RowLogits::All(logits) => logits,
            _ => unreachable!("logits were asked for"),
        }
    }

    #[test]
    fn a_network_that_is_made_once_more_says_the_same() {
        let Loaded { profile, .. } = Profile::load(&Sources::system()).unwrap();
        let files = crate::model_files::ModelFiles::Embedded;
        let mut network =
            crate::assemble::open_model(&profile, &files, &mut |_| {}).unwrap().network;
        let before = step(&mut network);
        network.revive().unwrap();
        assert_eq!(step(&mut network), before);
    }
}
