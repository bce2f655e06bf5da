//! What this device is: typed, layered configuration and device profiles.
