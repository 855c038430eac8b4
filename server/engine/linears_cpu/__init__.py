"""Linear layers on a CPU that does not compute in 16 bits: weights stay packed in memory.

`vllm_layers` puts them behind vLLM's layers, `packed_linear` chooses between a compiled loop (few rows) and torch
(many rows), `dense_kernel` and `integer_kernel` are the loops. `norms` are the layers between them.
"""
