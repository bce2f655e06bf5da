//! Tokens to logits: the one Mistral definition over Burn tensors.
