//! Functions over slices for the CPU backends, without Burn and without I/O.
