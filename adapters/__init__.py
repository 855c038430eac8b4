"""LoRA adapters on their way from a source to the engine, and their trainer. Imports neither the server nor vLLM.

`sources` fetches the files, `artifact` checks them, `store` keeps them, `registry` is the database, `residency` loads
them into the engine (through the protocol `residency.Loader`), and `lifecycle` combines these. `training` is the
trainer. `models` has the records, `tenant_settings` what can be set on a tenant, `names` the rules for names.
"""
