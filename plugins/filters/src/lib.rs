//! Built-in filters, one file each.
