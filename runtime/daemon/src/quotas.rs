//! A service that knows its clients: what each may ask for and how much, and a line in the log for
//! each request.
//!
//! It is the outermost layer, so that limits hold over every entrance together. What an answer
//! costs is taken from its events as the reader takes them, which needs no thread of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use firmware_config::{ClientConfig, ClientLimits};
use protocol::{
    Allowance, Description, EmbedRequest, Embeddings, Encoded, Fault, FaultCode, ModelCard,
    ModerateRequest, Moderations, Remaining, Reply, Request, Service, TokenId,
};

use crate::buckets::{Bucket, Daily};
use crate::request_log::RequestLog;

/// Clients without an entry that are told apart; further ones share one account.
const UNLISTED_CLIENTS_MAX: usize = 1024;
/// When a client whose requests all run may ask again; nobody knows when one ends.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The account of everybody without a name, and of names beyond [`UNLISTED_CLIENTS_MAX`].
const NAMELESS: &str = "";

/// A monotonic clock.
type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

/// Limits around a service.
pub(crate) struct Quotas {
    inner: Arc<dyn Service>,
    accounts: Arc<Accounts>,
}

/// Every client's account.
struct Accounts {
    listed: HashMap<String, ClientLimits>,
    /// Of clients that are not listed; `None` does not limit them.
    others: Option<ClientLimits>,
    open: Mutex<HashMap<String, Account>>,
    clock: Clock,
}

/// What one client has left.
struct Account {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    daily: Option<Daily>,
    requests_max: Option<u32>,
    running: u32,
}

/// A client's place among the running; it gives it back and pays what is not paid yet.
struct Stay {
    accounts: Arc<Accounts>,
    account: Option<String>,
    /// Tokens that were taken from the account.
    paid: u64,
}

impl Quotas {
    /// Puts the clients of the configuration before `inner`.
    pub(crate) fn new(inner: Arc<dyn Service>, clients: Vec<ClientConfig>) -> Self {
        Self::with_clock(inner, clients, Box::new(Instant::now))
    }

    fn with_clock(inner: Arc<dyn Service>, clients: Vec<ClientConfig>, clock: Clock) -> Self {
        let mut listed: HashMap<String, ClientLimits> =
            clients.into_iter().map(|client| (client.name, client.limits)).collect();
        let others = listed.remove(ClientConfig::OTHERS);
        let accounts = Accounts { listed, others, open: Mutex::default(), clock };
        Self { inner, accounts: Arc::new(accounts) }
    }

    /// What needs no account: the model's name and the length of the answer.
    fn check(&self, request: &mut Request) -> Result<(), Fault> {
        let Some(limits) = self.accounts.limits(request.client.as_deref()) else {
            return Ok(());
        };
        if !limits.models.is_empty() && !self.may_name(&request.model, &limits.models) {
            return Err(other_model(limits));
        }
        if let Some(most) = limits.max_tokens {
            let asked = *request.limits.max_tokens.get_or_insert(most);
            if asked > most {
                let message = format!("max_tokens is {asked}; this client may ask for {most}");
                return Err(Fault::new(FaultCode::InvalidField, message).at("max_tokens"));
            }
        }
        Ok(())
    }

    fn may_name(&self, asked: &str, allowed: &[String]) -> bool {
        let is_allowed = |name: &str| allowed.iter().any(|allowed| allowed == name);
        if is_allowed(asked) {
            return true;
        }
        let cards = self.inner.describe().models;
        let answers =
            |card: &&ModelCard| card.id == asked || card.aliases.iter().any(|alias| alias == asked);
        let card = match asked {
            "" | "default" => cards.first(),
            _ => cards.iter().find(answers),
        };
        card.is_some_and(|card| is_allowed(&card.id))
    }

    fn submit_checked(&self, mut request: Request) -> Result<(Reply, Stay), Fault> {
        self.check(&mut request)?;
        let stay = self.accounts.enter(request.client.as_deref())?;
        match self.inner.submit(request) {
            Ok(reply) => Ok((reply, stay)),
            Err(fault) => {
                if matches!(fault.code, FaultCode::Busy | FaultCode::Unavailable) {
                    stay.refund();
                }
                Err(fault)
            }
        }
    }
}

impl Service for Quotas {
    fn submit(&self, request: Request) -> Result<Reply, Fault> {
        let mut log = RequestLog::new(&request);
        match self.submit_checked(request) {
            Ok((reply, mut stay)) => Ok(reply.watched(move |event| {
                log.see(event);
                stay.pay(log.tokens());
                if event.is_last() {
                    stay.end();
                }
            })),
            Err(fault) => {
                log.refused(&fault);
                Err(fault)
            }
        }
    }

