//! The border's rules, kept by the exported functions over scripted rooms.

mod calls;
mod events;
mod misuse;
mod stage;
