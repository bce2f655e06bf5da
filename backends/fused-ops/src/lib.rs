//! The seam between the model and the backends.
