//! The chat-completions JSON, Mistral's and OpenAI's forms: its checks, its mapping to requests and events.
