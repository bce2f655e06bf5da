//! Mistral's and OpenAI's HTTP API with server-sent events.
