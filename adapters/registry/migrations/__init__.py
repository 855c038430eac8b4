"""The schema's history; `adapters.registry.schema` runs it."""
