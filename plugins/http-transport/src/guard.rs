//! Who may enter.
//!
//! With tokens: whoever shows one. Without tokens the socket is on loopback, and the danger is a
//! web page in a browser on this box: its requests carry a foreign `Origin`, or, when it has
//! rebound its own name to 127.0.0.1, a foreign `Host`. Both are refused.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use protocol::{Fault, FaultCode};
use sha2::{Digest, Sha256};

/// Checks the headers of one request. Says who asks, as far as a token tells.
pub(crate) fn admit(
    headers: &HeaderMap,
    token_sha256: &[[u8; 32]],
) -> Result<Option<String>, Fault> {
    if token_sha256.is_empty() {
        return if is_local(headers) { Ok(None) } else { Err(foreign()) };
    }
    let refused = || {
        Fault::new(
            FaultCode::Unauthorized,
            "a valid token is required: send the header 'Authorization: Bearer TOKEN'",
        )
    };
    let shown: [u8; 32] = Sha256::digest(bearer(headers).ok_or_else(refused)?).into();
    // Every known token is compared to its end, so that time tells nothing about them.
    let known = token_sha256.iter().fold(false, |known, token| known | same(token, &shown));
    if !known {
        return Err(refused());
    }
    let name: String = shown[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(format!("token-{name}")))
}

fn foreign() -> Fault {
    Fault::new(
        FaultCode::Forbidden,
        "only programs on this machine may ask without a token: \
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
    use axum::http::HeaderValue;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn code(headers: &HeaderMap, tokens: &[[u8; 32]]) -> Option<FaultCode> {
        admit(headers, tokens).err().map(|fault| fault.code)
    }

    #[test]
    fn only_a_known_token_enters() {
        let tokens = [Sha256::digest("first").into(), Sha256::digest("second").into()];
        let shown = |value| headers(&[(header::AUTHORIZATION, value)]);
        assert_eq!(code(&shown("Bearer second"), &tokens), None);
        assert_eq!(code(&shown("bearer first"), &tokens), None);
        for value in ["Bearer third", "Bearer ", "Bearer", "Basic first", "first", ""] {
            assert_eq!(code(&shown(value), &tokens), Some(FaultCode::Unauthorized), "{value}");
        }
        assert_eq!(code(&headers(&[]), &tokens), Some(FaultCode::Unauthorized));
    }

    #[test]
    fn a_token_names_its_client_without_showing_itself() {
        let tokens = [Sha256::digest("first").into()];
        let client = admit(&headers(&[(header::AUTHORIZATION, "Bearer first")]), &tokens).unwrap();
        assert_eq!(client.as_deref(), Some("token-a7937b64"));
    }

    #[test]
    fn web_pages_do_not_enter_without_a_token() {
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "127.3.2.1"] {
            assert_eq!(code(&headers(&[(header::HOST, host)]), &[]), None, "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:8080", "10.0.0.7", "localhost.evil"] {
            let found = code(&headers(&[(header::HOST, host)]), &[]);
            assert_eq!(found, Some(FaultCode::Forbidden), "{host}");
        }
        let page = |origin| headers(&[(header::HOST, "localhost"), (header::ORIGIN, origin)]);
        assert_eq!(code(&page("http://localhost:3000"), &[]), None);
        for origin in ["https://evil.example", "null"] {
            assert_eq!(code(&page(origin), &[]), Some(FaultCode::Forbidden), "{origin}");
        }
    }
}
