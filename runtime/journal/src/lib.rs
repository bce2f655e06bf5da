//! What must survive a crash: accepted requests and what was not yet delivered.
#![forbid(unsafe_code)]
