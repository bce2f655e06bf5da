//! The HTTP API without a model, to try clients on: `cargo run -p http-transport --example parrot`.
//! It repeats what it hears.

use std::sync::Arc;

use http_transport::{HttpConfig, HttpTransport};
use protocol::{Stop, Transport, TransportError};

#[path = "../tests/parrot/mod.rs"]
mod parrot;

fn main() -> Result<(), TransportError> {
    let transport = HttpTransport::bind(HttpConfig::default())?;
    eprintln!("the parrot listens at http://{}", transport.address());
    let (_running, stop) = Stop::pair();
    Box::new(transport).serve(Arc::new(parrot::Parrot::default()), stop)
}
