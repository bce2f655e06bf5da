//! The room from outside: real files, forged files, and the encodings against their reference.

// Clippy knows tests by their attribute; what they share carries none.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod forge;
mod forged_gguf;
mod forged_safetensors;
mod hostile;
mod layouts;
mod prepared;
mod released;
mod unpack;
