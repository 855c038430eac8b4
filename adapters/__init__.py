"""Adapters from their source to the engine: registry, checks, store, residency; and their trainer.

It knows neither the server nor vLLM: `residency.Loader` is the engine as seen from here.
"""
