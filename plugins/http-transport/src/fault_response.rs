//! Faults as HTTP responses.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chat_json::fault_body;
use protocol::{Fault, FaultCode};
use serde_json::{Value, json};

/// A refused request: its status, its JSON body, and when to come back.
pub(crate) fn refuse(fault: &Fault) -> Response {
    let mut headers = HeaderMap::new();
    if let Some(milliseconds) = fault.retry_after_ms {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(milliseconds.div_ceil(1000)));
        headers.insert("retry-after-ms", HeaderValue::from(milliseconds));
    }
    match fault.code {
        FaultCode::Unauthorized => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // What is left of the body would be read as the next request.
        FaultCode::TooLarge => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    let status =
        StatusCode::from_u16(fault.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, headers, json_response(fault_body(fault))).into_response()
}

/// The path exists, the method does not.
pub(crate) fn refuse_method() -> Response {
    let mut body = fault_body(&Fault::bad_request("this path does not have this method"));
    body["code"] = json!("method_not_allowed");
    body["error"]["code"] = json!("method_not_allowed");
    body["raw_status_code"] = json!(405);
    (StatusCode::METHOD_NOT_ALLOWED, json_response(body)).into_response()
}

pub(crate) fn json_response(body: Value) -> Response {
    json_text(body.to_string())
}

pub(crate) fn json_text(body: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
