//! The checks and the text work that a request goes through before it is queued, on the thread of
//! whoever sends it.

use std::sync::Arc;
use std::time::Instant;

use protocol::{
    Classify, Encoded, Fault, FaultCode, FinishReason, Input, ModelCard, Reply, Request, Task,
    TokenId, reply_pair,
};
use text::{Codec, TemplateVersion};

use crate::batch::Capacity;
use crate::draft::Drafter;
use crate::gauges::Place;
use crate::labels::Labels;
use crate::outbox::Outbox;
use crate::prefixes::Scope;
use crate::sampler::{Rules, Sampler};
use crate::sequence::Submission;

/// What a network is served as.
pub struct Serving {
    /// What clients may know of it. A context of 0 means all that the network can take.
    pub card: ModelCard,
    /// Its strings and tokens.
    pub codec: Codec,
    /// Further names under which it answers.
    pub aliases: Vec<Alias>,
}

/// Another name of the model, and the prompt encoding that clients of that name expect.
#[derive(Debug, Clone, PartialEq)]
pub struct Alias {
    /// The name.
    pub name: String,
    /// Its encoding; `None`, or one that the vocabulary lacks, means the model's own.
    pub version: Option<TemplateVersion>,
}

/// Who may reuse what was computed of whose prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PrefixSharing {
    /// Nobody.
    Off,
    /// Each client its own; those without a name are one.
    Client,
    /// Everybody: equal beginnings are computed once. How soon an answer begins then tells a client
    /// whether somebody sent the same beginning before.
    #[default]
    All,
}

/// Turns requests into submissions. Immutable.
pub(crate) struct Intake {
    card: ModelCard,
    model: Arc<str>,
    own: Voice,
    aliases: Vec<(String, Voice)>,
    vocabulary: u32,
    reply_events_max: u32,
    sharing: PrefixSharing,
}

/// A codec and what was found out about it.
#[derive(Clone)]
struct Voice {
    codec: Codec,
    ends: Arc<[TokenId]>,
    drawable_tokens: u32,
}

/// How long an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    answer_tokens_max: u32,
    limit_reason: FinishReason,
}

impl Intake {
    pub(crate) fn new(
        serving: Serving,
        capacity: &Capacity,
        reply_events_max: u32,
        sharing: PrefixSharing,
    ) -> Self {
        let Serving { mut card, codec, aliases } = serving;
        let context = context_tokens_max(capacity);
        card.context_tokens_max = match card.context_tokens_max {
            0 => context,
            stated => stated.min(context),
        };
        let own = Voice::new(codec, capacity.vocabulary);
        let mut voices: Vec<(String, Voice)> = Vec::new();
        for Alias { name, version } in aliases {
            let voice = own.for_alias(&name, version, capacity.vocabulary);
            voices.push((name, voice));
        }
        let plain =
            card.aliases.iter().filter(|name| voices.iter().all(|(known, _)| known != *name));
        let plain: Vec<_> = plain.map(|name| (name.clone(), own.clone())).collect();
        voices.extend(plain);
        card.aliases = voices.iter().map(|(name, _)| name.clone()).collect();
        Self {
            model: card.id.as_str().into(),
            card,
            own,
            aliases: voices,
            vocabulary: capacity.vocabulary,
            reply_events_max,
            sharing,
        }
    }

    pub(crate) fn card(&self) -> &ModelCard {
        &self.card
    }

    pub(crate) fn codec(&self) -> &Codec {
        &self.own.codec
    }

    /// Checks that this intake answers to the name.
    ///
    /// Errors: [`FaultCode::UnknownModel`], with the names that it knows.
    pub(crate) fn check_model(&self, name: &str) -> Result<(), Fault> {
        self.voice(name).map(|_| ())
    }

