//! Prompts over MQTT 5 and 3.1.1.
