"""The schema's history; `adapters.registry.schema.migration` runs it."""