    /// Checks and encodes a request; `place` is its right to be in flight.
    pub(crate) fn accept(
        &self,
        request: Request,
        place: Place,
        now: Instant,
    ) -> Result<(Box<Submission>, Reply), Fault> {
        let voice = self.voice(&request.model)?;
        if request.limits.deadline.is_some_and(|deadline| deadline <= now) {
            let message = "the deadline had passed when the request came; allow more time";
            return Err(Fault::new(FaultCode::Deadline, message).at("deadline"));
        }
        let mut prompt = voice.codec.encode(&request)?;
        self.check_prompt(&prompt.tokens, &request.input)?;
        let labels = match &request.task {
            Task::Generate => None,
            Task::Classify(Classify { labels, .. }) => {
                let tokens = voice.codec.encode_labels(&prompt, labels)?;
                Some((labels.clone(), tokens))
            }
        };
        let room = match &labels {
            None => self.room(prompt.tokens.len(), &request)?,
            Some((_, tokens)) => self.label_room(prompt.tokens.len(), tokens)?,
        };
        let rules = Rules {
            default_temperature: self.card.default_temperature,
            drawable_tokens: voice.drawable_tokens,
            banned: prompt.banned.clone(),
            ends: Arc::clone(&voice.ends),
            answer_tokens_min: request.limits.min_tokens,
        };
        let sampler = Sampler::new(&request.sampling, rules, &prompt.tokens)?;
        let (sink, reply) = reply_pair(request.id.clone(), self.reply_events_max as usize);
        let submission = Submission {
            id: request.id,
            model: Arc::clone(&self.model),
            codec: voice.codec.clone(),
            decoder: voice.codec.decoder(&prompt),
            constraint: prompt.constraint.take(),
            drafter: Drafter::new(std::mem::take(&mut prompt.predicted)),
            prompt: prompt.tokens,
            explains_reuse: request.explains_reuse,
            labels: labels
                .map(|(names, tokens)| Labels::new(names, &tokens, voice.drawable_tokens)),
            sampler,
            answer_tokens_max: room.answer_tokens_max,
            limit_reason: room.limit_reason,
            deadline: request.limits.deadline,
            priority: request.limits.priority,
            scope: self.sharing.scope(request.client.as_deref()),
            client: request.client.map(Arc::from),
            queued_at: now,
            outbox: Outbox::new(sink, place),
        };
        Ok((Box::new(submission), reply))
    }

    /// The prompt of a request, as [`Self::accept`] makes it.
    pub(crate) fn encode(&self, request: &Request) -> Result<Encoded, Fault> {
        let voice = self.voice(&request.model)?;
        let tokens = voice.codec.encode(request)?.tokens;
        self.check_prompt(&tokens, &request.input)?;
        let spelled = tokens.iter().map(|token| voice.codec.tokenizer().spell(*token)).collect();
        Ok(Encoded { tokens, spelled, context_tokens_max: self.card.context_tokens_max })
    }

    /// The text of these tokens.
    pub(crate) fn decode(&self, model: &str, tokens: &[TokenId]) -> Result<String, Fault> {
        let voice = self.voice(model)?;
        let size = voice.codec.tokenizer().vocabulary_size();
        match tokens.iter().find(|token| token.0 as usize >= size) {
            None => Ok(voice.codec.tokenizer().decode(tokens)),
            Some(token) => {
                let message =
                    format!("token {} is not in the vocabulary of {size} tokens", token.0);
                Err(Fault::new(FaultCode::InvalidField, message).at("tokens"))
            }
        }
    }

    fn voice(&self, name: &str) -> Result<&Voice, Fault> {
        if name.is_empty() || name == "default" || name == self.card.id {
            return Ok(&self.own);
        }
        let alias = self.aliases.iter().find(|(alias, _)| alias == name);
        alias.map(|(_, voice)| voice).ok_or_else(|| {
            let mut names = vec!["default", self.card.id.as_str()];
            names.extend(self.aliases.iter().map(|(alias, _)| alias.as_str()));
            let shown: String = name.chars().take(64).collect();
            let message =
                format!("there is no model {shown:?} here; ask for one of: {}", names.join(", "));
            Fault::new(FaultCode::UnknownModel, message).at("model")
        })
    }

