"""vLLM's scheduler with tenants: the fair queue, KV budgets, LoRA slots, and the report of its counters."""