    fn describe(&self) -> Description {
        self.inner.describe()
    }

    /// Counts as a request without tokens.
    fn encode(&self, mut request: Request) -> Result<Encoded, Fault> {
        self.check(&mut request)?;
        let _stay = self.accounts.enter(request.client.as_deref())?;
        self.inner.encode(request)
    }

    fn decode(&self, model: &str, tokens: &[TokenId]) -> Result<String, Fault> {
        self.inner.decode(model, tokens)
    }

    /// Counts as one request, with the tokens that were read.
    fn moderate(&self, request: ModerateRequest) -> Result<Moderations, Fault> {
        let client = request.client.clone();
        let limits = self.accounts.limits(client.as_deref());
        if let Some(limits) = limits.filter(|limits| !limits.models.is_empty())
            && !limits.models.contains(&request.model)
        {
            return Err(other_model(limits));
        }
        let mut stay = self.accounts.enter(client.as_deref())?;
        let moderations = self.inner.moderate(request)?;
        stay.pay(moderations.prompt_tokens.into());
        Ok(moderations)
    }

    /// Counts as one request, with the tokens that were read.
    fn embed(&self, request: EmbedRequest) -> Result<Embeddings, Fault> {
        let limits = self.accounts.limits(request.client.as_deref());
        if let Some(limits) = limits.filter(|limits| !limits.models.is_empty()) {
            let embedders = self.inner.describe().embedders;
            let asked = match request.model.as_str() {
                "" => embedders.first().map(|embedder| &embedder.name),
                _ => Some(&request.model),
            };
            if !asked.is_some_and(|asked| limits.models.contains(asked)) {
                return Err(other_model(limits));
            }
        }
        let mut stay = self.accounts.enter(request.client.as_deref())?;
        let embeddings = self.inner.embed(request)?;
        stay.pay(embeddings.prompt_tokens.into());
        Ok(embeddings)
    }

    fn admits(&self, client: Option<&str>, requests: u32, at_once: u32) -> Result<(), Fault> {
        let room = |_: &str, account: &mut Account, now| account.room(requests, at_once, now);
        self.accounts.with(client, room).unwrap_or(Ok(()))
    }

    fn allowance(&self, client: Option<&str>) -> Option<Allowance> {
        self.accounts.with(client, |_, account, now| account.allowance(now))
    }
}

impl Accounts {
    fn limits(&self, client: Option<&str>) -> Option<&ClientLimits> {
        client.and_then(|name| self.listed.get(name)).or(self.others.as_ref())
    }

    /// Whose account a client's requests go to.
    fn holder(&self, client: Option<&str>, open: &HashMap<String, Account>) -> String {
        let name = client.unwrap_or(NAMELESS);
        let has_place = self.listed.contains_key(name)
            || open.contains_key(name)
            || open.len() < self.listed.len() + UNLISTED_CLIENTS_MAX;
        (if has_place { name } else { NAMELESS }).to_owned()
    }

    /// Looks at the account of a client, with the name that it stands under; `None` for a client
    /// without limits.
    fn with<T>(
        &self,
        client: Option<&str>,
        look: impl FnOnce(&str, &mut Account, Instant) -> T,
    ) -> Option<T> {
        let limits = self.limits(client)?;
        let now = (self.clock)();
        let mut open = self.lock();
        if open.len() >= self.listed.len() + UNLISTED_CLIENTS_MAX {
            open.retain(|_, account| !account.is_at_rest(now));
        }
        let holder = self.holder(client, &open);
        let account = open.entry(holder.clone()).or_insert_with(|| Account::new(limits, now));
        Some(look(&holder, account, now))
    }