    fn check_prompt(&self, tokens: &[TokenId], input: &Input) -> Result<(), Fault> {
        if tokens.is_empty() {
            let message = "the prompt is empty: the model needs at least one token to continue";
            return Err(Fault::bad_request(message).at(field(input)));
        }
        match tokens.iter().find(|token| token.0 >= self.vocabulary) {
            None => Ok(()),
            Some(token) => {
                let message = format!(
                    "the prompt has token {}; the model's vocabulary ends at {}",
                    token.0,
                    self.vocabulary.saturating_sub(1)
                );
                Err(Fault::new(FaultCode::InvalidField, message).at(field(input)))
            }
        }
    }

    /// Room for the longest label: with the prompt it fits into the context, as an answer would.
    fn label_room(&self, prompt_tokens: usize, labels: &[Vec<TokenId>]) -> Result<Room, Fault> {
        let longest = labels.iter().map(Vec::len).max().unwrap_or(0);
        let context = self.card.context_tokens_max;
        if prompt_tokens.saturating_add(longest) <= context as usize {
            let answer_tokens_max = longest as u32;
            return Ok(Room { answer_tokens_max, limit_reason: FinishReason::Length });
        }
        let message = format!(
            "the prompt has {prompt_tokens} tokens and the longest label {longest}; together they \
             must fit into {context}: shorten the input or the label"
        );
        Err(Fault::new(FaultCode::ContextLength, message).at("input"))
    }

    fn room(&self, prompt_tokens: usize, request: &Request) -> Result<Room, Fault> {
        let context = self.card.context_tokens_max;
        let overflow = |message: String, param: &str| {
            Err(Fault::new(FaultCode::ContextLength, message).at(param))
        };
        let left = u32::try_from(prompt_tokens).ok().and_then(|prompt| context.checked_sub(prompt));
        match (left, request.limits.max_tokens) {
            (None, _) | (Some(0), None) => overflow(
                format!(
                    "the prompt has {prompt_tokens} tokens; prompt and answer together must fit \
                     into {context}: shorten the prompt"
                ),
                field(&request.input),
            ),
            (Some(left), None) => {
                Ok(Room { answer_tokens_max: left, limit_reason: FinishReason::ModelLength })
            }
            (Some(left), Some(asked)) if asked <= left => {
                Ok(Room { answer_tokens_max: asked, limit_reason: FinishReason::Length })
            }
            (Some(left), Some(asked)) => overflow(
                format!(
                    "the prompt has {prompt_tokens} tokens and the answer may have {asked}; \
                     together they must fit into {context}: ask for at most {left}"
                ),
                "max_tokens",
            ),
        }
    }
}

impl PrefixSharing {
    fn scope(self, client: Option<&str>) -> Option<Scope> {
        match self {
            Self::Off => None,
            Self::Client => Some(Scope(client.unwrap_or_default().into())),
            Self::All => Some(Scope("".into())),
        }
    }
}

impl Voice {
    fn new(codec: Codec, vocabulary: u32) -> Self {
        let known = u32::try_from(codec.tokenizer().vocabulary_size()).unwrap_or(u32::MAX);
        let drawable_tokens = known.min(vocabulary);
        let ends = (0..drawable_tokens).map(TokenId).filter(|token| codec.is_end(*token)).collect();
        Self { codec, ends, drawable_tokens }
    }

    fn for_alias(&self, name: &str, version: Option<TemplateVersion>, vocabulary: u32) -> Self {
        let Some(version) = version else {
            return self.clone();
        };
        match self.codec.with_version(version) {
            Ok(codec) => Self::new(codec, vocabulary),
            Err(error) => {
                tracing::warn!(alias = name, %error, "the alias uses the model's own encoding");
                self.clone()
            }
        }
    }
}

/// Tokens of the longest sequence that the network's pages can hold.
pub(crate) fn context_tokens_max(capacity: &Capacity) -> u32 {
    let cached = u64::from(capacity.pages) * u64::from(capacity.page_tokens);
    capacity.context_tokens_max.min(u32::try_from(cached).unwrap_or(u32::MAX))
}

fn field(input: &Input) -> &'static str {
    match input {
        Input::Chat(_) => "messages",
        Input::Text(_) | Input::Fill { .. } => "prompt",
        Input::Tokens(_) => "tokens",
    }
}
