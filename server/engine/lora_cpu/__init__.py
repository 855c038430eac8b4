"""LoRA on the CPU for any mix of adapters in one batch: exact, isolated and close to the base's speed.

`batch` sorts the rows of a step by adapter, `weights` lays a layer's adapters out for fast products,
`products` multiplies, and `wrapper` is what vLLM's LoRA layers call.
"""
