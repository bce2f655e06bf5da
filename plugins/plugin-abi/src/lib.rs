//! The C ABI for plugins of others and the process that hosts them.
