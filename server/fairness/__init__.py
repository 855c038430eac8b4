"""Fair sharing of the engine: which request runs next, within which KV budget; no vLLM, torch or asyncio.

`shares` has shares and capacity, `arbiter` the decisions of a scheduler step; the other files are its parts.
"""
