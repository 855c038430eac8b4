"""What a server spends beside its model, per token: ours against stock vLLM, with a model that costs nothing."""
