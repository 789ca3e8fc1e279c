"""Unified models: the policy protocol, the mixture-of-transformers policy, autoencoders, tokenizer, checkpoints."""
