"""Memory planning: arithmetic on a model's config, without torch, vLLM or a network."""
