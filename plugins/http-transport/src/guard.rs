//! Who may enter.
//!
//! With keys: whoever shows one. Without keys the socket is on loopback, and the danger is a
//! web page in a browser on this box: its requests carry a foreign `Origin`, or, when it has
//! rebound its own name to 127.0.0.1, a foreign `Host`. Both are refused.

use std::net::IpAddr;
use std::time::Instant;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use chat_json::Strictness;
use protocol::{Fault, FaultCode};
use sha2::{Digest, Sha256};

use crate::HttpConfig;
use crate::wrong_keys::WrongKeys;

/// Who asks, as the guard found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) name: Option<String>,
    pub(crate) strictness: Strictness,
}

/// The other end of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    /// `None` for a program on this box that opened the socket in the file system.
    pub(crate) address: Option<IpAddr>,
    /// The name that its certificate gives it, where it had to show one.
    pub(crate) certificate: Option<String>,
}

/// Knows the keys, and who tried wrong ones.
#[derive(Debug)]
pub(crate) struct Guard {
    keys: Vec<([u8; 32], Client)>,
    everybody: Client,
    wrong_keys: WrongKeys,
}

impl Guard {
    pub(crate) fn new(config: &HttpConfig) -> Self {
        let nameless = config.token_sha256.iter().map(|digest| {
            let shown: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
            let name = Some(format!("token-{shown}"));
            (*digest, Client { name, strictness: config.strictness })
        });
        let named = config.clients.iter().flat_map(|client| {
            let strictness = client.strictness.unwrap_or(config.strictness);
            let known = Client { name: Some(client.name.clone()), strictness };
            client.key_sha256.iter().map(move |digest| (*digest, known.clone()))
        });
        Self {
            keys: nameless.chain(named).collect(),
            everybody: Client { name: None, strictness: config.strictness },
            wrong_keys: WrongKeys::default(),
        }
    }

    /// A client by its name, empty for nobody's: for work that was let in before.
    pub(crate) fn client_named(&self, name: &str) -> Client {
        let is_named = |client: &&Client| client.name.as_deref() == Some(name);
        let known = self.keys.iter().map(|(_, client)| client).find(is_named);
        known.cloned().unwrap_or_else(|| Client {
            name: Some(name.to_owned()).filter(|name| !name.is_empty()),
            ..self.everybody.clone()
        })
    }

    /// Checks the headers of one request.
    ///
    /// Errors: `Unauthorized` without a right key, `Forbidden` for web pages where none is needed,
    /// `RateLimited` for who has shown too many wrong ones.
    pub(crate) fn admit(&self, headers: &HeaderMap, peer: &Peer) -> Result<Client, Fault> {
        if self.keys.is_empty() {
            if let Some(name) = &peer.certificate {
                return Ok(Client { name: Some(name.clone()), ..self.everybody.clone() });
            }
            // A browser cannot open a socket in the file system.
            let is_ours = peer.address.is_none() || is_local(headers);
            return if is_ours { Ok(self.everybody.clone()) } else { Err(foreign()) };
        }
        let key = bearer(headers).ok_or_else(unknown)?;
        let now = Instant::now();
        if let Some(wait) = self.wrong_keys.wait(peer.address, now) {
            let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) + 1;
            let message = format!(
                "too many wrong keys came from this address: try again in {} s",
                milliseconds.div_ceil(1000)
            );
            return Err(Fault::new(FaultCode::RateLimited, message).retry_after_ms(milliseconds));
        }
        let shown: [u8; 32] = Sha256::digest(key).into();
        // Every known key is compared to its end, so that time tells nothing about them.
        let found =
            self.keys.iter().fold(
                None,
                |found, (digest, client)| {
                    if same(digest, &shown) { Some(client) } else { found }
                },
            );
        found.cloned().ok_or_else(|| {
            tracing::warn!(address = ?peer.address, "a wrong key was shown");
            self.wrong_keys.note(peer.address, now);
            unknown()
        })
    }
}

fn unknown() -> Fault {
    Fault::new(
        FaultCode::Unauthorized,
        "a valid key is required: send the header 'Authorization: Bearer KEY'",
    )
}

fn foreign() -> Fault {
    Fault::new(
        FaultCode::Forbidden,
        "only programs on this machine may ask without a key: \
         use http://127.0.0.1 or http://localhost as the address",
    )
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0
}

fn is_local(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).is_none_or(|host| {
        Authority::try_from(host.as_bytes()).is_ok_and(|host| is_local_name(host.host()))
    });
    let origin = headers.get(header::ORIGIN).is_none_or(|origin| {
        Uri::try_from(origin.as_bytes()).is_ok_and(|uri| uri.host().is_some_and(is_local_name))
    });
    host && origin
}

