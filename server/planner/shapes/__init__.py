"""The configs of the Qwen2.5 and Qwen3 dense families, one file per size (public facts of their config.json)."""
