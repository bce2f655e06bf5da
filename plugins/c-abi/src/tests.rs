//! The border's rules, kept by the exported functions over scripted rooms.

mod calls;
mod events;
mod misuse;
#[cfg(unix)]
mod polled;
mod sessions;
mod stage;
mod tools;
