//! libzonda: the C ABI.