    /// Takes a place and a request from the account of a client.
    fn enter(self: &Arc<Self>, client: Option<&str>) -> Result<Stay, Fault> {
        let entered = self.with(client, |holder, account, now| {
            account.room(1, 1, now)?;
            account.running += 1;
            if let Some(requests) = &mut account.requests {
                requests.take(1, now);
            }
            Ok::<_, Fault>(holder.to_owned())
        });
        Ok(Stay { accounts: Arc::clone(self), account: entered.transpose()?, paid: 0 })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Account>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn new(limits: &ClientLimits, now: Instant) -> Self {
        Self {
            requests: limits.requests_per_minute.map(|limit| Bucket::new(limit, now)),
            tokens: limits.tokens_per_minute.map(|limit| Bucket::new(limit, now)),
            daily: limits.tokens_per_day.map(Daily::new),
            requests_max: limits.requests_max,
            running: 0,
        }
    }

    /// Whether so many requests may begin now, so many of them at the same time.
    fn room(&mut self, requests: u32, at_once: u32, now: Instant) -> Result<(), Fault> {
        let mut refusal: Option<(Duration, String)> = None;
        let mut refuse = |wait: Duration, limit: String| {
            if wait > Duration::ZERO && refusal.as_ref().is_none_or(|(longest, _)| wait > *longest)
            {
                refusal = Some((wait, limit));
            }
        };
        if let Some(most) = self.requests_max {
            if at_once > most {
                return Err(never(at_once, &format!("{most} at the same time")));
            }
            if self.running.saturating_add(at_once) > most {
                refuse(RETRY_AFTER, format!("{most} requests at the same time"));
            }
        }
        if let Some(bucket) = &mut self.requests {
            let limit = bucket.limit();
            let wait = bucket.wait(requests, now);
            let wait = wait.ok_or_else(|| never(requests, &format!("{limit} a minute")))?;
            refuse(wait, format!("{limit} requests a minute"));
        }
        if let Some(bucket) = &mut self.tokens {
            let wait = bucket.wait(1, now).unwrap_or_default();
            refuse(wait, format!("{} tokens a minute", bucket.limit()));
        }
        if let Some(daily) = &mut self.daily {
            refuse(daily.wait(now), format!("{} tokens in 24 hours", daily.limit()));
        }
        let Some((wait, limit)) = refusal else {
            return Ok(());
        };
        // Rounded up: who comes back a part of a millisecond early is refused again.
        let milliseconds = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let message = format!(
            "this client may have {limit}, and has had them: ask again in {milliseconds} ms"
        );
        Err(Fault::new(FaultCode::RateLimited, message).retry_after_ms(milliseconds))
    }

    fn allowance(&mut self, now: Instant) -> Allowance {
        let left = |bucket: &mut Bucket| Remaining {
            limit: bucket.limit(),
            remaining: bucket.remaining(now),
            reset: bucket.reset(now),
        };
        Allowance {
            requests: self.requests.as_mut().map(left),
            tokens: self.tokens.as_mut().map(left),
        }
    }

    fn pay(&mut self, tokens: u64, now: Instant) {
        if let Some(bucket) = &mut self.tokens {
            bucket.take(tokens, now);
        }
        if let Some(daily) = &mut self.daily {
            daily.take(tokens, now);
        }
    }

    /// Nothing is lost when it is forgotten.
    fn is_at_rest(&mut self, now: Instant) -> bool {
        let is_full = |bucket: &mut Option<Bucket>| {
            bucket.as_mut().is_none_or(|bucket| bucket.reset(now).is_zero())
        };
        self.running == 0
            && is_full(&mut self.requests)
            && is_full(&mut self.tokens)
            && self.daily.as_mut().is_none_or(|daily| daily.is_untouched(now))
    }
}

fn other_model(limits: &ClientLimits) -> Fault {
    let message = format!("this client may ask for {} alone", limits.models.join(", "));
    Fault::new(FaultCode::Forbidden, message).at("model")
}

fn never(requests: u32, limit: &str) -> Fault {
    let message = format!("these are {requests} requests, and this client may have {limit}");
    Fault::new(FaultCode::InvalidField, message)
}

impl Stay {
    /// Takes what has been added to `total` tokens since the last time.
    fn pay(&mut self, total: u64) {
        let more = total.saturating_sub(self.paid);
        if more > 0 {
            self.paid = total;
            self.settle(|account, now| account.pay(more, now));
        }
    }

    /// The place is free again.
    fn end(&mut self) {
        self.settle(|account, _| account.running = account.running.saturating_sub(1));
        self.account = None;
    }

    /// It was not let in behind: the request was none.
    fn refund(self) {
        self.settle(|account, now| {
            if let Some(requests) = &mut account.requests {
                requests.give_back(1, now);
            }
        });
    }

    fn settle(&self, change: impl FnOnce(&mut Account, Instant)) {
        if let Some(name) = &self.account {
            let now = (self.accounts.clock)();
            if let Some(account) = self.accounts.lock().get_mut(name) {
                change(account, now);
            }
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
#[path = "quotas_tests.rs"]
mod tests;
