"""LoRA on the CPU for any mix of adapters in one batch: exact, isolated and nearly as fast as the base model.

`batch` sorts the rows of a step by adapter, `weights` stores a layer's adapters in the order that products need,
`products` and `fused_kernel` multiply, and vLLM's LoRA layers call `wrapper`.
"""
