//! A service that makes vectors of texts by small networks beside the model.

use std::sync::Arc;

use firmware_config::{OnnxConfig, OnnxRole};
use onnx::Embedder;
use protocol::{
    Description, EmbedRequest, EmbedderCard, Embeddings, Encoded, Fault, FaultCode,
    ModerateRequest, Moderations, Reply, Request, Service, TokenId,
};

use crate::error::AssembleError;
use crate::networks::{Networks, refuse_taken_names};

/// Embedders beside a service.
pub(crate) struct Embedding {
    inner: Arc<dyn Service>,
    networks: Arc<Networks>,
}

impl Embedding {
    /// Puts the embedders of `networks` beside `inner`.
    ///
    /// Errors: an embedder that is named like a model or a classifier; `configs` says where.
    pub(crate) fn new(
        inner: Arc<dyn Service>,
        networks: Arc<Networks>,
        configs: &[OnnxConfig],
    ) -> Result<Self, AssembleError> {
        let ours =
            configs.iter().filter(|config| matches!(config.role, OnnxRole::Embedding { .. }));
        refuse_taken_names(ours, &inner.describe())?;
        Ok(Self { inner, networks })
    }

    fn named(&self, model: &str) -> Result<&(String, Arc<Embedder>), Fault> {
        let embedders = &self.networks.embedders;
        let found = match model {
            "" => embedders.first(),
            name => embedders.iter().find(|(known, _)| known == name),
        };
        found.ok_or_else(|| {
            let message = "no such embedder; /v1/models lists them";
            Fault::new(FaultCode::UnknownModel, message).at("model")
        })
    }
}

impl Service for Embedding {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        self.inner.submit(request)
    }

    fn describe(&self) -> Description {
        let card = |(name, embedder): &(String, Arc<Embedder>)| EmbedderCard {
            name: name.clone(),
            dimensions: u32::try_from(embedder.dimensions()).unwrap_or(u32::MAX),
            context_tokens_max: embedder.tokens_max(),
            created: embedder.created(),
        };
        let embedders = self.networks.embedders.iter().map(card).collect();
        Description { embedders, ..self.inner.describe() }
    }

    fn encode(&self, request: Request) -> Result<Encoded, Fault> {
        self.inner.encode(request)
    }

    fn decode(&self, model: &str, tokens: &[TokenId]) -> Result<String, Fault> {
        self.inner.decode(model, tokens)
    }

    fn moderate(&self, request: ModerateRequest) -> Result<Moderations, Fault> {
        self.inner.moderate(request)
    }

    fn embed(&self, request: EmbedRequest) -> Result<Embeddings, Fault> {
        let (name, embedder) = self.named(&request.model)?;
        let dimensions = embedder.dimensions();
        let wanted = request.dimensions.map_or(dimensions, |wanted| wanted as usize);
        if wanted > dimensions || wanted == 0 {
            let message = format!("must be from 1 to {dimensions} for {name}");
            return Err(Fault::new(FaultCode::InvalidField, message).at("dimensions"));
        }
        if request.texts.len() > EmbedRequest::TEXTS_MAX {
            let message = format!("at most {} texts are taken", EmbedRequest::TEXTS_MAX);
            return Err(Fault::new(FaultCode::InvalidField, message).at("input"));
        }
        let worker = Arc::clone(embedder);
        let embedded =
            self.networks
                .each(request.deadline, request.texts, move |text: String| worker.embed(&text))?;
        let mut answer = Embeddings { model: name.clone(), ..Embeddings::default() };
        for mut one in embedded {
            if wanted < dimensions {
                one.shorten(wanted);
            }
            answer.prompt_tokens = answer.prompt_tokens.saturating_add(one.tokens);
            answer.truncated_texts += u32::from(one.is_truncated);
            answer.vectors.push(one.vector);
        }
        Ok(answer)
    }
}
