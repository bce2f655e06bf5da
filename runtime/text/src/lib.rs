//! Strings to tokens and back: tokenizers, prompt templates, incremental decoding, tool calls.