fn is_local_name(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse().map_or_else(
        |_| host.eq_ignore_ascii_case("localhost"),
        |address: IpAddr| address.is_loopback(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HttpClient;
    use axum::http::HeaderValue;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn digest(key: &str) -> [u8; 32] {
        Sha256::digest(key).into()
    }

    fn guard(tokens: &[&str], clients: &[(&str, &[&str])]) -> Guard {
        let clients = clients.iter().map(|(name, keys)| HttpClient {
            name: (*name).to_owned(),
            key_sha256: keys.iter().map(|key| digest(key)).collect(),
            strictness: (*name == "strict").then_some(Strictness::MistralStrict),
        });
        Guard::new(&HttpConfig {
            token_sha256: tokens.iter().map(|token| digest(token)).collect(),
            clients: clients.collect(),
            ..HttpConfig::default()
        })
    }

    fn peer(last: u8) -> Peer {
        Peer { address: Some(IpAddr::from([192, 0, 2, last])), certificate: None }
    }

    fn code(guard: &Guard, headers: &HeaderMap) -> Option<FaultCode> {
        // Wrong keys of one case do not slow the next.
        let fresh = Guard {
            wrong_keys: WrongKeys::default(),
            keys: guard.keys.clone(),
            everybody: guard.everybody.clone(),
        };
        fresh.admit(headers, &peer(1)).err().map(|fault| fault.code)
    }

    fn shown(value: &'static str) -> HeaderMap {
        headers(&[(header::AUTHORIZATION, value)])
    }

    #[test]
    fn only_a_known_key_enters() {
        for guard in [guard(&["first", "second"], &[]), guard(&[], &[("a", &["first", "second"])])]
        {
            assert_eq!(code(&guard, &shown("Bearer second")), None);
            assert_eq!(code(&guard, &shown("bearer first")), None);
            for value in ["Bearer third", "Bearer ", "Bearer", "Basic first", "first", ""] {
                assert_eq!(code(&guard, &shown(value)), Some(FaultCode::Unauthorized), "{value}");
            }
            assert_eq!(code(&guard, &headers(&[])), Some(FaultCode::Unauthorized));
        }
    }

    #[test]
    fn a_key_names_its_client_without_showing_itself() {
        let guard = guard(&["first"], &[("plc7", &["old", "new"]), ("strict", &["third"])]);
        let name = |value| guard.admit(&shown(value), &peer(1)).unwrap().name.unwrap();
        assert_eq!(name("Bearer first"), "token-a7937b64");
        assert_eq!(name("Bearer old"), "plc7");
        assert_eq!(name("Bearer new"), "plc7");
        let strictness = |value| guard.admit(&shown(value), &peer(1)).unwrap().strictness;
        assert_eq!(strictness("Bearer old"), Strictness::Lenient);
        assert_eq!(strictness("Bearer third"), Strictness::MistralStrict);
    }

    #[test]
    fn after_five_wrong_keys_not_even_the_right_one_is_looked_at() {
        let guard = guard(&["first"], &[]);
        let code = |value, last| guard.admit(&shown(value), &peer(last)).map_err(|f| f.code);
        for _ in 0..5 {
            assert_eq!(code("Bearer wrong", 1), Err(FaultCode::Unauthorized));
            assert!(code("Bearer first", 2).is_ok());
        }
        assert_eq!(code("Bearer wrong", 1), Err(FaultCode::RateLimited));
        let fault = guard.admit(&shown("Bearer first"), &peer(1)).unwrap_err();
        assert!(fault.retry_after_ms.is_some_and(|wait| (50_000..=60_001).contains(&wait)));
        assert!(code("Bearer first", 2).is_ok(), "another address");
        let nothing = guard.admit(&headers(&[]), &peer(1)).unwrap_err();
        assert_eq!(nothing.code, FaultCode::Unauthorized, "no key is no guess");
    }

    #[test]
    fn web_pages_do_not_enter_without_a_key() {
        let open = guard(&[], &[]);
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "127.3.2.1"] {
            assert_eq!(code(&open, &headers(&[(header::HOST, host)])), None, "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:8080", "10.0.0.7", "localhost.evil"] {
            let headers = headers(&[(header::HOST, host)]);
            assert_eq!(code(&open, &headers), Some(FaultCode::Forbidden), "{host}");
            assert!(open.admit(&headers, &Peer::default()).is_ok(), "{host} by the socket");
        }
        let page = |origin| headers(&[(header::HOST, "localhost"), (header::ORIGIN, origin)]);
        assert_eq!(code(&open, &page("http://localhost:3000")), None);
        for origin in ["https://evil.example", "null"] {
            assert_eq!(code(&open, &page(origin)), Some(FaultCode::Forbidden), "{origin}");
        }
    }
}
