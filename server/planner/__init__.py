"""What fits into how much memory: arithmetic over a model's config, without torch, vLLM or a network."""
