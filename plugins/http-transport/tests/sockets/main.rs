//! The server on real sockets of every kind: who is let in, HTTP's manners, TLS.

mod door;
mod entry;
mod manners;
#[path = "../parrot/mod.rs"]
mod parrot;
mod tls;
