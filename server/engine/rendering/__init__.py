"""Chat templates and tokenizer: small prompts in vLLM's own thread, in turns; large ones in worker processes."""
